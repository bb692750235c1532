//! The state of the control group: members, placement of partitions, cluster settings, the routes of the direct class, and who may do what.

mod command;
mod member;
mod placement;
mod rows;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use magpie_access::{Change, Tables};
use magpie_codec::TopicFilter;
use magpie_router::{Limits, RouteTable};

pub use command::{ControlAnswer, ControlCommand, RouteChange};
pub use member::{Member, MemberState, Settings};
pub use placement::plan;

use crate::{
    ClusterId, DecodeError, Incarnation, NodeId, PartitionId, Row, StateMachine, StreamId,
};

/// How much the table of routes takes: the same on every node, since each decides for itself what is refused. At about 150 bytes a filter
/// this is some 10 GB, which a node's memory ends before.
pub const ROUTE_LIMITS: Limits = Limits {
    filters_max: 1 << 26,
    levels_max: 128,
    shapes_max: 256,
};

/// State of the control group, on every node.
#[derive(Debug)]
pub struct ControlState {
    cluster: Option<ClusterId>,
    settings: Settings,
    members: BTreeMap<NodeId, Member>,
    /// Members that were removed or replaced; an identity never comes back.
    former: BTreeSet<NodeId>,
    /// Replicas of each partition, the preferred leader first.
    placement: BTreeMap<PartitionId, Vec<NodeId>>,
    /// First placement of each partition that no leader is known to have had yet: who may found its group.
    founders: BTreeMap<PartitionId, Vec<NodeId>>,
    routes: RouteTable<NodeId>,
    access: Tables,
    /// Keys of rows changed since the last checkpoint.
    changed: HashSet<Vec<u8>, foldhash::fast::FixedState>,
}

impl Default for ControlState {
    fn default() -> Self {
        Self {
            cluster: None,
            settings: Settings::default(),
            members: BTreeMap::new(),
            former: BTreeSet::new(),
            placement: BTreeMap::new(),
            founders: BTreeMap::new(),
            routes: RouteTable::with_limits(ROUTE_LIMITS),
            access: Tables::default(),
            changed: HashSet::default(),
        }
    }
}

impl ControlState {
    /// The cluster, once it is formed.
    #[must_use]
    pub const fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// What was fixed when the cluster formed, and the list of direct filters.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Members by id, those that are down included.
    #[must_use]
    pub const fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Whether an identity was a member once and can never be one again.
    #[must_use]
    pub fn is_former(&self, node: NodeId) -> bool {
        self.former.contains(&node)
    }

    /// Replicas of each placed partition, the preferred leader first.
    #[must_use]
    pub const fn placement(&self) -> &BTreeMap<PartitionId, Vec<NodeId>> {
        &self.placement
    }

    /// Who may found the group of a partition, the first one preferably: its first replicas, until it has had a leader. A node that is not
    /// among them, or that comes back later without data, must never do it.
    #[must_use]
    pub const fn founders(&self) -> &BTreeMap<PartitionId, Vec<NodeId>> {
        &self.founders
    }

    /// Which nodes have an online subscriber for which filter.
    #[must_use]
    pub const fn routes(&self) -> &RouteTable<NodeId> {
        &self.routes
    }

    /// Users, rules and bans.
    #[must_use]
    pub const fn access(&self) -> &Tables {
        &self.access
    }

    /// Whether this life of a node is over, as far as this state knows: declared down, followed by another, or no member. A life that
    /// this state has not heard of yet is not over.
    #[must_use]
    pub fn is_over(&self, stream: StreamId) -> bool {
        self.members.get(&stream.node).map_or_else(
            || self.former.contains(&stream.node),
            |member| {
                let known = member.incarnation;
                stream.incarnation.counter < known.counter
                    || (stream.incarnation == known && member.state == MemberState::Down)
            },
        )
    }

    /// What an announcement of `life`, whose data directory knows `previous` as the life before, would be answered: whether it may go on.
    #[must_use]
    pub fn judge(&self, life: StreamId, previous: Incarnation) -> ControlAnswer {
        if self.former.contains(&life.node) {
            return ControlAnswer::Left;
        }
        let Some(known) = self.members.get(&life.node) else {
            return refused("not a member");
        };
        let (new, old) = (life.incarnation, known.incarnation);
        let is_copy = |life: Incarnation| life.counter == old.counter && life.nonce != old.nonce;
        if new.counter < old.counter || is_copy(new) || is_copy(previous) {
            return ControlAnswer::Fenced { newest: old };
        }
        if new == old && known.state == MemberState::Down {
            return ControlAnswer::Down;
        }
        ControlAnswer::Done
    }
}

