//! What share groups have dealt to one connection, and how far each message of it is.
//!
//! ```text
//!  dealt ──► Queued ──► Sent ──► Done ──► (forgotten, when the group and the session's partition know)
//!    │          ▲
//!    │ no room  │ fetched
//!    └──► Waiting
//! ```
//! No lane and no cursor tells of these: the group keeps the place of each until it is done.

use std::collections::{HashMap, VecDeque};

use magpie_codec::{QoS, TopicFilter};
use magpie_session::Token;
use magpie_state::partition::Dealt;
use magpie_state::{MembershipId, PartitionId, Position};

/// Tokens of shared deliveries have this bit in their partition; the others are a number of the connection's own, for partition and
/// membership. Partitions have lower numbers.
const SHARED: u16 = 0x4000;
/// Memberships of one connection that get messages.
const SLOTS_MAX: usize = 0x3fff;

/// Which delivery of a share group it is, cluster-wide.
pub(crate) type Place = (PartitionId, MembershipId, Position);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SharedMessages {
    slots: Vec<Slot>,
    known: HashMap<Token, Known, foldhash::fast::RandomState>,
    /// For which there was no room, in the order in which they came. Some may be gone.
    waiting: VecDeque<Token>,
    /// The filters have changed: perhaps what waits can be fetched now.
    is_fetching: bool,
}

/// A membership.
#[derive(Debug)]
struct Slot {
    partition: PartitionId,
    membership: MembershipId,
    /// `None` until it is told, for one of an earlier connection.
    filter: Option<TopicFilter>,
    /// Its subscription has ended: what is still dealt to it goes back to the group when that knows. A new subscription is a new membership.
    has_left: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    qos: QoS,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Queued,
    Sent,
    Done,
}

/// A message to be fetched.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) token: Token,
    pub(crate) position: Position,
    pub(crate) qos: QoS,
    pub(crate) filter: TopicFilter,
}

/// Whether the token is that of a shared delivery.
pub(crate) const fn is_shared(token: Token) -> bool {
    token.partition & (SHARED | 0x8000) == SHARED
}

impl SharedMessages {
    /// An earlier connection of the session sent this at QoS 2; `is_done`: to the end.
    pub(crate) fn restore(&mut self, place: Place, is_done: bool) -> Option<Token> {
        let token = self.token(place, None)?;
        let stage = if is_done { Stage::Done } else { Stage::Sent };
        let qos = QoS::ExactlyOnce;
        self.known.insert(token, Known { qos, stage });
        Some(token)
    }

