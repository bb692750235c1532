//! One share group.

use std::collections::{BTreeMap, BTreeSet};

use magpie_codec::{QoS, TopicFilter};

use super::derived::Derived;
use super::{ShareMemberId, row};
use crate::partition::{Changed, GroupDeals};
use crate::record::ShareSession;
use crate::{MembershipId, Position, ShareGroupId};

/// A share group in one partition.
#[derive(Debug)]
pub struct ShareGroup {
    pub(super) id: ShareGroupId,
    /// `$share/{name}/{filter}`.
    pub(super) filter: TopicFilter,
    /// Everything of the group up to here was dealt.
    pub(super) next: Position,
    pub(super) members: BTreeMap<MembershipId, ShareMember>,
    /// What was dealt and is not done.
    pub(super) open: BTreeMap<Position, Open>,
    /// Those of them that nobody has. Follows from `open`.
    pub(super) returned: BTreeSet<Position>,
    /// This replica's own, for its index of filters.
    pub(super) number: u32,
}

/// A member of a share group.
#[derive(Debug)]
pub struct ShareMember {
    pub(super) id: MembershipId,
    pub(super) qos: QoS,
    pub(super) session: Option<ShareSession>,
    /// The connection that gets its messages.
    pub(super) at: Option<ShareMemberId>,
    /// What it has and is not done. Follows from the group's `open`.
    pub(super) has: BTreeSet<Position>,
}

/// A message that was dealt.
#[derive(Debug)]
pub(super) struct Open {
    /// Who has it; `None`: it was returned.
    pub(super) owner: Option<MembershipId>,
    /// QoS of the PUBLISH.
    pub(super) published: QoS,
    /// At which its owner gets it.
    pub(super) qos: QoS,
    /// Index of the entry by which its owner's connection got it.
    pub(super) dealt: u64,
}

/// What becomes of a message whose owner goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is still the owner's.
    Stays,
    /// Another one is to get it.
    Returns,
    /// It is discarded.
    Ends,
}

impl ShareGroup {
    pub(super) fn new(id: ShareGroupId, filter: TopicFilter, next: Position) -> Self {
        Self {
            id,
            filter,
            next,
            members: BTreeMap::new(),
            open: BTreeMap::new(),
            returned: BTreeSet::new(),
            number: 0,
        }
    }

    /// Which one.
    #[must_use]
    pub const fn id(&self) -> ShareGroupId {
        self.id
    }