impl StateMachine for ControlState {
    type Answer = ControlAnswer;
    type Carry = ();

    fn apply(&mut self, _index: u64, command: &Bytes) -> ControlAnswer {
        match ControlCommand::decode(command) {
            Ok(ControlCommand::Form {
                cluster,
                settings,
                members,
            }) => self.form(cluster, settings, members),
            Ok(ControlCommand::Join { member, replaces }) => self.join(member, replaces),
            Ok(ControlCommand::Announce { member, previous }) => self.announce(member, previous),
            Ok(ControlCommand::Down { node, incarnation }) => self.down(node, incarnation),
            Ok(ControlCommand::Remove { node }) => self.remove(node),
            Ok(ControlCommand::Place {
                partition,
                replicas,
            }) => self.place(partition, replicas),
            Ok(ControlCommand::Founded { partitions }) => self.founded(&partitions),
            Ok(ControlCommand::Routes {
                node,
                incarnation,
                changes,
            }) => self.change_routes(node, incarnation, &changes),
            Ok(ControlCommand::SetDirect { filters }) => self.set_direct(filters),
            Ok(ControlCommand::Access(change)) => self.change_access(change),
            Err(error) => ControlAnswer::Refused(error.to_string()),
        }
    }

    fn take_changed(&mut self) -> Vec<Row> {
        let keys = std::mem::take(&mut self.changed);
        keys.into_iter()
            .map(|key| Row {
                value: self.value(&key).map(Into::into),
                key,
            })
            .collect()
    }

    fn rows(&self) -> Vec<Row> {
        self.keys()
            .map(|key| Row {
                value: self.value(&key).map(Into::into),
                key,
            })
            .collect()
    }

    fn load(&mut self, row: Row) -> Result<(), DecodeError> {
        self.load_row(row)
    }
}

impl ControlState {
    fn form(
        &mut self,
        cluster: ClusterId,
        settings: Settings,
        members: Vec<Member>,
    ) -> ControlAnswer {
        if let Some(formed) = self.cluster {
            // A repeat of the first command, after a lost answer.
            return if formed == cluster {
                ControlAnswer::Done
            } else {
                refused("the cluster is formed already")
            };
        }
        self.cluster = Some(cluster);
        self.settings = settings;
        self.changed.insert(rows::settings_key());
        for member in members {
            self.changed.insert(rows::member_key(member.id));
            self.members.insert(member.id, member);
        }
        ControlAnswer::Done
    }

    fn join(&mut self, member: Member, replaces: Option<NodeId>) -> ControlAnswer {
        if self.former.contains(&member.id) {
            return ControlAnswer::Left;
        }
        let same_address = self
            .members
            .values()
            .find(|known| known.cluster_addr == member.cluster_addr);
        match same_address {
            Some(known) if known.id == member.id => {
                return self.announce(member, Incarnation::default());
            }
            Some(known) if replaces == Some(known.id) && known.state == MemberState::Up => {
                return refused("the member with this address is up");
            }
            Some(known) if replaces != Some(known.id) => {
                return refused("another member has this address");
            }
            _ => {}
        }
        if let Some(old) = replaces.filter(|old| self.members.contains_key(old)) {
            // The newcomer takes the places of the member that it replaces, so that nothing else moves.
            for replicas in self.placement.values_mut() {
                replicas
                    .iter_mut()
                    .filter(|node| **node == old)
                    .for_each(|node| *node = member.id);
            }
            let partitions: Vec<_> = self.placement.keys().copied().collect();
            self.changed
                .extend(partitions.into_iter().map(rows::placement_key));
            self.forget_member(old);
        }
        self.changed.insert(rows::member_key(member.id));
        self.members.insert(member.id, member);
        ControlAnswer::Done
    }

