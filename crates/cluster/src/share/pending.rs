//! One share group as its dealer sees it: which messages come next.

use std::collections::VecDeque;

use magpie_codec::{QoS, TopicFilter};
use magpie_state::partition::{Deal, GroupDeals};
use magpie_state::{MembershipId, Position, ShareGroupId};

/// Messages that are known and not dealt. More wait in the log.
const READY_MAX: usize = 8192;
/// With fewer than this, more are fetched.
const READY_LOW: usize = 512;

/// The messages of a group that wait.
pub(super) struct Pending {
    group: ShareGroupId,
    /// Without share name.
    pub(super) filter: TopicFilter,
    ready: VecDeque<(Position, QoS)>,
    /// Every message of the group up to here that is not dealt is ready.
    upto: Position,
    /// It follows the log as it is read; else what comes next is fetched by topic.
    pub(super) is_live: bool,
    /// Whose turn it is.
    turn: usize,
}

/// A member that can take messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taker {
    pub(super) member: MembershipId,
    /// How many.
    pub(super) room: usize,
}

impl Pending {
    /// A group that has got to `next`.
    pub(super) const fn new(group: ShareGroupId, filter: TopicFilter, next: Position) -> Self {
        Self {
            group,
            filter,
            ready: VecDeque::new(),
            upto: next,
            is_live: false,
            turn: 0,
        }
    }

    /// A message of the group comes by in the log.
    pub(super) fn pass(&mut self, position: Position, qos: QoS) {
        if !self.is_live || position <= self.upto {
            return;
        }
        if self.ready.len() >= READY_MAX {
            // What comes before it has come by.
            self.upto = Position(position.0 - 1);
            self.is_live = false;
            return;
        }
        self.ready.push_back((position, qos));
        self.upto = position;
    }

    /// From where on messages are to be fetched; `None`: not now.
    pub(super) fn wants_fetch(&self) -> Option<Position> {
        (!self.is_live && self.ready.len() < READY_LOW).then_some(self.upto)
    }

    /// Messages were fetched: all up to `upto`. The log was read to `read`.
    pub(super) fn fetched(
        &mut self,
        messages: impl Iterator<Item = (Position, QoS)>,
        upto: Position,
        read: Position,
    ) {
        self.ready
            .extend(messages.filter(|(position, _)| *position > self.upto));
        self.upto = self.upto.max(upto);
        self.is_live = self.upto >= read;
    }

    /// Entries of the log were passed over.
    pub(super) fn missed(&mut self, read: Position) {
        if self.is_live {
            self.is_live = false;
            self.upto = self.upto.max(read);
        }
    }

    /// Nobody is there to take anything, and it has got to `next`: what comes waits in the log.
    pub(super) fn rest(&mut self, next: Position) {
        self.ready = VecDeque::new();
        self.upto = next;
        self.is_live = false;
    }

    /// How many messages are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Deals what was returned, and then what is ready, to members in turn. The log was read to `read`. `None` if there is nothing to deal.
    pub(super) fn deal(
        &mut self,
        returned: Vec<(Position, QoS)>,
        takers: &mut [Taker],
        mut room: usize,
        read: Position,
    ) -> Option<GroupDeals> {
        let mut deals = Vec::new();
        let mut dealt_upto = Position::START;
        let mut returned = returned.into_iter().peekable();
        while room > 0 {
            let next = returned.peek().or_else(|| self.ready.front()).copied();
            let Some((position, qos)) = next else {
                break;
            };
            let Some(member) = self.next_taker(takers) else {
                break;
            };
            if returned.next().is_none() {
                self.ready.pop_front();
                dealt_upto = position;
            }
            room -= 1;
            deals.push(Deal {
                position,
                member,
                qos,
            });
        }
        let upto = match self.ready.front() {
            Some(_) => dealt_upto,
            None if self.is_live => self.upto.max(read),
            None => self.upto,
        };
        (!deals.is_empty()).then_some(GroupDeals {
            group: self.group,
            upto,
            deals,
        })
    }

