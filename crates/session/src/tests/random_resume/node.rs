//! A model of the node: what is committed, and what is lost when it crashes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use magpie_codec::{Message, PacketId, QoS};

use super::super::{delivery, message, token};
use crate::{
    Answer, Delivery, Output, Published, Restored, RestoredStage, Session, Stage, Ticket,
    Unacknowledged,
};

/// A question on its way through one of the node's ordered streams.
#[derive(Debug)]
struct Pending {
    ticket: Option<Ticket>,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
    Bind {
        id: PacketId,
        position: u64,
    },
    Received {
        id: PacketId,
    },
    Publish {
        qos: QoS,
        id: Option<PacketId>,
        payload: u64,
    },
    Release {
        id: PacketId,
    },
}

/// What survives: the session's record, and the messages and QoS 2 ids of the topic's partition.
#[derive(Debug, Default)]
struct Committed {
    exists: bool,
    inflight: Vec<Unacknowledged>,
    done: HashSet<u64>,
    /// Of the client, by QoS.
    taken: [Vec<u64>; 2],
    received: HashSet<PacketId>,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    /// The messages for the client: their place is their position.
    log: Vec<QoS>,
    committed: Committed,
    /// Questions that are not committed: of the session partition, and of the topic's.
    streams: [VecDeque<Pending>; 2],
    /// Committed, and not answered.
    answers: Vec<(Ticket, Answer)>,

    // Of the connection.
    done: HashSet<u64>,
    /// Was handed to the connection, or restored.
    handed: HashSet<u64>,
    window: usize,
    /// Sent on this connection and not done.
    under_way: HashSet<u64>,
    /// What the connection began with.
    restored: BTreeMap<u64, PacketId>,
    /// The packet id of each QoS 2 message that was ever sent.
    sent_under: BTreeMap<u64, PacketId>,
}

impl Node {
    pub(super) fn produce(&mut self, qos: QoS) {
        self.log.push(qos);
    }

    /// The positions of the messages of this QoS.
    pub(super) fn produced(&self, qos: QoS) -> Vec<u64> {
        (0..)
            .zip(&self.log)
            .filter(|(_, its)| **its == qos)
            .map(|(position, _)| position)
            .collect()
    }

    /// What the node took from the client.
    pub(super) fn taken(&self, qos: QoS) -> &[u64] {
        &self.committed.taken[usize::from(qos == QoS::ExactlyOnce)]
    }

    /// The first message that the connection does not have and that is not done.
    pub(super) fn next(&self) -> Option<Delivery> {
        let position = (0..self.log.len() as u64)
            .find(|position| !self.done.contains(position) && !self.handed.contains(position))?;
        Some(self.delivery(position))
    }

    pub(super) fn handed(&mut self, delivery: &Delivery) {
        self.handed.insert(delivery.token.position);
    }

    fn delivery(&self, position: u64) -> Delivery {
        let at = usize::try_from(position).unwrap();
        Delivery {
            message: Arc::new(Message {
                payload: position.to_string().into(),
                ..message()
            }),
            ..delivery(self.log[at], position)
        }
    }

    /// Takes what the connection asks; checks what it sends; passes on what goes to the client.
    pub(super) fn see(&mut self, output: Output) -> Option<Output> {
        let (stream, ticket, effect) = match output {
            Output::Bind {
                ticket,
                packet_id,
                token,
            } => {
                let bind = Effect::Bind {
                    id: packet_id,
                    position: token.position,
                };
                assert!(!self.restored.contains_key(&token.position), "bound again");
                (0, Some(ticket), bind)
            }
            Output::Received { ticket, packet_id } => {
                (0, Some(ticket), Effect::Received { id: packet_id })
            }
            Output::Publish {
                ticket,
                qos,
                packet_id,
                message,
                ..
            } => {
                let payload = number(&message);
                (
                    1,
                    ticket,
                    Effect::Publish {
                        qos,
                        id: packet_id,
                        payload,
                    },
                )
            }
            Output::Release {
                ticket, packet_id, ..
            } => (1, Some(ticket), Effect::Release { id: packet_id }),
            Output::Delivered { token, .. } => {
                assert!(self.done.insert(token.position), "{token:?} done twice");
                self.under_way.remove(&token.position);
                return None;
            }
            Output::Deliver { header, message } => {
                self.check_sent(
                    header.packet_id.unwrap(),
                    header.qos,
                    header.dup,
                    number(&message),
                );
                return Some(Output::Deliver { header, message });
            }
            other => {
                self.check_acknowledged(&other);
                return Some(other);
            }
        };
        self.streams[stream].push_back(Pending { ticket, effect });
        None
    }

