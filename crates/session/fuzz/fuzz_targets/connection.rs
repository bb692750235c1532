//! A whole conversation: bytes of the client through the decoder, and in any order the node's answers, messages for the client, time that
//! passes and orders to close. Nothing panics, what is to be sent can be encoded, no more is open than the limits say, and nothing comes
//! after the close.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use magpie_codec::{Decoder, Message, QoS, ReasonCode, TopicName, encode};
use magpie_session::{
    Answer, Connection, Delivery, Eviction, Limits, Output, Session, Ticket, Token,
};
use smallvec::SmallVec;

const RECEIVE_MAXIMUM: u16 = 4;
const INFLIGHT_MAX: u16 = 3;

fuzz_target!(|script: &[u8]| {
    let mut talk = Talk::new();
    let mut script = Script(script);
    talk.begin(script.number());
    while let Some(step) = script.byte() {
        talk.step(step, &mut script);
    }
});

/// What is left of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.number()).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}

enum Question {
    Authenticate,
    Attach { clean_start: bool },
    Publish,
    Release,
    Bind,
    Received,
    Subscribe(usize),
    Unsubscribe(usize),
}

struct Talk {
    connection: Connection,
    decoder: Decoder,
    unread: BytesMut,
    now: Instant,
    open: Vec<(Ticket, Question)>,
    deliveries: u64,
    /// Deliveries of QoS 1 and 2 that are not done.
    undelivered: BTreeSet<u64>,
    /// What a connection before this one left.
    kept: Option<Box<Session>>,
    is_closed: bool,
}

impl Talk {
    fn new() -> Self {
        let limits = Limits {
            receive_maximum: RECEIVE_MAXIMUM,
            inflight_max: INFLIGHT_MAX,
            session_expiry_s_max: 100,
            keep_alive_s_max: 50,
            topic_aliases_in_max: 3,
            topic_aliases_out_max: 2,
            subscriptions_max: 5,
            filters_per_packet_max: 4,
            subscribes_pending_max: 2,
            topic_levels_max: 8,
            retain_available: true,
            ..Limits::default()
        };
        let decoder_limits = magpie_codec::Limits {
            packet_bytes_max: 4096,
            connect_bytes_max: 2048,
            topic_levels_max: 8,
            user_properties_max: 4,
            filters_max: 8,
        };
        let now = Instant::now();
        Self {
            connection: Connection::new(Arc::new(limits), 7, now),
            decoder: Decoder::server(decoder_limits),
            unread: BytesMut::new(),
            now,
            open: Vec::new(),
            deliveries: 0,
            undelivered: BTreeSet::new(),
            kept: None,
            is_closed: false,
        }
    }

    /// Most conversations begin with a CONNECT that is let in, so that not all of the fuzzer's time goes into finding one.
    fn begin(&mut self, how: u8) {
        let connect: &[u8] = match how % 4 {
            0 => return,
            1 => b"\x10\x0d\0\x04MQTT\x04\x00\0\x3c\0\x01c",
            2 => b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c",
            // Session Expiry Interval, Receive Maximum, Topic Alias Maximum.
            _ => b"\x10\x19\0\x04MQTT\x05\x00\0\x3c\x0b\x11\0\0\0\x50\x21\0\x02\x22\0\x02\0\x01c",
        };
        self.unread.extend_from_slice(connect);
        self.read();
        // Authenticate, Attach.
        for _ in 0..2 {
            self.answer(&mut Script(&[0, 7]));
        }
        assert!(self.connection.is_connected());
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 16 {
            0..=4 => self.unread.extend_from_slice(script.bytes()),
            // The head of a packet whose length is right, so that bodies are found sooner.
            5..=7 => {
                let (head, body) = (script.number(), script.bytes());
                self.unread.extend_from_slice(&[head]);
                if body.len() < 128 {
                    self.unread.extend_from_slice(&[body.len() as u8]);
                } else {
                    self.unread.extend_from_slice(&[body.len() as u8 | 0x80, 1]);
                }
                self.unread.extend_from_slice(body);
            }
            8..=10 => self.answer(script),
            11 | 12 => self.deliver(script),
            13 => self.now += Duration::from_millis(u64::from(script.number()) * 100),
            14 => self
                .connection
                .set_reading_paused(script.number() % 2 == 0, self.now),
            _ => self.order(script.number()),
        }
        self.read();
        if self
            .connection
            .poll_timeout()
            .is_some_and(|at| at <= self.now)
        {
            self.connection.handle_timeout(self.now);
            self.drain();
        }
    }

    fn read(&mut self) {
        while self.connection.wants_packets() {
            match self.decoder.decode(&mut self.unread) {
                Ok(Some(packet)) => self.connection.handle_packet(packet, self.now),
                Ok(None) => break,
                Err(error) => self.connection.handle_decode_error(error, self.now),
            }
            self.drain();
        }
        self.drain();
    }