    /// `$share/{name}/{filter}`.
    #[must_use]
    pub const fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Everything of the group up to here was dealt; what is beyond waits in the log.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.next
    }

    /// In the order in which they joined.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &ShareMember> {
        self.members.values()
    }

    /// What was dealt, and returned because its member went away, with the QoS of its PUBLISH. Ascending.
    pub fn returned(&self) -> impl Iterator<Item = (Position, QoS)> + '_ {
        let with_qos = |position: &Position| Some((*position, self.open.get(position)?.published));
        self.returned.iter().filter_map(with_qos)
    }

    /// How many were returned.
    #[must_use]
    pub fn returned_count(&self) -> usize {
        self.returned.len()
    }

    /// How many messages were dealt and are not done, returned ones included.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn deal(
        &mut self,
        index: u64,
        deals: &GroupDeals,
        derived: &mut Derived,
        changed: &mut Changed,
    ) {
        for deal in &deals.deals {
            let is_new = match self.open.get(&deal.position) {
                Some(open) if open.owner.is_some() => continue,
                Some(_) => false,
                // A deal that was overtaken by another one tells nothing new.
                None if deal.position <= self.next => continue,
                None => true,
            };
            let member = self.members.get_mut(&deal.member);
            let Some((at, member)) = member.and_then(|member| Some((member.at?, member))) else {
                if is_new {
                    // Its member went away meanwhile.
                    let open = Open {
                        owner: None,
                        published: deal.qos,
                        qos: deal.qos,
                        dealt: index,
                    };
                    self.open.insert(deal.position, open);
                    self.returned.insert(deal.position);
                    derived.with_returned.insert(self.id);
                    changed.insert(row::open_key(self.id, deal.position));
                }
                continue;
            };
            member.has.insert(deal.position);
            derived.put(at, index, deal.position, member.id);
            let open = Open {
                owner: Some(member.id),
                published: deal.qos,
                // [MQTT-4.8.2-3]: not above what its subscription was granted.
                qos: deal.qos.min(member.qos),
                dealt: index,
            };
            self.open.insert(deal.position, open);
            if !is_new {
                self.returned.remove(&deal.position);
            }
            changed.insert(row::open_key(self.id, deal.position));
        }
        if deals.upto > self.next {
            self.next = deals.upto;
            changed.insert(row::group_key(self.id));
        }
        self.note_returned(derived);
    }

    pub(super) fn done(
        &mut self,
        member: MembershipId,
        position: Position,
        derived: &mut Derived,
        changed: &mut Changed,
    ) {
        let Some(open) = self.open.get(&position) else {
            return;
        };
        // Who lost it may be done with it all the same; a third one that has it by now gets it again.
        if open.owner.is_some_and(|owner| owner != member) {
            return;
        }
        if let Some(known) = self.members.get_mut(&member)
            && known.has.remove(&position)
            && let Some(at) = known.at
        {
            derived.take(at, open.dealt, position, member);
        }
        self.open.remove(&position);
        changed.insert(row::open_key(self.id, position));
        if self.returned.remove(&position) {
            self.note_returned(derived);
        }
    }

    /// A member that was at `at` goes, and what it has with it, or not.
    pub(super) fn let_go(
        &mut self,
        member: MembershipId,
        at: Option<ShareMemberId>,
        derived: &mut Derived,
        changed: &mut Changed,
        fate: impl Fn(Position, QoS) -> Fate,
    ) {
        let known = self.members.get_mut(&member).expect("the caller found it");
        let has = std::mem::take(&mut known.has);
        for position in has {
            let open = self
                .open
                .get_mut(&position)
                .expect("a member has what is open");
            if let Some(at) = at {
                derived.take(at, open.dealt, position, member);
            }
            match fate(position, open.qos) {
                Fate::Stays => {
                    known.has.insert(position);
                    continue;
                }
                Fate::Returns => {
                    open.owner = None;
                    self.returned.insert(position);
                }
                Fate::Ends => {
                    self.open.remove(&position);
                }
            }
            changed.insert(row::open_key(self.id, position));
        }
        self.note_returned(derived);
    }

    /// What a member has goes to where it is now.
    pub(super) fn move_deals(
        &mut self,
        member: MembershipId,
        was_at: Option<ShareMemberId>,
        index: u64,
        derived: &mut Derived,
        changed: &mut Changed,
    ) {
        let known = &self.members[&member];
        for position in &known.has {
            let open = self
                .open
                .get_mut(position)
                .expect("a member has what is open");
            if let Some(was_at) = was_at {
                derived.take(was_at, open.dealt, *position, member);
            }
            open.dealt = index;
            if let Some(at) = known.at {
                derived.put(at, index, *position, member);
            }
            changed.insert(row::open_key(self.id, *position));
        }
    }

    pub(super) fn note_returned(&self, derived: &mut Derived) {
        if self.returned.is_empty() {
            derived.with_returned.remove(&self.id);
        } else {
            derived.with_returned.insert(self.id);
        }
    }
}

impl ShareMember {
    pub(super) const fn new(
        id: MembershipId,
        qos: QoS,
        session: Option<ShareSession>,
        at: Option<ShareMemberId>,
    ) -> Self {
        Self {
            id,
            qos,
            session,
            at,
            has: BTreeSet::new(),
        }
    }

    /// Which one.
    #[must_use]
    pub const fn id(&self) -> MembershipId {
        self.id
    }

    /// QoS of its subscription.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.qos
    }

    /// The Session that it is, if that outlives its connections.
    #[must_use]
    pub const fn session(&self) -> Option<&ShareSession> {
        self.session.as_ref()
    }

    /// The connection that gets its messages; `None`: it is away.
    #[must_use]
    pub const fn at(&self) -> Option<ShareMemberId> {
        self.at
    }

    /// How many messages it has that are not done.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.has.len()
    }
}
