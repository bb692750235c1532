//! A model of the client, which keeps what a client keeps between its connections.

use std::collections::{HashMap, VecDeque};

use magpie_codec::{Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

use super::super::{ack, ack_with, id, publish_of};
use super::node::number;
use crate::Output;

#[derive(Debug)]
pub(super) struct Client {
    version: ProtocolVersion,
    /// On its way to the client.
    inbox: VecDeque<Output>,
    /// On its way to the node.
    outbox: VecDeque<Packet>,
    /// QoS 2 messages that were taken and not released.
    received: HashMap<PacketId, u64>,
    /// What the application saw, by QoS; at QoS 1 without repeats.
    seen: [Vec<u64>; 2],
    /// Its own messages that are not acknowledged, in their order.
    unacknowledged: Vec<Own>,
    /// By QoS.
    published: [Vec<u64>; 2],
}

#[derive(Debug)]
struct Own {
    id: u16,
    qos: QoS,
    payload: u64,
    is_released: bool,
    /// PUBLISHes on this connection that were not answered.
    unanswered: usize,
}

/// Messages of its own under way: few, so that their ids are used again soon.
const OWN_MAX: usize = 5;

impl Client {
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            received: HashMap::new(),
            seen: Default::default(),
            unacknowledged: Vec::new(),
            published: Default::default(),
        }
    }

    pub(super) fn hear(&mut self, output: Output) {
        self.inbox.push_back(output);
    }

    /// The next packet for the node.
    pub(super) fn next_packet(&mut self) -> Option<Packet> {
        self.outbox.pop_front()
    }

    pub(super) fn seen(&self, qos: QoS) -> &[u64] {
        &self.seen[of(qos)]
    }

    pub(super) fn published(&self, qos: QoS) -> &[u64] {
        &self.published[of(qos)]
    }

    /// Whether nothing is left that somebody waits for.
    pub(super) fn is_quiet(&self) -> bool {
        self.inbox.is_empty()
            && self.outbox.is_empty()
            && self.received.is_empty()
            && self.unacknowledged.is_empty()
    }

    pub(super) fn publish(&mut self, qos: QoS) {
        if self.unacknowledged.len() == OWN_MAX {
            return;
        }
        let is_free = |id: &u16| self.unacknowledged.iter().all(|own| own.id != *id);
        let id = (1..).find(is_free).unwrap();
        let payload = (self.published[0].len() + self.published[1].len()) as u64;
        self.published[of(qos)].push(payload);
        let mut own = Own {
            id,
            qos,
            payload,
            is_released: false,
            unanswered: 0,
        };
        self.outbox.push_back(own.publish(false));
        self.unacknowledged.push(own);
    }

    /// A new connection: everything under way on the old one is lost, and what is unacknowledged is sent again
    /// [MQTT-4.4.0-1].
    pub(super) fn reconnect(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        for own in &mut self.unacknowledged {
            own.unanswered = 0;
            self.outbox.push_back(match own.is_released {
                true => Packet::PubRel(ack(own.id)),
                false => own.publish(true),
            });
        }
    }

    /// Takes the next packet from the node, and says whether there was one.
    pub(super) fn take(&mut self) -> bool {
        let Some(output) = self.inbox.pop_front() else {
            return false;
        };
        let answer = match output {
            Output::Deliver { header, message } => Some(self.delivered(
                header.packet_id.unwrap(),
                header.qos,
                header.dup,
                number(&message),
            )),
            Output::Send(Packet::PubRel(ack)) => {
                let is_known = self.received.remove(&ack.packet_id).is_some();
                let reason = match self.version {
                    ProtocolVersion::V5 if !is_known => ReasonCode::PacketIdentifierNotFound,
                    _ => ReasonCode::Success,
                };
                Some(Packet::PubComp(ack_with(ack.packet_id.number(), reason)))
            }
            Output::Send(Packet::PubAck(ack)) => {
                let own = self
                    .unacknowledged
                    .remove(self.own(ack.packet_id, QoS::AtLeastOnce));
                assert_eq!(own.unanswered, 1);
                None
            }
            Output::Send(Packet::PubRec(ack)) => {
                let at = self.own(ack.packet_id, QoS::ExactlyOnce);
                let own = &mut self.unacknowledged[at];
                // Exactly one PUBREC for each PUBLISH.
                own.unanswered = own.unanswered.checked_sub(1).expect("a PUBREC too much");
                own.is_released = true;
                Some(Packet::PubRel(ack_with(own.id, ReasonCode::Success)))
            }
            Output::Send(Packet::PubComp(ack)) => {
                let own = self
                    .unacknowledged
                    .remove(self.own(ack.packet_id, QoS::ExactlyOnce));
                assert!(own.is_released);
                None
            }
            other => panic!("{other:?}"),
        };
        self.outbox.extend(answer);
        true
    }

    fn delivered(&mut self, id: PacketId, qos: QoS, dup: bool, position: u64) -> Packet {
        let seen = &mut self.seen[of(qos)];
        if qos == QoS::ExactlyOnce {
            // The id decides whether it is new [MQTT-4.3.3-10]: it had better be right.
            match self.received.insert(id, position) {
                None => seen.push(position),
                Some(before) => assert_eq!((before, dup), (position, true), "id used twice"),
            }
            return Packet::PubRec(ack(id.number()));
        }
        if !seen.contains(&position) {
            seen.push(position);
        }
        Packet::PubAck(ack(id.number()))
    }

    fn own(&self, id: PacketId, qos: QoS) -> usize {
        let is_own = |own: &Own| own.id == id.number() && own.qos == qos;
        self.unacknowledged
            .iter()
            .position(is_own)
            .expect("acknowledged once")
    }
}

impl Own {
    fn publish(&mut self, dup: bool) -> Packet {
        self.unanswered += 1;
        Packet::Publish(Publish {
            dup,
            packet_id: Some(id(self.id)),
            payload: self.payload.to_string().into(),
            ..publish_of(self.qos, self.id)
        })
    }
}

fn of(qos: QoS) -> usize {
    usize::from(qos == QoS::ExactlyOnce)
}