    fn answer(&mut self, script: &mut Script<'_>) {
        let (which, outcome) = (usize::from(script.number()), script.number());
        if self.open.is_empty() {
            return;
        }
        let (ticket, question) = self.open.remove(which % self.open.len());
        let is_fine = outcome % 8 > 0;
        let codes = |count: usize| {
            let code = if is_fine {
                ReasonCode::Success
            } else {
                ReasonCode::NotAuthorized
            };
            vec![code; count]
        };
        let answer = match question {
            Question::Authenticate if outcome % 8 == 1 => {
                Answer::Challenge(Some(Bytes::from_static(b"prove it")))
            }
            Question::Authenticate if is_fine => Answer::Authenticated(Ok(None)),
            Question::Authenticate => Answer::Authenticated(Err(ReasonCode::BadUserNameOrPassword)),
            Question::Attach { clean_start } if is_fine => {
                let session = self.kept.take().filter(|_| !clean_start);
                let resumed = session.iter().flat_map(|session| session.inflight());
                self.undelivered = resumed.map(|entry| entry.token.position).collect();
                Answer::Attached { epoch: 1, session }
            }
            Question::Attach { .. } => Answer::AttachRefused(ReasonCode::ServerBusy),
            Question::Publish if is_fine => Answer::Published(Ok(ReasonCode::Success)),
            Question::Publish if outcome < 128 => Answer::Published(Err(ReasonCode::QuotaExceeded)),
            Question::Publish => Answer::PublishUnknown,
            Question::Release => Answer::Released,
            Question::Bind => Answer::Bound,
            Question::Received => Answer::ReceivedStored,
            Question::Subscribe(count) => Answer::Subscribed(codes(count)),
            Question::Unsubscribe(count) => Answer::Unsubscribed(codes(count)),
        };
        self.connection.handle_answer(ticket, answer, self.now);
        self.drain();
    }

    fn deliver(&mut self, script: &mut Script<'_>) {
        let how = script.number();
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(how % 3)];
        if !self.connection.can_accept(qos) {
            return;
        }
        if qos > QoS::AtMostOnce {
            self.deliveries += 1;
            self.undelivered.insert(self.deliveries);
            assert!(
                self.undelivered.len() <= usize::from(INFLIGHT_MAX) + 1,
                "the window is passed"
            );
        }
        let topic = if how & 64 == 0 { "a/b" } else { "a/c" };
        let payload = vec![0; usize::from(how) * 8];
        let message = Message {
            topic: TopicName::from_static(topic),
            payload: Bytes::from(payload),
            properties: None,
        };
        let delivery = Delivery {
            message: Arc::new(message),
            qos,
            retain: how & 128 != 0,
            subscription_ids: SmallVec::from_iter((how & 32 != 0).then_some(u32::from(how))),
            token: Token {
                partition: 0,
                position: self.deliveries,
            },
            expires_at: (how & 16 != 0).then(|| self.now + Duration::from_secs(1)),
        };
        self.connection.handle_delivery(delivery, self.now);
        self.drain();
    }

    fn order(&mut self, which: u8) {
        match which % 8 {
            0 => self.connection.handle_close(Eviction::TakenOver, self.now),
            1 => self
                .connection
                .handle_close(Eviction::QuotaExceeded, self.now),
            2 => self.connection.handle_disconnected(self.now),
            // The client comes back on another connection.
            3 | 4 if self.is_closed => {
                let before = std::mem::replace(self, Self::new());
                self.deliveries = before.deliveries;
                self.kept = before.connection.into_session().or(before.kept);
                self.begin(which / 8);
            }
            _ => {}
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.connection.poll_output() {
            assert!(!self.is_closed, "after the close: {output:?}");
            let asked = match output {
                Output::Send(packet) => {
                    encode(
                        self.connection.version(),
                        &packet,
                        None,
                        &mut BytesMut::new(),
                    )
                    .expect("what is sent can be encoded");
                    continue;
                }
                Output::Delivered { token, .. } => {
                    let is_first = self.undelivered.remove(&token.position);
                    assert!(is_first, "done twice, or what was never handed in");
                    continue;
                }
                Output::Close { .. } => {
                    self.is_closed = true;
                    continue;
                }
                Output::Authenticate { ticket, .. } | Output::AuthenticateOn { ticket, .. } => {
                    (ticket, Question::Authenticate)
                }
                Output::Attach { ticket, attach } => {
                    let clean_start = attach.clean_start;
                    (ticket, Question::Attach { clean_start })
                }
                Output::Publish {
                    ticket: Some(ticket),
                    ..
                } => (ticket, Question::Publish),
                Output::Release { ticket, .. } => (ticket, Question::Release),
                Output::Bind { ticket, .. } => (ticket, Question::Bind),
                Output::Received { ticket, .. } => (ticket, Question::Received),
                Output::Subscribe {
                    ticket,
                    subscriptions,
                } => (ticket, Question::Subscribe(subscriptions.len())),
                Output::Unsubscribe { ticket, filters } => {
                    (ticket, Question::Unsubscribe(filters.len()))
                }
                Output::Publish { ticket: None, .. } | Output::Deliver { .. } | Output::Note(_) => {
                    continue;
                }
            };
            assert!(
                self.open.iter().all(|(ticket, _)| *ticket != asked.0),
                "a ticket twice"
            );
            self.open.push(asked);
            let publishes = self
                .open
                .iter()
                .filter(|(_, question)| matches!(question, Question::Publish));
            assert!(
                publishes.count() <= usize::from(RECEIVE_MAXIMUM) + 1,
                "more publishes are open than Receive Maximum"
            );
        }
    }
}