    /// The next member that has room.
    fn next_taker(&mut self, takers: &mut [Taker]) -> Option<MembershipId> {
        for _ in 0..takers.len() {
            let at = self.turn % takers.len();
            self.turn = at + 1;
            let taker = &mut takers[at];
            if taker.room > 0 {
                taker.room -= 1;
                return Some(taker.member);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const AT_LEAST_ONCE: QoS = QoS::AtLeastOnce;

    fn pending() -> Pending {
        let filter = TopicFilter::from_static("a/+");
        Pending::new(ShareGroupId(Position(1)), filter, Position(10))
    }

    fn takers(rooms: &[usize]) -> Vec<Taker> {
        let members = (1..).map(|number| MembershipId(Position(number)));
        let takers = members.zip(rooms);
        takers
            .map(|(member, room)| Taker {
                member,
                room: *room,
            })
            .collect()
    }

    fn dealt(deals: &GroupDeals) -> Vec<(u64, u64)> {
        let deals = deals.deals.iter();
        deals
            .map(|deal| (deal.position.0, deal.member.0.0))
            .collect()
    }

    fn ready(pending: &mut Pending, positions: &[u64]) {
        let last = Position(*positions.last().unwrap());
        let messages = positions.iter().map(|it| (Position(*it), AT_LEAST_ONCE));
        pending.fetched(messages, last, last);
    }

    #[test]
    fn members_have_turns_and_those_without_room_are_passed_by() {
        let mut pending = pending();
        ready(&mut pending, &[11, 12, 13, 14, 15, 16]);
        let deals = pending
            .deal(vec![], &mut takers(&[2, 1, 9]), 99, Position(20))
            .unwrap();
        assert_eq!(
            dealt(&deals),
            [(11, 1), (12, 2), (13, 3), (14, 1), (15, 3), (16, 3)]
        );
        assert_eq!(deals.upto, Position(20));
    }

    #[test]
    fn turns_go_on_from_deal_to_deal() {
        let mut pending = pending();
        for position in 11..15 {
            ready(&mut pending, &[position]);
            let deals = pending.deal(vec![], &mut takers(&[9, 9]), 99, Position(20));
            assert_eq!(dealt(&deals.unwrap()), [(position, 2 - position % 2)]);
        }
    }

    #[test]
    fn what_was_returned_comes_first_and_what_has_no_taker_waits() {
        let mut pending = pending();
        ready(&mut pending, &[11, 12, 13]);
        let returned = vec![(Position(3), AT_LEAST_ONCE), (Position(5), AT_LEAST_ONCE)];
        let deals = pending
            .deal(returned.clone(), &mut takers(&[1]), 99, Position(20))
            .unwrap();
        assert_eq!((dealt(&deals), deals.upto), (vec![(3, 1)], Position::START));
        let deals = pending
            .deal(returned, &mut takers(&[3]), 99, Position(20))
            .unwrap();
        assert_eq!(
            (dealt(&deals), deals.upto),
            (vec![(3, 1), (5, 1), (11, 1)], Position(11))
        );
        assert!(
            pending
                .deal(vec![], &mut takers(&[0]), 99, Position(20))
                .is_none()
        );
        assert_eq!(pending.ready(), 2);
    }

    #[test]
    fn what_is_too_much_is_left_in_the_log() {
        let mut pending = pending();
        pending.fetched(std::iter::empty(), Position(20), Position(20));
        let last = 20 + READY_MAX as u64;
        for position in 15..=last + 2 {
            pending.pass(Position(position), AT_LEAST_ONCE);
        }
        assert_eq!((pending.ready(), pending.is_live), (READY_MAX, false));
        assert_eq!(pending.wants_fetch(), None);
        let deals = pending
            .deal(
                vec![],
                &mut takers(&[READY_MAX]),
                READY_MAX,
                Position(99_999),
            )
            .unwrap();
        assert_eq!(deals.upto, Position(last));
        assert_eq!(pending.wants_fetch(), Some(Position(last)));
        let more = [last, last + 1, last + 2].map(|it| (Position(it), AT_LEAST_ONCE));
        pending.fetched(more.into_iter(), Position(last + 2), Position(99_999));
        assert_eq!((pending.ready(), pending.is_live), (2, false));
    }
}
