//! What follows from the share groups, for finding things.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use magpie_codec::{QoS, TopicFilter, TopicName};

use super::{ShareGroup, ShareMember, ShareMemberId};
use crate::partition::sessions::interest::Interest;
use crate::{ClientId, MembershipId, Position, ShareGroupId, StreamId};

/// A message of a share group that a connection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dealt {
    /// Number of the connection.
    pub member: u64,
    /// By which of its memberships it has the message.
    pub membership: MembershipId,
    /// `$share/{name}/{filter}`.
    pub filter: TopicFilter,
    /// Which message.
    pub position: Position,
    /// At which QoS it gets it.
    pub qos: QoS,
}

#[derive(Debug, Default)]
pub(super) struct Derived {
    pub(super) by_filter: BTreeMap<TopicFilter, ShareGroupId>,
    pub(super) by_membership: HashMap<MembershipId, ShareGroupId, foldhash::fast::FixedState>,
    /// Memberships of connections.
    pub(super) by_place: BTreeMap<ShareMemberId, Vec<MembershipId>>,
    /// Memberships of Sessions that outlive connections.
    pub(super) by_client: HashMap<ClientId, Vec<MembershipId>, foldhash::fast::FixedState>,
    /// Groups with messages that nobody has.
    pub(super) with_returned: BTreeSet<ShareGroupId>,
    /// What connections have, in the order in which it was dealt to each node.
    dealt: BTreeSet<(StreamId, u64, Position, MembershipId)>,
    by_topic: Interest,
    numbers: HashMap<u32, ShareGroupId, foldhash::fast::FixedState>,
    last_number: u32,
}

impl Derived {
    /// Enters a group that has no members yet.
    pub(super) fn add_group(&mut self, group: &mut ShareGroup) {
        self.by_filter.insert(group.filter.clone(), group.id);
        while self.numbers.contains_key(&self.last_number) {
            self.last_number = self.last_number.wrapping_add(1);
        }
        group.number = self.last_number;
        self.numbers.insert(group.number, group.id);
        self.by_topic.add(&group.filter.unshared(), group.number);
    }

    pub(super) fn remove_group(&mut self, group: &ShareGroup) {
        self.by_filter.remove(&group.filter);
        self.with_returned.remove(&group.id);
        self.numbers.remove(&group.number);
        self.by_topic.remove(&group.filter.unshared(), group.number);
    }

    pub(super) fn add_member(&mut self, group: ShareGroupId, member: &ShareMember) {
        self.by_membership.insert(member.id, group);
        self.move_member(member.id, None, member.at);
        if let Some(session) = &member.session {
            let client = ClientId(session.client.0.compact());
            self.by_client.entry(client).or_default().push(member.id);
        }
    }

    /// Of a member that has no messages any more.
    pub(super) fn remove_member(&mut self, member: &ShareMember) {
        self.by_membership.remove(&member.id);
        self.move_member(member.id, member.at, None);
        if let Some(session) = &member.session
            && let Some(memberships) = self.by_client.get_mut(&session.client)
        {
            memberships.retain(|of| *of != member.id);
            if memberships.is_empty() {
                self.by_client.remove(&session.client);
            }
        }
    }

    pub(super) fn move_member(
        &mut self,
        member: MembershipId,
        from: Option<ShareMemberId>,
        to: Option<ShareMemberId>,
    ) {
        if let Some(from) = from
            && let Some(there) = self.by_place.get_mut(&from)
        {
            there.retain(|of| *of != member);
            if there.is_empty() {
                self.by_place.remove(&from);
            }
        }
        if let Some(to) = to {
            self.by_place.entry(to).or_default().push(member);
        }
    }

    /// A member's connection has a message, by the entry at `dealt`.
    pub(super) fn put(
        &mut self,
        at: ShareMemberId,
        dealt: u64,
        position: Position,
        member: MembershipId,
    ) {
        self.dealt.insert((at.stream, dealt, position, member));
    }

    /// The reverse.
    pub(super) fn take(
        &mut self,
        at: ShareMemberId,
        dealt: u64,
        position: Position,
        member: MembershipId,
    ) {
        self.dealt.remove(&(at.stream, dealt, position, member));
    }

    pub(super) fn dealt_to(
        &self,
        groups: &BTreeMap<ShareGroupId, ShareGroup>,
        stream: StreamId,
        after: u64,
        limit: usize,
    ) -> (Vec<Dealt>, u64, bool) {
        let from = (stream, after, LAST, MembershipId(LAST));
        let to = (stream, u64::MAX, LAST, MembershipId(LAST));
        let mut found: Vec<Dealt> = Vec::new();
        let mut entry = after;
        for (_, dealt, position, member) in self
            .dealt
            .range((Bound::Excluded(from), Bound::Included(to)))
        {
            if *dealt != entry && found.len() >= limit {
                return (found, entry, true);
            }
            entry = *dealt;
            let group = self.by_membership.get(member);
            let Some(group) = group.and_then(|group| groups.get(group)) else {
                continue;
            };
            if let (Some(open), Some(at)) = (group.open.get(position), group.members[member].at) {
                found.push(Dealt {
                    member: at.member,
                    membership: *member,
                    filter: group.filter.clone(),
                    position: *position,
                    qos: open.qos,
                });
            }
        }
        (found, entry, false)
    }

    /// Calls `f` with every group whose filter matches.
    pub(super) fn for_each_match(&self, topic: &TopicName, mut f: impl FnMut(ShareGroupId)) {
        if !self.numbers.is_empty() {
            self.by_topic.for_each_match(topic, |_, number| {
                if let Some(group) = self.numbers.get(&number) {
                    f(*group);
                }
            });
        }
    }
}

/// Behind every position.
const LAST: Position = Position(u64::MAX);
