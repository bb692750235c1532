//! What the outside world knows of a connection, and what it must never see.

use std::collections::{BTreeMap, HashSet, VecDeque};

use magpie_codec::{
    Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, Subscribe, Unsubscribe,
};

use super::super::ticket_in;
use super::WINDOW;
use crate::{Outcome, Output, Ticket};

/// A QoS 1 or 2 PUBLISH, a SUBSCRIBE or an UNSUBSCRIBE that the client waits for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u16,
    pub(super) is_qos_2: bool,
    /// `None`: needs no answer.
    pub(super) ticket: Option<Ticket>,
    pub(super) answered: bool,
}

/// What the outside world knows.
pub(super) struct Watch {
    pub(super) version: ProtocolVersion,
    pub(super) tickets: HashSet<Ticket>,
    pub(super) open: Vec<(Ticket, Question)>,
    pub(super) publishes: VecDeque<Waiting>,
    pub(super) subscribes: VecDeque<Waiting>,
    /// What was sent to the client and not acknowledged by it.
    pub(super) client: BTreeMap<u16, (QoS, Sent)>,
    /// QoS 2 deliveries that were not sent yet, by packet id, and whether they may be.
    pub(super) unbound: BTreeMap<u16, bool>,
    /// PUBRECs that are safe.
    pub(super) stored: HashSet<u16>,
    pub(super) is_durable: bool,
    /// QoS 2 messages of the client that the node took and the client did not release.
    pub(super) taken: HashSet<u16>,
    pub(super) next_token: u64,
    pub(super) tokens: HashSet<u64>,
    /// By QoS.
    pub(super) last_payload: [Option<u64>; 3],
    pub(super) closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Question {
    /// At QoS 2 its packet id.
    Publish(Option<u16>),
    Release,
    Subscribe(usize),
    Unsubscribe(usize),
    Bind(u16),
    Received(u16),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sent {
    Published,
    /// The client answered PUBREC.
    Received,
    /// We answered PUBREL.
    Released,
}

impl Watch {
    pub(super) fn new(version: ProtocolVersion, is_durable: bool) -> Self {
        Self {
            version,
            tickets: HashSet::new(),
            open: Vec::new(),
            publishes: VecDeque::new(),
            subscribes: VecDeque::new(),
            client: BTreeMap::new(),
            unbound: BTreeMap::new(),
            stored: HashSet::new(),
            is_durable,
            taken: HashSet::new(),
            next_token: 0,
            tokens: HashSet::new(),
            last_payload: [None; 3],
            closed: false,
        }
    }

    pub(super) fn see(&mut self, outputs: &[Output]) {
        for output in outputs {
            assert!(!self.closed, "{output:?} after Close");
            if let Some(ticket) = ticket_in(output) {
                assert!(self.tickets.insert(ticket), "{ticket:?} twice");
                self.open.push((ticket, question_of(output)));
            }
            match output {
                Output::Deliver { header, message } => {
                    let sequence = std::str::from_utf8(&message.payload)
                        .unwrap()
                        .parse()
                        .unwrap();
                    let last =
                        self.last_payload[usize::from(u8::from(header.qos))].replace(sequence);
                    assert!(last.is_none_or(|last| last < sequence), "out of order");
                    if let Some(id) = header.packet_id {
                        self.delivered(id.number(), header.qos);
                    }
                }
                Output::Delivered { token, outcome } => {
                    assert!(
                        self.tokens.remove(&token.position),
                        "{token:?} done twice, or never begun"
                    );
                    assert!(matches!(
                        outcome,
                        Outcome::Acknowledged | Outcome::Refused(_)
                    ));
                }
                Output::Send(Packet::PubAck(ack) | Packet::PubRec(ack)) => {
                    self.acknowledged(ack.packet_id.number())
                }
                Output::Send(Packet::SubAck(ack)) => self.subscribed(ack.packet_id.number()),
                Output::Send(Packet::UnsubAck(ack)) => self.subscribed(ack.packet_id.number()),
                Output::Publish {
                    packet_id: Some(id),
                    ..
                } => {
                    assert!(
                        !self.taken.contains(&id.number()),
                        "QoS 2 message passed on twice"
                    );
                }
                Output::Send(Packet::PubComp(ack)) if ack.reason == ReasonCode::Success => {
                    assert!(
                        self.taken.remove(&ack.packet_id.number()),
                        "PUBCOMP for nothing"
                    );
                }
                Output::Close { .. } => self.closed = true,
                Output::Bind { packet_id, .. } => {
                    let id = packet_id.number();
                    assert!(
                        self.is_durable && !self.client.contains_key(&id),
                        "packet id {id} is in use"
                    );
                    assert_eq!(
                        self.unbound.insert(id, false),
                        None,
                        "packet id {id} is in use"
                    );
                }
                Output::Send(Packet::PubRel(ack)) if !ack.reason.is_error() => {
                    self.released(ack.packet_id.number());
                }
                Output::Send(Packet::PubRel(_) | Packet::PubComp(_) | Packet::PingResp)
                | Output::Note(_) => {}
                Output::Send(Packet::Disconnect(_)) => {
                    assert_eq!(self.version, ProtocolVersion::V5)
                }
                Output::Publish { .. }
                | Output::Release { .. }
                | Output::Received { .. }
                | Output::Subscribe { .. }
                | Output::Unsubscribe { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn delivered(&mut self, id: u16, qos: QoS) {
        assert!(
            self.client.insert(id, (qos, Sent::Published)).is_none(),
            "packet id {id} is in use"
        );
        if qos == QoS::ExactlyOnce && self.is_durable {
            assert_eq!(
                self.unbound.remove(&id),
                Some(true),
                "sent before the answer"
            );
        }
        let under_way = self.client.len() + self.unbound.len();
        assert!(under_way <= usize::from(WINDOW), "window passed");
    }

    fn released(&mut self, id: u16) {
        let (_, sent) = self
            .client
            .get_mut(&id)
            .expect("PUBREL of what was never sent");
        if std::mem::replace(sent, Sent::Released) != Sent::Released {
            assert!(
                !self.is_durable || self.stored.remove(&id),
                "PUBREL before the answer"
            );
        }
    }

    fn acknowledged(&mut self, id: u16) {
        let waiting = self
            .publishes
            .pop_front()
            .expect("an acknowledgement that nobody waits for");
        assert_eq!(waiting.id, id, "acknowledgement out of order");
        assert!(waiting.answered, "acknowledgement before the answer");
    }

    fn subscribed(&mut self, id: u16) {
        let waiting = self
            .subscribes
            .pop_front()
            .expect("an acknowledgement that nobody waits for");
        assert_eq!(waiting.id, id, "acknowledgement out of order");
        assert!(waiting.answered, "acknowledgement before the answer");
    }

    /// Notes that the client waits for an answer to this packet, which makes the node be asked or not.
    pub(super) fn expect(&mut self, packet: &Packet, outputs: &[Output]) {
        let ticket = outputs.iter().find_map(ticket_in);
        let waiting = |id, is_qos_2| Waiting {
            id,
            is_qos_2,
            ticket,
            answered: ticket.is_none(),
        };
        match packet {
            Packet::Publish(Publish {
                packet_id: Some(packet_id),
                qos,
                ..
            }) => {
                let number = packet_id.number();
                let is_qos_2 = *qos == QoS::ExactlyOnce;
                // A repeat of what is under way is answered by the first one's PUBREC.
                let is_same =
                    |first: &Waiting| first.id == number && first.is_qos_2 && !first.answered;
                if ticket.is_some() || !is_qos_2 || !self.publishes.iter().any(is_same) {
                    self.publishes.push_back(waiting(number, is_qos_2));
                }
            }
            Packet::Subscribe(Subscribe { packet_id, .. })
            | Packet::Unsubscribe(Unsubscribe { packet_id, .. }) => {
                self.subscribes
                    .push_back(waiting(packet_id.number(), false));
            }
            _ => {}
        }
    }

    /// Marks an answer that the node gives.
    pub(super) fn answer(&mut self, ticket: Ticket) {
        for waiting in self.publishes.iter_mut().chain(&mut self.subscribes) {
            waiting.answered |= waiting.ticket == Some(ticket);
        }
    }
}

fn question_of(output: &Output) -> Question {
    match output {
        Output::Publish { packet_id, .. } => Question::Publish(packet_id.map(PacketId::number)),
        Output::Release { .. } => Question::Release,
        Output::Bind { packet_id, .. } => Question::Bind(packet_id.number()),
        Output::Received { packet_id, .. } => Question::Received(packet_id.number()),
        Output::Subscribe { subscriptions, .. } => Question::Subscribe(subscriptions.len()),
        Output::Unsubscribe { filters, .. } => Question::Unsubscribe(filters.len()),
        other => panic!("{other:?}"),
    }
}