    fn check_sent(&mut self, id: PacketId, qos: QoS, dup: bool, position: u64) {
        assert!(self.under_way.insert(position), "sent twice");
        assert!(self.under_way.len() <= self.window, "window passed");
        let restored = self.restored.get(&position);
        assert_eq!(
            dup,
            restored.is_some(),
            "DUP is set exactly if it was sent before"
        );
        assert!(
            restored.is_none_or(|original| *original == id),
            "original packet ids"
        );
        if qos == QoS::ExactlyOnce {
            let original = *self.sent_under.entry(position).or_insert(id);
            assert_eq!(original, id, "{position} was sent under another id");
            let bound = self
                .committed
                .inflight
                .iter()
                .find(|entry| entry.packet_id == id);
            assert_eq!(
                bound.map(|entry| entry.token.position),
                Some(position),
                "sent unbound"
            );
        }
    }

    fn check_acknowledged(&self, output: &Output) {
        use magpie_codec::Packet;
        match output {
            Output::Send(Packet::PubRel(ack)) => {
                assert!(!ack.reason.is_error(), "{ack:?}");
                let bound = self
                    .committed
                    .inflight
                    .iter()
                    .find(|entry| entry.packet_id == ack.packet_id);
                assert_eq!(
                    bound.map(|entry| entry.stage),
                    Some(Stage::Released),
                    "PUBREL before it is safe"
                );
            }
            Output::Send(Packet::PubRec(ack)) => {
                assert!(
                    self.committed.received.contains(&ack.packet_id),
                    "PUBREC before it is safe"
                );
            }
            Output::Send(Packet::PubComp(ack)) => {
                assert!(!ack.reason.is_error(), "{ack:?}");
                assert!(
                    !self.committed.received.contains(&ack.packet_id),
                    "PUBCOMP before it is safe"
                );
            }
            _ => {}
        }
    }

    /// Commits the first questions of a stream.
    pub(super) fn commit(&mut self, stream: usize, count: usize) {
        for _ in 0..count {
            let Some(Pending { ticket, effect }) = self.streams[stream].pop_front() else {
                return;
            };
            let answer = self.committed.apply(effect);
            self.answers.extend(ticket.map(|ticket| (ticket, answer)));
        }
    }

    /// One of the answers that are due.
    pub(super) fn answer(&mut self, which: usize) -> Option<(Ticket, Answer)> {
        (!self.answers.is_empty()).then(|| self.answers.swap_remove(which % self.answers.len()))
    }

    /// Commits what is done.
    pub(super) fn commit_progress(&mut self) {
        self.committed.note_done(&self.done);
    }

    /// Whether there is nothing under way, and nothing to be done.
    pub(super) fn is_quiet(&self) -> bool {
        self.done.len() == self.log.len()
            && self.committed.received.is_empty()
            && self.answers.is_empty()
            && self.streams.iter().all(VecDeque::is_empty)
    }

    /// The connection's node is gone, with all it did not commit.
    pub(super) fn crash(&mut self) {
        self.done = self.committed.done.clone();
        self.forget();
    }

    /// The connection ended in good order; all it asked before was committed.
    pub(super) fn detach(&mut self, session: &Session) {
        self.commit(0, usize::MAX);
        self.committed.inflight = session.inflight().collect();
        self.commit_progress();
        self.forget();
    }