    /// A group has dealt a message to this connection. `None`: that is known.
    pub(crate) fn offer(&mut self, partition: PartitionId, dealt: &Dealt) -> Option<Token> {
        let place = (partition, dealt.membership, dealt.position);
        let token = self.token(place, Some(&dealt.filter))?;
        if self.slots[slot_of(token)].has_left {
            return None;
        }
        let known = Known {
            qos: dealt.qos,
            stage: Stage::Queued,
        };
        match self.known.entry(token) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(known);
                Some(token)
            }
        }
    }

    /// There is no room for it now.
    pub(crate) fn defer(&mut self, token: Token) {
        if let Some(known) = self.known.get_mut(&token) {
            known.stage = Stage::Waiting;
            self.waiting.push_back(token);
        }
    }

    /// Whether messages wait for room.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next messages to be fetched, of one partition, in the order of its log, if their subscription is there. A fetch that was begun
    /// is to be [ended](Self::fetched).
    pub(crate) fn next_to_fetch(
        &mut self,
        count_max: usize,
        is_subscribed: impl Fn(&TopicFilter) -> bool,
    ) -> Option<(PartitionId, Vec<Wanted>)> {
        if self.is_fetching {
            return None;
        }
        let (known, slots) = (&self.known, &self.slots);
        self.waiting.retain(|token| {
            known
                .get(token)
                .is_some_and(|it| it.stage == Stage::Waiting)
        });
        let mut of = None;
        let mut wanted = Vec::new();
        for token in &self.waiting {
            let slot = &slots[slot_of(*token)];
            let Some(filter) = slot.filter.as_ref().filter(|filter| is_subscribed(filter)) else {
                continue;
            };
            if wanted.len() < count_max && *of.get_or_insert(slot.partition) == slot.partition {
                wanted.push(Wanted {
                    token: *token,
                    position: Position(token.position),
                    qos: known[token].qos,
                    filter: filter.clone(),
                });
            }
        }
        wanted.sort_unstable_by_key(|wanted| wanted.position);
        self.is_fetching = of.is_some();
        of.map(|partition| (partition, wanted))
    }

    /// A fetch has come to its end.
    pub(crate) fn fetched(&mut self) {
        self.is_fetching = false;
    }

    /// What was fetched is queued. False if it is not wanted any more.
    pub(crate) fn queue(&mut self, token: Token) -> bool {
        let known = self.known.get_mut(&token);
        let Some(known) = known.filter(|known| known.stage == Stage::Waiting) else {
            return false;
        };
        known.stage = Stage::Queued;
        true
    }

    /// It is handed to the conversation.
    pub(crate) fn note_sent(&mut self, token: Token) {
        if let Some(known) = self.known.get_mut(&token) {
            known.stage = Stage::Sent;
        }
    }

    /// It needs no more; where it is, for its group. What is bound to a packet id (`is_bound`) is remembered until it is
    /// [settled](Self::settled).
    pub(crate) fn finish(&mut self, token: Token, is_bound: bool) -> Option<Place> {
        let known = self.known.get_mut(&token)?;
        if is_bound && known.qos == QoS::ExactlyOnce {
            known.stage = Stage::Done;
        } else {
            self.known.remove(&token);
        }
        self.place(token)
    }

    /// Whether it is not forgotten.
    pub(crate) fn is_known(&self, token: Token) -> bool {
        self.known.contains_key(&token)
    }

    /// Its group knows that it is done, and the session's partition that this is so.
    pub(crate) fn settled(&mut self, place: Place) {
        if let Some(token) = self.find(place) {
            self.known.remove(&token);
        }
    }

    /// Which delivery a token stands for.
    pub(crate) fn place(&self, token: Token) -> Option<Place> {
        let slot = self.slots.get(slot_of(token))?;
        Some((slot.partition, slot.membership, Position(token.position)))
    }

    /// Those of QoS 2 that are done, and that not everybody may know of.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = Place> + '_ {
        let done = self.known.iter();
        done.filter(|(_, known)| known.stage == Stage::Done && known.qos == QoS::ExactlyOnce)
            .filter_map(|(token, _)| self.place(*token))
    }

    /// Those of QoS 2 that reached the conversation: the connection ends, and nothing more will.
    pub(crate) fn sent(&self) -> Vec<Place> {
        self.of_qos_2(|_, known| matches!(known.stage, Stage::Sent | Stage::Done))
    }

    /// A subscription has ended: what waits for it is not wanted any more. Gives those of QoS 2 that reached the conversation, or
    /// still will.
    pub(crate) fn leave(&mut self, filter: &TopicFilter) -> Vec<Place> {
        for slot in &mut self.slots {
            slot.has_left |= slot.filter.as_ref() == Some(filter);
        }
        let slots = &self.slots;
        let of = |token: Token| slots[slot_of(token)].filter.as_ref();
        self.known
            .retain(|token, known| known.stage != Stage::Waiting || of(*token) != Some(filter));
        // What an earlier connection was sent may be of this filter as well as of any other.
        self.of_qos_2(|token, _| of(token).is_none_or(|it| it == filter))
    }

    fn of_qos_2(&self, is_wanted: impl Fn(Token, Known) -> bool) -> Vec<Place> {
        let of_qos_2 = self.known.iter();
        of_qos_2
            .filter(|(_, known)| known.qos == QoS::ExactlyOnce)
            .filter(|(token, known)| is_wanted(**token, **known))
            .filter_map(|(token, _)| self.place(*token))
            .collect()
    }

    fn find(&self, (partition, membership, position): Place) -> Option<Token> {
        let slot = self
            .slots
            .iter()
            .position(|slot| slot.partition == partition && slot.membership == membership)?;
        Some(token_of(slot, position))
    }

    fn token(&mut self, place: Place, filter: Option<&TopicFilter>) -> Option<Token> {
        let (partition, membership, position) = place;
        let token = match self.find(place) {
            Some(token) => token,
            None if self.slots.len() >= SLOTS_MAX => return None,
            None => {
                self.slots.push(Slot {
                    partition,
                    membership,
                    filter: None,
                    has_left: false,
                });
                token_of(self.slots.len() - 1, position)
            }
        };
        let slot = &mut self.slots[slot_of(token)];
        if slot.filter.is_none() {
            slot.filter = filter.cloned();
        }
        Some(token)
    }
}

const fn slot_of(token: Token) -> usize {
    (token.partition & !SHARED) as usize
}

