//! The share groups whose filter can match a topic of this partition: who is in them, how far they have got, and who has which message.
//!
//! ```text
//!              deal                 done: acknowledged, refused
//!   in the log ─────► of a member ──────────────────────────────► (forgotten)
//!       ▲ next           │   ▲   the member's Session ends, QoS 2 ────┘
//!                        ▼   │ deal
//!                     returned: the member went away
//! ```
//! A group begins with its first member and ends with its last. `next` is how far it has got: of the messages behind that, those that are
//! not done are `open`, and all beyond wait in the log. So a group that nobody serves costs a row, however much waits for it.
//!
//! The partition's leader [deals](super::PartitionCommand::Deal); connections learn of it from this state, on whatever replica it is.

mod derived;
mod group;
mod row;

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use magpie_codec::{QoS, TopicFilter, TopicName};

pub use self::derived::Dealt;
use self::derived::Derived;
use self::group::Fate;
pub use self::group::{ShareGroup, ShareMember};
use super::{Changed, GroupDeals};
use crate::record::ShareSession;
use crate::{ClientId, DecodeError, Epoch, MembershipId, Position, ShareGroupId, StreamId};

/// A connection of a node, cluster-wide, as a member of share groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareMemberId {
    /// The node, in which life.
    pub stream: StreamId,
    /// Number of the connection there.
    pub member: u64,
}

/// Who joins.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) at: ShareMemberId,
    pub(super) qos: QoS,
    pub(super) session: Option<ShareSession>,
}

/// All groups of a partition.
#[derive(Debug, Default)]
pub(super) struct ShareGroups {
    groups: BTreeMap<ShareGroupId, ShareGroup>,
    derived: Derived,
    /// Grows with every change of groups and members, so that those who derive something notice. Not part of the agreed state.
    generation: u64,
}

/// What of a membership's messages may have been sent at QoS 2.
enum Sent {
    Anything,
    These(HashSet<Position, foldhash::fast::FixedState>),
}

impl Sent {
    fn of(member: MembershipId, sent: Option<&[(MembershipId, Position)]>) -> Self {
        let Some(sent) = sent else {
            return Self::Anything;
        };
        let its = sent.iter().filter(|(of, _)| *of == member);
        Self::These(its.map(|(_, position)| *position).collect())
    }

    fn contains(&self, position: Position) -> bool {
        match self {
            Self::Anything => true,
            Self::These(positions) => positions.contains(&position),
        }
    }
}

impl ShareGroups {
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ShareGroup> {
        self.groups.values()
    }

    pub(super) fn group(&self, group: ShareGroupId) -> Option<&ShareGroup> {
        self.groups.get(&group)
    }

    pub(super) fn with_returned(&self) -> impl Iterator<Item = &ShareGroup> {
        let groups = self.derived.with_returned.iter();
        groups.filter_map(|group| self.groups.get(group))
    }

    pub(super) fn dealt_to(
        &self,
        stream: StreamId,
        after: u64,
        limit: usize,
    ) -> (Vec<Dealt>, u64, bool) {
        self.derived.dealt_to(&self.groups, stream, after, limit)
    }

    pub(super) fn needed_above(&self, topic: &TopicName) -> Option<Position> {
        let mut lowest: Option<Position> = None;
        self.derived.for_each_match(topic, |group| {
            if let Some(group) = self.groups.get(&group) {
                lowest = Some(lowest.map_or(group.next, |lowest| lowest.min(group.next)));
            }
        });
        lowest
    }