    /// Another node takes over, and is told what this one knew. Gives what is told.
    pub(super) fn hand_over(&mut self, session: &Session) -> Vec<Unacknowledged> {
        self.forget();
        session.inflight().collect()
    }

    fn forget(&mut self) {
        self.streams.iter_mut().for_each(VecDeque::clear);
        self.answers.clear();
    }

    /// The session for the next connection: what is committed, and what the previous node told.
    pub(super) fn attach(
        &mut self,
        told: Option<Vec<Unacknowledged>>,
        window: u16,
    ) -> Option<Box<Session>> {
        self.window = usize::from(window);
        self.under_way.clear();
        let mut inflight = told.unwrap_or_default();
        for committed in &self.committed.inflight {
            match inflight
                .iter_mut()
                .find(|told| told.token == committed.token)
            {
                Some(told) => *told = *committed,
                // Bound, but the previous node did not hear of it any more: left out, it would be delivered again under another
                // id, while the stored binding waits to be replaced and then counts as done.
                None => inflight.push(*committed),
            }
        }
        inflight.retain(|entry| !self.done.contains(&entry.token.position));
        let ids: HashSet<_> = inflight.iter().map(|entry| entry.packet_id).collect();
        assert_eq!(ids.len(), inflight.len(), "two messages have one id");
        let positions = inflight.iter().map(|entry| entry.token.position);
        self.handed = positions.collect();
        self.restored = inflight
            .iter()
            .map(|entry| (entry.token.position, entry.packet_id))
            .collect();
        let restored = inflight.iter().map(|entry| self.restored(entry)).collect();
        let exists = std::mem::replace(&mut self.committed.exists, true);
        exists.then(|| Box::new(Session::restore(600, [], restored)))
    }

    fn restored(&self, entry: &Unacknowledged) -> Restored {
        let Delivery {
            message,
            qos,
            retain,
            subscription_ids,
            expires_at,
            ..
        } = self.delivery(entry.token.position);
        assert_eq!(qos, entry.qos);
        let published = Published {
            message,
            qos,
            retain,
            subscription_ids,
            expires_at,
        };
        Restored {
            packet_id: entry.packet_id,
            token: entry.token,
            stage: match entry.stage {
                Stage::Published => RestoredStage::Published(published),
                Stage::Released => RestoredStage::Released,
            },
        }
    }
}

impl Committed {
    fn apply(&mut self, effect: Effect) -> Answer {
        match effect {
            Effect::Bind { id, position } => {
                let is_same = |entry: &Unacknowledged| entry.token.position == position;
                assert!(!self.inflight.iter().any(is_same), "bound twice");
                // The id was free, so what had it before is done.
                let before = self.inflight.iter().position(|entry| entry.packet_id == id);
                if let Some(before) = before {
                    self.done
                        .insert(self.inflight.remove(before).token.position);
                }
                self.inflight.push(Unacknowledged {
                    packet_id: id,
                    token: token(position),
                    qos: QoS::ExactlyOnce,
                    stage: Stage::Published,
                });
                Answer::Bound
            }
            Effect::Received { id } => {
                let bound = self.inflight.iter_mut().find(|entry| entry.packet_id == id);
                bound.expect("PUBREC of what was never bound").stage = Stage::Released;
                Answer::ReceivedStored
            }
            Effect::Publish { qos, id, payload } => {
                let is_new = id.is_none_or(|id| self.received.insert(id));
                if is_new {
                    self.taken[usize::from(qos == QoS::ExactlyOnce)].push(payload);
                }
                super::super::published()
            }
            Effect::Release { id } => {
                self.received.remove(&id);
                Answer::Released
            }
        }
    }

    fn note_done(&mut self, done: &HashSet<u64>) {
        self.done.extend(done);
        self.inflight
            .retain(|entry| !done.contains(&entry.token.position));
    }
}

pub(super) fn number(message: &Message) -> u64 {
    std::str::from_utf8(&message.payload)
        .unwrap()
        .parse()
        .unwrap()
}
