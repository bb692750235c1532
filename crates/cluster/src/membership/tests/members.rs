//! Members that come and go while the cluster works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use magpie_state::{NodeId, PartitionId};

use super::harness::{Nodes, PARTITIONS, eventually};
use crate::Error;
use crate::groups::group_of;

/// Replicas that run on each node, by the node.
fn replicas(nodes: &Nodes) -> BTreeMap<NodeId, usize> {
    let all = nodes.running.values();
    all.map(|node| (node.id(), node.groups.partitions().len()))
        .collect()
}

/// Whether the members of every group are what the placement says, and nothing else runs.
fn is_settled(nodes: &Nodes) -> bool {
    let placement = nodes.node(1).state(|state| state.placement().clone());
    placement.len() == usize::from(PARTITIONS)
        && placement.iter().all(|(partition, placed)| {
            let placed: BTreeSet<NodeId> = placed.iter().copied().collect();
            nodes.running.values().all(|node| {
                let group = node.groups.partition(*partition);
                match group {
                    Some(group) => {
                        placed.contains(&node.id())
                            && group.members().voters == placed
                            && group.members().learners.is_empty()
                    }
                    None => !placed.contains(&node.id()),
                }
            })
        })
}

#[test]
fn a_fourth_node_joins_and_gets_replicas() {
    let mut nodes = Nodes::three();
    nodes.start(4);
    nodes.all_ready();
    nodes.know(&nodes.ids());
    eventually(
        || replicas(&nodes),
        || {
            let loads = replicas(&nodes);
            (is_settled(&nodes) && loads.values().all(|load| *load == 3)).then_some(())
        },
    );
    let control = nodes.node(1).groups.control().unwrap();
    assert_eq!(control.members().voters.len(), 3);
    assert_eq!(control.members().learners.len(), 1);
    // A node without a replica of a partition knows its leader all the same.
    for node in nodes.running.values() {
        for partition in (0..PARTITIONS).map(PartitionId) {
            assert!(node.leaders.leader(group_of(partition)).is_some());
        }
    }
    nodes.kill(4);
    nodes.start(4);
    nodes.all_ready();
}

#[test]
fn one_node_grows_to_three() {
    let mut nodes = Nodes::new(&[1]);
    nodes.start(1);
    nodes.all_ready();
    nodes.start(2);
    nodes.start(3);
    nodes.all_ready();
    nodes.replicated_on(&nodes.ids());
    eventually(
        || nodes.node(1).groups.control().unwrap().members(),
        || {
            let members = nodes.node(1).groups.control().unwrap().members();
            (members.voters.len() == 3).then_some(())
        },
    );
}

#[test]
fn leaderships_spread_and_are_handed_over() {
    let nodes = Nodes::three();
    let led = |number: u64| {
        let partitions = nodes.node(number).groups.partitions();
        partitions
            .iter()
            .filter(|(_, group)| group.is_leader())
            .count()
    };
    eventually(
        || [1, 2, 3].map(led),
        || {
            [1, 2, 3]
                .iter()
                .all(|number| led(*number) > 0)
                .then_some(())
        },
    );
    let leader = nodes.control_leader();
    let node = nodes.node(leader);
    node.block_on(node.membership.hand_over(Duration::from_secs(10)));
    assert_eq!(led(leader), 0);
    assert!(!node.groups.control().unwrap().is_leader());
    assert!(node.why_not().contains("stop") || !node.is_ready());
}

#[test]
fn a_member_that_is_down_is_removed() {
    let mut nodes = Nodes::three();
    let gone = nodes.node(3).id();
    let asked = nodes.node(1);
    let refused = || asked.block_on(asked.membership.remove_member(gone));
    // There may be no leader for a moment.
    eventually(refused, || {
        matches!(refused(), Err(Error::Refused(_))).then_some(())
    });
    nodes.kill(3);
    let asked = nodes.node(1);
    let last = std::cell::RefCell::new(None);
    eventually(
        || format!("{:?} {:?}", last.borrow(), asked.membership.status()),
        || {
            let outcome = asked.block_on(asked.membership.remove_member(gone));
            let is_done = outcome.is_ok();
            *last.borrow_mut() = Some(outcome);
            is_done.then_some(())
        },
    );
    nodes.know(&nodes.ids());
    eventually(|| replicas(&nodes), || is_settled(&nodes).then_some(()));
    nodes.start(3);
    assert!(matches!(nodes.node(3).fatal(), crate::Fatal::Fenced(_)));
}