    pub(super) fn held(&self) -> impl Iterator<Item = Position> + '_ {
        self.groups
            .values()
            .flat_map(|group| group.open.keys())
            .copied()
    }

    /// Lives whose end matters here.
    pub(super) fn holders(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.derived.by_place.keys().map(|at| at.stream)
    }

    /// A connection takes part: as a member of its own, or as the place where its Session's messages go from now on.
    pub(super) fn join(
        &mut self,
        place: Position,
        filter: &TopicFilter,
        joining: Joining,
        changed: &mut Changed,
    ) {
        self.generation += 1;
        let founded = ShareGroupId(place);
        let id = *self
            .derived
            .by_filter
            .entry(filter.compact())
            .or_insert(founded);
        if id == founded {
            let mut group = ShareGroup::new(id, filter.compact(), place);
            self.derived.add_group(&mut group);
            self.groups.insert(id, group);
            changed.insert(row::group_key(id));
        }
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let Joining { at, qos, session } = joining;
        let known = group
            .members
            .values()
            .find(|member| match (&session, &member.session) {
                (Some(new), Some(known)) => new.client == known.client,
                (None, None) => member.at == Some(at),
                _ => false,
            });
        if let (Some(known), Some(new)) = (known, &session)
            && let Some(old) = &known.session
        {
            if (new.session, new.epoch) < (old.session, old.epoch) {
                // Overtaken by a newer connection, or of a Session that has ended.
                return;
            }
            if new.session > old.session {
                let ended = known.id;
                self.end_membership(ended, changed);
                return self.join(place, filter, Joining { at, qos, session }, changed);
            }
        }
        match known.map(|known| known.id) {
            Some(member) => self.go_on(id, member, Joining { at, qos, session }, place, changed),
            None => {
                let member = ShareMember::new(MembershipId(place), qos, session, Some(at));
                self.derived.add_member(id, &member);
                changed.insert(row::member_key(id, member.id));
                let group = self.groups.get_mut(&id).expect("found above");
                group.members.insert(member.id, member);
            }
        }
    }

    /// A member is (still, or again) online. What of QoS 2 it has goes to the new place; of QoS 1, all may have it.
    fn go_on(
        &mut self,
        id: ShareGroupId,
        member: MembershipId,
        joining: Joining,
        place: Position,
        changed: &mut Changed,
    ) {
        let group = self.groups.get_mut(&id).expect("the caller found it");
        changed.insert(row::member_key(id, member));
        let known = group.members.get_mut(&member).expect("the caller found it");
        let has_moved = known.at != Some(joining.at);
        known.qos = joining.qos;
        known.session = joining.session;
        if !has_moved {
            return;
        }
        self.derived.move_member(member, known.at, Some(joining.at));
        let was_at = known.at.replace(joining.at);
        group.let_go(
            member,
            was_at,
            &mut self.derived,
            changed,
            |_, qos| match qos {
                QoS::ExactlyOnce => Fate::Stays,
                _ => Fate::Returns,
            },
        );
        group.move_deals(member, was_at, place.index(), &mut self.derived, changed);
    }

    /// A subscription has ended.
    pub(super) fn leave(
        &mut self,
        filter: &TopicFilter,
        at: ShareMemberId,
        session: Option<&ShareSession>,
        sent: Option<&[(MembershipId, Position)]>,
        changed: &mut Changed,
    ) {
        let Some(group) = self.derived.by_filter.get(filter) else {
            return;
        };
        let group = &self.groups[group];
        let leaving = group
            .members
            .values()
            .find(|member| match (session, &member.session) {
                (Some(leaving), Some(known)) => {
                    leaving.client == known.client
                        && leaving.session == known.session
                        && leaving.epoch >= known.epoch
                }
                (None, None) => member.at == Some(at),
                _ => false,
            });
        if let Some(leaving) = leaving.map(|leaving| leaving.id) {
            let sent = Sent::of(leaving, sent);
            self.remove_member(leaving, changed, |position, qos| match qos {
                QoS::ExactlyOnce if sent.contains(position) => Fate::Ends,
                _ => Fate::Returns,
            });
        }
    }

    /// A connection has ended.
    pub(super) fn part(
        &mut self,
        at: ShareMemberId,
        sent: Option<&[(MembershipId, Position)]>,
        changed: &mut Changed,
    ) {
        let parting = self.derived.by_place.get(&at).cloned().unwrap_or_default();
        for member in parting {
            let sent = Sent::of(member, sent);
            let Some(group) = self.derived.by_membership.get(&member) else {
                continue;
            };
            let group = self.groups.get_mut(group).expect("a member is of a group");
            let known = group.members.get_mut(&member).expect("indexed");
            if known.session.is_none() {
                // The Session ends with its connection: what it may have got of QoS 2 is nobody else's [MQTT-4.8.2-5].
                self.remove_member(member, changed, |position, qos| match qos {
                    QoS::ExactlyOnce if sent.contains(position) => Fate::Ends,
                    _ => Fate::Returns,
                });
                continue;
            }
            self.generation += 1;
            changed.insert(row::member_key(group.id, member));
            known.at = None;
            self.derived.move_member(member, Some(at), None);
            group.let_go(
                member,
                Some(at),
                &mut self.derived,
                changed,
                |position, qos| {
                    match qos {
                        // [MQTT-4.8.2-4]: its delivery is completed when the client comes back.
                        QoS::ExactlyOnce if sent.contains(position) => Fate::Stays,
                        _ => Fate::Returns,
                    }
                },
            );
        }
    }

    /// A life of a node is over.
    pub(super) fn end_stream(&mut self, stream: StreamId, changed: &mut Changed) {
        let is_over = |of: StreamId| {
            of.node == stream.node && of.incarnation.counter <= stream.incarnation.counter
        };
        let places = self.derived.by_place.keys().copied();
        let over: Vec<ShareMemberId> = places.filter(|at| is_over(at.stream)).collect();
        for at in over {
            self.part(at, None, changed);
        }
    }

    /// A Session has ended, and those of the client before it.
    pub(super) fn end_session(&mut self, client: &ClientId, session: Epoch, changed: &mut Changed) {
        let memberships = self.derived.by_client.get(client).cloned();
        for member in memberships.unwrap_or_default() {
            let of = self
                .member(member)
                .and_then(|member| member.session.as_ref());
            if of.is_some_and(|of| of.session <= session) {
                self.end_membership(member, changed);
            }
        }
    }

    /// Ends memberships that nobody else will end.
    pub(super) fn drop_waiting(
        &mut self,
        memberships: &[(MembershipId, Epoch)],
        changed: &mut Changed,
    ) {
        for (member, epoch) in memberships {
            let is_as_seen = self.member(*member).is_some_and(|known| {
                let session = known.session.as_ref();
                known.at.is_none() && session.is_some_and(|session| session.epoch == *epoch)
            });
            if is_as_seen {
                self.end_membership(*member, changed);
            }
        }
    }

    /// Messages need no more.
    pub(super) fn done(
        &mut self,
        member: MembershipId,
        positions: &[Position],
        changed: &mut Changed,
    ) {
        let Some(group) = self.derived.by_membership.get(&member) else {
            return;
        };
        let group = self.groups.get_mut(group).expect("a member is of a group");
        for position in positions {
            group.done(member, *position, &mut self.derived, changed);
        }
    }

    /// The leader deals.
    pub(super) fn deal(&mut self, index: u64, deals: &GroupDeals, changed: &mut Changed) {
        if let Some(group) = self.groups.get_mut(&deals.group) {
            group.deal(index, deals, &mut self.derived, changed);
        }
    }

    fn member(&self, member: MembershipId) -> Option<&ShareMember> {
        let group = self.groups.get(self.derived.by_membership.get(&member)?)?;
        group.members.get(&member)
    }

    /// The Session of a member has ended: its messages of QoS 2 are nobody else's [MQTT-4.8.2-5].
    fn end_membership(&mut self, member: MembershipId, changed: &mut Changed) {
        self.remove_member(member, changed, |_, qos| match qos {
            QoS::ExactlyOnce => Fate::Ends,
            _ => Fate::Returns,
        });
    }

    fn remove_member(
        &mut self,
        member: MembershipId,
        changed: &mut Changed,
        fate: impl Fn(Position, QoS) -> Fate,
    ) {
        let Some(id) = self.derived.by_membership.get(&member).copied() else {
            return;
        };
        self.generation += 1;
        let group = self.groups.get_mut(&id).expect("a member is of a group");
        let at = group.members[&member].at;
        group.let_go(member, at, &mut self.derived, changed, fate);
        let gone = group.members.remove(&member).expect("indexed");
        self.derived.remove_member(&gone);
        changed.insert(row::member_key(id, member));
        if group.members.is_empty() {
            // Nobody is left to wait for.
            changed.insert(row::group_key(id));
            changed.extend(
                group
                    .open
                    .keys()
                    .map(|position| row::open_key(id, *position)),
            );
            self.derived.remove_group(group);
            self.groups.remove(&id);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        row::keys(&self.groups)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        row::value(&self.groups, key)
    }

    pub(super) fn load(&mut self, key: Bytes, value: Bytes) -> Result<(), DecodeError> {
        self.generation += 1;
        row::load(&mut self.groups, &mut self.derived, key, value)
    }
}
