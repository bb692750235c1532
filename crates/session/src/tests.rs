//! A [`Connection`] driven by hand: packets and answers in, outputs compared. Time is a number of milliseconds.

#![expect(clippy::unwrap_used, reason = "tests")]

mod auth;
mod close;
mod connect;
mod deliver;
mod handshake;
mod publish;
mod random;
mod random_resume;
mod resume;
mod subscribe;
mod timeouts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_codec::{
    Ack, ConnAck, ConnAckProperties, Connect, ConnectProperties, Message, Packet, PacketId,
    ProtocolVersion, Publish, QoS, ReasonCode, Text, TopicName,
};
use smallvec::SmallVec;

use crate::{Answer, CloseCause, Connection, Delivery, Limits, Output, Session, Ticket, Token};

/// An idle connection is small, and outputs move by value.
#[test]
fn sizes_are_bounded() {
    assert!(size_of::<Output>() <= 120, "{}", size_of::<Output>());
    assert!(
        size_of::<Connection>() <= 192,
        "{}",
        size_of::<Connection>()
    );
    let established = size_of::<crate::established::Established>();
    assert!(established <= 768, "{established}");
}

/// One connection and its clock.
pub(crate) struct Driver {
    pub(crate) connection: Connection,
    start: Instant,
    pub(crate) now_ms: u64,
}

impl Driver {
    pub(crate) fn new(limits: Limits) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant to begin with")]
        let start = Instant::now();
        Self {
            connection: Connection::new(Arc::new(limits), 0xabc, start),
            start,
            now_ms: 0,
        }
    }

    /// A client of this version, let in with default limits.
    pub(crate) fn connected(version: ProtocolVersion) -> Self {
        Self::connected_with(Limits::default(), connect(version))
    }

    pub(crate) fn connected_with(limits: Limits, connect: Connect) -> Self {
        let mut driver = Self::new(limits);
        driver.attach(connect, None);
        driver
    }

    /// CONNECT, both answers; gives what follows CONNACK.
    pub(crate) fn attach(
        &mut self,
        connect: Connect,
        session: Option<Box<Session>>,
    ) -> Vec<Output> {
        let ticket = ticket_of(&self.packet(Packet::Connect(Box::new(connect))));
        let ticket = ticket_of(&self.answer(ticket, Answer::Authenticated(Ok(None))));
        let mut outputs = self.answer(ticket, Answer::Attached { epoch: 7, session });
        assert!(
            matches!(&outputs[0], Output::Send(Packet::ConnAck(connack)) if !connack.reason.is_error())
        );
        assert!(self.connection.is_connected());
        outputs.remove(0);
        outputs
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    pub(crate) fn packet(&mut self, packet: Packet) -> Vec<Output> {
        self.connection.handle_packet(packet, self.now());
        self.drain()
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) -> Vec<Output> {
        self.connection.handle_answer(ticket, answer, self.now());
        self.drain()
    }

    pub(crate) fn publish(&mut self, qos: QoS, packet_id: u16) -> Vec<Output> {
        self.packet(publish(qos, packet_id))
    }

    pub(crate) fn deliver(&mut self, qos: QoS, position: u64) -> Vec<Output> {
        assert!(self.connection.can_accept(qos));
        self.connection
            .handle_delivery(delivery(qos, position), self.now());
        self.drain()
    }

    /// Answers the questions about QoS 2 deliveries at once, and gives the other outputs.
    pub(crate) fn settle(&mut self, outputs: Vec<Output>) -> Vec<Output> {
        let mut settled = Vec::new();
        for output in outputs {
            let answers = match output {
                Output::Bind { ticket, .. } => self.answer(ticket, Answer::Bound),
                Output::Received { ticket, .. } => self.answer(ticket, Answer::ReceivedStored),
                other => vec![other],
            };
            settled.extend(answers);
        }
        settled
    }

    /// Lets time pass, and tells the connection.
    pub(crate) fn sleep(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        self.connection.handle_timeout(self.now());
        self.drain()
    }

    pub(crate) fn timeout_ms(&self) -> Option<u64> {
        let at = self.connection.poll_timeout()?;
        Some(u64::try_from(at.duration_since(self.start).as_millis()).unwrap())
    }

    pub(crate) fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.connection.poll_output()).collect()
    }
}

pub(crate) fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        client_id: Text::from_static("client"),
        clean_start: true,
        keep_alive_s: 0,
        username: None,
        password: None,
        will: None,
        properties: None,
    }
}