fn token_of(slot: usize, position: Position) -> Token {
    Token {
        partition: SHARED | u16::try_from(slot).expect("bounded by SLOTS_MAX"),
        position: position.0,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const HERE: PartitionId = PartitionId(3);

    fn dealt(membership: u64, position: u64, qos: QoS) -> Dealt {
        Dealt {
            member: 1,
            membership: MembershipId(Position(membership)),
            filter: TopicFilter::from_static("$share/g/a"),
            position: Position(position),
            qos,
        }
    }

    fn place(membership: u64, position: u64) -> Place {
        (HERE, MembershipId(Position(membership)), Position(position))
    }

    #[test]
    fn the_same_message_of_two_groups_is_two_deliveries() {
        let mut shared = SharedMessages::default();
        let a = shared.offer(HERE, &dealt(1, 9, QoS::AtLeastOnce)).unwrap();
        let b = shared.offer(HERE, &dealt(2, 9, QoS::AtLeastOnce)).unwrap();
        assert!(is_shared(a) && is_shared(b) && a != b);
        assert_eq!(shared.offer(HERE, &dealt(1, 9, QoS::AtLeastOnce)), None);
        shared.note_sent(a);
        assert_eq!(shared.finish(a, true), Some(place(1, 9)));
        assert_eq!(shared.finish(a, true), None, "once");
    }

    #[test]
    fn what_was_bound_is_known_until_it_is_settled() {
        let mut shared = SharedMessages::default();
        let sent = shared.restore(place(1, 9), false).unwrap();
        shared.restore(place(1, 10), true).unwrap();
        // The group tells again what the session has.
        for position in [9, 10] {
            assert_eq!(
                shared.offer(HERE, &dealt(1, position, QoS::ExactlyOnce)),
                None
            );
        }
        assert_eq!(shared.unsettled().collect::<Vec<_>>(), [place(1, 10)]);
        let mut told = shared.sent();
        told.sort_unstable();
        assert_eq!(told, [place(1, 9), place(1, 10)]);
        assert_eq!(shared.finish(sent, true), Some(place(1, 9)));
        assert_eq!(shared.offer(HERE, &dealt(1, 9, QoS::ExactlyOnce)), None);
        shared.settled(place(1, 9));
        shared.settled(place(1, 10));
        assert_eq!(shared.unsettled().count() + shared.known.len(), 0);
    }

    #[test]
    fn what_waits_is_fetched_in_order_when_it_is_subscribed_to() {
        let mut shared = SharedMessages::default();
        for position in [12, 11, 13] {
            let token = shared
                .offer(HERE, &dealt(1, position, QoS::AtLeastOnce))
                .unwrap();
            shared.defer(token);
        }
        assert!(shared.next_to_fetch(2, |_| false).is_none());
        let (partition, wanted) = shared.next_to_fetch(2, |_| true).unwrap();
        let positions: Vec<_> = wanted.iter().map(|wanted| wanted.position.0).collect();
        assert_eq!((partition, &positions[..]), (HERE, &[11, 12][..]));
        assert!(shared.next_to_fetch(2, |_| true).is_none(), "one at a time");
        assert!(wanted.iter().all(|wanted| shared.queue(wanted.token)));
        assert!(!shared.queue(wanted[0].token));
        shared.fetched();
        assert_eq!(shared.leave(&wanted[0].filter), [], "of QoS 1");
        assert!(shared.next_to_fetch(2, |_| true).is_none());
        assert!(!shared.has_waiting());
        let late = dealt(1, 14, QoS::AtLeastOnce);
        assert_eq!(shared.offer(HERE, &late), None, "it has left");
        assert!(
            shared
                .offer(HERE, &dealt(2, 14, QoS::AtLeastOnce))
                .is_some()
        );
    }

    /// What was dealt and did not get as far returns to the group.
    #[test]
    fn only_what_may_be_sent_is_told_when_a_subscription_ends() {
        let mut shared = SharedMessages::default();
        let mut offer = |membership, position| {
            let dealt = dealt(membership, position, QoS::ExactlyOnce);
            shared.offer(HERE, &dealt).unwrap()
        };
        let (sent, _queued, waits) = (offer(1, 1), offer(1, 2), offer(1, 3));
        shared.note_sent(sent);
        shared.defer(waits);
        // Of an earlier connection, and nobody has said of which filter.
        shared.restore(place(7, 9), false).unwrap();
        let other = Dealt {
            filter: TopicFilter::from_static("$share/g/b"),
            ..dealt(5, 4, QoS::ExactlyOnce)
        };
        let other = shared.offer(HERE, &other).unwrap();
        shared.note_sent(other);
        let mut told = shared.leave(&TopicFilter::from_static("$share/g/a"));
        told.sort_unstable();
        assert_eq!(told, [place(1, 1), place(1, 2), place(7, 9)]);
        assert!(!shared.is_known(waits));
        // The connection ends before the queued one is handed over.
        let mut told = shared.sent();
        told.sort_unstable();
        assert_eq!(told, [place(1, 1), place(5, 4), place(7, 9)]);
    }
}