    /// A member started: its new life and its addresses.
    fn announce(&mut self, member: Member, previous: Incarnation) -> ControlAnswer {
        let life = StreamId {
            node: member.id,
            incarnation: member.incarnation,
        };
        let verdict = self.judge(life, previous);
        if verdict != ControlAnswer::Done {
            return verdict;
        }
        let known = self.members.get(&member.id);
        if known.is_some_and(|known| known.incarnation != member.incarnation) {
            self.drop_routes(member.id);
        }
        self.changed.insert(rows::member_key(member.id));
        self.members.insert(
            member.id,
            Member {
                state: MemberState::Up,
                ..member
            },
        );
        ControlAnswer::Done
    }

    fn down(&mut self, node: NodeId, incarnation: Incarnation) -> ControlAnswer {
        if let Some(member) = self
            .members
            .get_mut(&node)
            .filter(|member| member.incarnation == incarnation)
        {
            member.state = MemberState::Down;
            self.changed.insert(rows::member_key(node));
            self.drop_routes(node);
        }
        ControlAnswer::Done
    }

    fn remove(&mut self, node: NodeId) -> ControlAnswer {
        if self
            .members
            .get(&node)
            .is_some_and(|member| member.state == MemberState::Up)
        {
            return refused("the node is up; stop it first");
        }
        if self
            .placement
            .values()
            .any(|replicas| replicas.len() == 1 && replicas[0] == node)
        {
            return refused("the node holds the only replica of a partition");
        }
        self.forget_member(node);
        ControlAnswer::Done
    }

    fn forget_member(&mut self, node: NodeId) {
        self.drop_routes(node);
        self.members.remove(&node);
        self.former.insert(node);
        self.changed.insert(rows::member_key(node));
        self.changed.insert(rows::former_key(node));
    }

    fn place(&mut self, partition: PartitionId, replicas: Vec<NodeId>) -> ControlAnswer {
        if replicas.is_empty() || replicas.iter().any(|node| !self.members.contains_key(node)) {
            return refused("a partition is placed on members");
        }
        self.changed.insert(rows::placement_key(partition));
        if !self.placement.contains_key(&partition) {
            self.changed.insert(rows::founders_key(partition));
            self.founders.insert(partition, replicas.clone());
        }
        self.placement.insert(partition, replicas);
        ControlAnswer::Done
    }

    fn founded(&mut self, partitions: &[PartitionId]) -> ControlAnswer {
        for partition in partitions {
            if self.founders.remove(partition).is_some() {
                self.changed.insert(rows::founders_key(*partition));
            }
        }
        ControlAnswer::Done
    }

    fn change_routes(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        changes: &[RouteChange],
    ) -> ControlAnswer {
        let current = self.members.get(&node).is_some_and(|member| {
            member.incarnation == incarnation && member.state == MemberState::Up
        });
        if !current {
            return refused("routes of a life that is over");
        }
        let mut refused = Vec::new();
        for (ordinal, RouteChange { filter, members }) in (0..).zip(changes) {
            match self.routes.set_members(filter, node, *members) {
                Ok(_) => drop(self.changed.insert(rows::route_key(filter))),
                // One that does not fit must not hold up the others.
                Err(_) => refused.push(ordinal),
            }
        }
        if refused.is_empty() {
            ControlAnswer::Done
        } else {
            ControlAnswer::RoutesRefused { ordinals: refused }
        }
    }

    fn drop_routes(&mut self, node: NodeId) {
        let gone: Vec<TopicFilter> = self.routes_of(node).collect();
        for filter in gone {
            self.routes.remove(&filter, node);
            self.changed.insert(rows::route_key(&filter));
        }
    }

    fn set_direct(&mut self, filters: Vec<String>) -> ControlAnswer {
        if filters
            .iter()
            .any(|filter| TopicFilter::try_from(filter.as_str()).is_err())
        {
            return refused("not a topic filter");
        }
        self.settings.direct_filters = filters;
        self.changed.insert(rows::settings_key());
        ControlAnswer::Done
    }

    fn change_access(&mut self, change: Change) -> ControlAnswer {
        let mut touched = Vec::new();
        let changed = self.access.apply(change, &mut touched);
        self.changed.extend(touched.iter().map(rows::access_key));
        match changed {
            Ok(changed) => ControlAnswer::Access(changed),
            Err(error) => ControlAnswer::Refused(error.to_string()),
        }
    }
}

fn refused(why: &str) -> ControlAnswer {
    ControlAnswer::Refused(why.to_owned())
}

#[cfg(test)]
mod tests;