pub(crate) fn connect_v5(properties: ConnectProperties) -> Connect {
    Connect {
        properties: Some(Box::new(properties)),
        ..connect(ProtocolVersion::V5)
    }
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// `packet_id` counts at QoS 1 and 2.
pub(crate) fn publish(qos: QoS, packet_id: u16) -> Packet {
    Packet::Publish(publish_of(qos, packet_id))
}

pub(crate) fn publish_of(qos: QoS, packet_id: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: (qos > QoS::AtMostOnce).then(|| id(packet_id)),
        topic: Some(TopicName::from_static("a/b")),
        topic_alias: None,
        subscription_ids: SmallVec::new(),
        properties: None,
        payload: Bytes::from_static(b"hello"),
    }
}

pub(crate) fn message() -> Message {
    Message {
        topic: TopicName::from_static("a/b"),
        payload: Bytes::from_static(b"hello"),
        properties: None,
    }
}

pub(crate) fn token(position: u64) -> Token {
    Token {
        partition: 3,
        position,
    }
}

pub(crate) fn delivery(qos: QoS, position: u64) -> Delivery {
    Delivery {
        message: Arc::new(message()),
        qos,
        retain: false,
        subscription_ids: SmallVec::new(),
        token: token(position),
        expires_at: None,
    }
}

pub(crate) fn ack(packet_id: u16) -> Ack {
    ack_with(packet_id, ReasonCode::Success)
}

pub(crate) fn ack_with(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack::new(id(packet_id), reason)
}

pub(crate) fn published() -> Answer {
    Answer::Published(Ok(ReasonCode::Success))
}

/// The ticket of the only question among the outputs.
pub(crate) fn ticket_of(outputs: &[Output]) -> Ticket {
    let tickets: Vec<_> = outputs.iter().filter_map(ticket_in).collect();
    assert_eq!(tickets.len(), 1, "{outputs:?}");
    tickets[0]
}

pub(crate) fn ticket_in(output: &Output) -> Option<Ticket> {
    match output {
        Output::Publish { ticket, .. } => *ticket,
        Output::Authenticate { ticket, .. }
        | Output::AuthenticateOn { ticket, .. }
        | Output::Attach { ticket, .. }
        | Output::Release { ticket, .. }
        | Output::Bind { ticket, .. }
        | Output::Received { ticket, .. }
        | Output::Subscribe { ticket, .. }
        | Output::Unsubscribe { ticket, .. } => Some(*ticket),
        Output::Send(_)
        | Output::Deliver { .. }
        | Output::Delivered { .. }
        | Output::Note(_)
        | Output::Close { .. } => None,
    }
}

pub(crate) fn sent(packets: impl IntoIterator<Item = Packet>) -> Vec<Output> {
    packets.into_iter().map(Output::Send).collect()
}

/// The ids of the PUBLISHes to the client, in order.
pub(crate) fn delivered_ids(outputs: &[Output]) -> Vec<u16> {
    let id = |output: &Output| match output {
        Output::Deliver { header, .. } => header.packet_id.map(PacketId::number),
        _ => None,
    };
    outputs.iter().filter_map(id).collect()
}

/// Asserts that the connection ends with a DISCONNECT of this reason, in version 5.
#[track_caller]
pub(crate) fn assert_closed_with(outputs: &[Output], reason: ReasonCode) {
    let [
        ..,
        Output::Send(Packet::Disconnect(disconnect)),
        Output::Close { .. },
    ] = outputs
    else {
        panic!("no DISCONNECT and Close: {outputs:?}");
    };
    assert_eq!(disconnect.reason, reason);
}

/// Asserts that the connection ends without a word, as versions before 5 do.
#[track_caller]
pub(crate) fn assert_closed_silently(outputs: &[Output]) -> CloseCause {
    let [Output::Close { cause, .. }] = outputs else {
        panic!("not only a Close: {outputs:?}");
    };
    *cause
}

/// The only CONNACK among the outputs.
pub(crate) fn connack(outputs: &[Output]) -> &ConnAck {
    let mut connacks = Vec::new();
    for output in outputs {
        if let Output::Send(Packet::ConnAck(connack)) = output {
            connacks.push(connack);
        }
    }
    assert_eq!(connacks.len(), 1, "{outputs:?}");
    connacks[0]
}

pub(crate) fn connack_properties(outputs: &[Output]) -> &ConnAckProperties {
    connack(outputs).properties.as_deref().unwrap()
}
