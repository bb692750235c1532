//! Three nodes over loopback, with real files.

use std::collections::BTreeSet;
use std::time::Duration;

use magpie_state::{ClusterId, NodeId};

use super::harness::{Nodes, SOON, eventually, quick};
use crate::raft::{MembershipError, ProposeError, ReadError};

#[test]
fn commands_commit_on_the_leader_and_reach_all() {
    let nodes = Nodes::formed(quick());
    // The first proposals after an election may be refused.
    nodes.put("k1", "v");
    let leader = nodes.leader();
    for n in 2..=100 {
        let (_, count) = leader.put(&format!("k{n}"), "v").unwrap();
        assert_eq!(count, n);
    }
    nodes.agree(100);
    let index = leader.block_on(leader.group.read_index()).unwrap();
    assert_eq!(index, leader.group.applied());
    let follower = nodes.follower();
    let refused = follower.put("x", "y").unwrap_err();
    assert_eq!(
        refused,
        ProposeError::NotLeader {
            leader: Some(leader.id)
        }
    );
    let refused = follower.block_on(follower.group.read_index()).unwrap_err();
    assert!(matches!(refused, ReadError::NotLeader { .. }));
    let range = leader
        .block_on(leader.group.read_log(0..u64::MAX, 1 << 20))
        .unwrap();
    assert_eq!(range.commands.len(), 100);
    assert_eq!(range.commands, *follower.seen.applied.lock().unwrap());
}

#[test]
fn submissions_complete_in_order() {
    let nodes = Nodes::formed(quick());
    nodes.put("key", "first");
    let leader = nodes.leader();
    let (done, answered) = std::sync::mpsc::sync_channel(2000);
    leader.block_on(async {
        for n in 0..1000u32 {
            let done = done.clone();
            let command = format!("key={n}").into();
            leader
                .group
                .submit(command, move |outcome| done.send((n, outcome)).unwrap())
                .await;
        }
    });
    let mut last = 0;
    for n in 0..1000 {
        let (which, outcome) = answered.recv_timeout(SOON).unwrap();
        let (index, count) = outcome.unwrap();
        assert_eq!((which, count), (n, u64::from(n) + 2));
        assert!(index > last);
        last = index;
    }
}

#[test]
fn a_killed_leader_is_replaced_and_returns() {
    let mut nodes = Nodes::formed(quick());
    for n in 0..50 {
        nodes.put(&format!("a{n}"), "1");
    }
    nodes.agree(50);
    let leader = nodes.leader().id.0;
    nodes.kill(leader);
    nodes.put("after", "2");
    nodes.start_node(leader);
    nodes.agree(51);
    assert_eq!(nodes.node(leader).group.with_state(|tally| tally.count), 51);
}

#[test]
fn all_nodes_restart_from_disk() {
    let mut nodes = Nodes::formed(quick());
    for n in 0..50 {
        nodes.put(&format!("a{n}"), "1");
    }
    for id in 1..=3 {
        nodes.kill(id);
    }
    for id in 1..=3 {
        nodes.start_node(id);
    }
    let leader = nodes.leader();
    leader.block_on(leader.group.wait_recovered(SOON)).unwrap();
    assert_eq!(leader.group.with_state(|tally| tally.count), 50);
    nodes.put("b", "2");
    nodes.agree(51);
}

#[test]
fn a_leader_without_quorum_confirms_nothing() {
    let mut nodes = Nodes::formed(quick());
    nodes.put("a", "1");
    let leader = nodes.leader().id.0;
    for id in (1..=3).filter(|id| *id != leader) {
        nodes.kill(id);
    }
    let alone = nodes.node(leader);
    let refused = alone.block_on(alone.group.read_index()).unwrap_err();
    assert_eq!(refused, ReadError::NoQuorum);
    let count = alone.group.with_state(|tally| tally.count);
    let never = alone.block_on(async {
        let proposal = alone.group.propose("b=2".into());
        tokio::time::timeout(Duration::from_millis(500), proposal).await
    });
    assert!(never.is_err(), "{never:?}");
    assert_eq!(alone.group.with_state(|tally| tally.count), count);
}

#[test]
fn strangers_are_refused() {
    let mut nodes = Nodes::formed(quick());
    nodes.put("a", "1");
    let victim = nodes.follower().id.0;
    let term = nodes.leader().group.metrics().term;
    for (cluster, secret) in [(ClusterId(8), &b"secret"[..]), (ClusterId(7), b"guess")] {
        nodes.kill(victim);
        nodes.start_as(victim, cluster, secret);
        let stranger = nodes.node(victim);
        let refused = stranger.block_on(stranger.group.wait_recovered(Duration::from_secs(1)));
        assert_eq!(refused, Err(ReadError::NoQuorum));
        assert!(!stranger.group.is_leader());
        assert_eq!(stranger.group.metrics().term, term);
    }
    nodes.kill(victim);
    nodes.start_node(victim);
    nodes.agree(1);
}

#[test]
fn members_change_one_by_one() {
    let mut nodes = Nodes::start(1, quick());
    let one = BTreeSet::from([NodeId(1)]);
    let first = nodes.node(1);
    first.block_on(first.group.initialize(&one)).unwrap();
    first.block_on(first.group.initialize(&one)).unwrap();
    nodes.put("a", "1");
    first.block_on(first.group.read_index()).unwrap();
    nodes.start_node(2);
    nodes.start_node(3);
    let first = nodes.node(1);
    let all: BTreeSet<_> = (1..=3).map(NodeId).collect();
    let change = eventually("a change", || {
        match first.block_on(first.group.change_membership(&all, &BTreeSet::new())) {
            Err(MembershipError::InProgress) => None,
            outcome => Some(outcome),
        }
    });
    change.unwrap();
    assert_eq!(first.group.members().voters, all);
    nodes.agree(1);
    first
        .block_on(first.group.transfer_leader(NodeId(2), SOON))
        .unwrap();
    nodes.put("b", "2");
    let second = nodes.leader();
    let two = BTreeSet::from([NodeId(2), NodeId(3)]);
    second
        .block_on(
            second
                .group
                .change_membership(&two, &BTreeSet::from([NodeId(1)])),
        )
        .unwrap();
    let members = second.group.members();
    assert_eq!((members.voters, members.learners), (two, one));
    nodes.put("c", "3");
    nodes.agree(3);
}
