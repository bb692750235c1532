//! Where partitions should be.

use std::collections::BTreeMap;

use super::{ControlState, MemberState};
use crate::{NodeId, PartitionId};

/// The next step towards a good placement, or `None` when it is good: the partition and its new replicas, preferred leader first.
///
/// Good means: every partition has as many replicas as the replication factor and the members allow, loads differ by at most one, and so
/// do preferred leaderships. A replica on a member that is down stays where it is (the member usually comes back; a wiped one takes its
/// former place when it joins); it is moved only once that member is removed. One step changes one partition, and by one replica where
/// replicas exist already, so that data moves one at a time.
#[must_use]
pub fn plan(state: &ControlState) -> Option<(PartitionId, Vec<NodeId>)> {
    let factor = usize::from(state.settings.replication_factor)
        .min(state.members.len())
        .max(1);
    let up = || {
        state
            .members
            .values()
            .filter(|member| member.state == MemberState::Up)
            .map(|member| member.id)
    };
    let load = |of: NodeId| {
        state
            .placement
            .values()
            .filter(|replicas| replicas.contains(&of))
            .count()
    };
    let leads = |of: NodeId| {
        state
            .placement
            .values()
            .filter(|replicas| replicas[0] == of)
            .count()
    };
    let least = |not: &[NodeId]| {
        up().filter(|node| !not.contains(node))
            .min_by_key(|node| (load(*node), *node))
    };

    for number in 0..state.settings.partitions {
        let partition = PartitionId(number);
        let Some(replicas) = state.placement.get(&partition) else {
            return place_new(partition, up().collect(), factor, load, leads);
        };
        let mut kept: Vec<NodeId> = replicas
            .iter()
            .copied()
            .filter(|node| state.members.contains_key(node))
            .collect();
        if kept.len() < factor
            && let Some(another) = least(&kept)
        {
            kept.push(another);
            return Some((partition, kept));
        }
        if kept.len() != replicas.len() && !kept.is_empty() {
            return Some((partition, kept));
        }
    }
    spread_replicas(state, load, up().collect()).or_else(|| spread_leaders(&state.placement, leads))
}

/// A partition that has no data yet: the least loaded members, led by the one that leads least.
fn place_new(
    partition: PartitionId,
    mut up: Vec<NodeId>,
    factor: usize,
    load: impl Fn(NodeId) -> usize,
    leads: impl Fn(NodeId) -> usize,
) -> Option<(PartitionId, Vec<NodeId>)> {
    up.sort_by_key(|node| (load(*node), *node));
    up.truncate(factor);
    up.sort_by_key(|node| (leads(*node), *node));
    (!up.is_empty()).then_some((partition, up))
}

/// Moves one replica from the most loaded member to the least loaded one that is up, if they differ by more than one.
fn spread_replicas(
    state: &ControlState,
    load: impl Fn(NodeId) -> usize,
    up: Vec<NodeId>,
) -> Option<(PartitionId, Vec<NodeId>)> {
    let to = up.iter().copied().min_by_key(|node| (load(*node), *node))?;
    let from = up.iter().copied().max_by_key(|node| (load(*node), *node))?;
    if load(from) <= load(to) + 1 {
        return None;
    }
    let (partition, replicas) = state
        .placement
        .iter()
        .find(|(_, replicas)| replicas.contains(&from) && !replicas.contains(&to))?;
    let moved = replicas
        .iter()
        .map(|node| if *node == from { to } else { *node })
        .collect();
    Some((*partition, moved))
}

/// Moves one preferred leadership within a partition's replicas, if that evens them out.
fn spread_leaders(
    placement: &BTreeMap<PartitionId, Vec<NodeId>>,
    leads: impl Fn(NodeId) -> usize,
) -> Option<(PartitionId, Vec<NodeId>)> {
    placement.iter().find_map(|(partition, replicas)| {
        let at = (1..replicas.len()).find(|at| leads(replicas[*at]) + 1 < leads(replicas[0]))?;
        let mut reordered = replicas.clone();
        reordered.swap(0, at);
        Some((*partition, reordered))
    })
}
