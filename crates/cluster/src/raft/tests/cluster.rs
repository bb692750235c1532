//! Three nodes over loopback, with real files.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use magpie_state::{ClusterId, NodeId};

use super::harness::{Nodes, SOON, eventually, quick, steady};
use crate::raft::proto::{self, raft_client::RaftClient};
use crate::raft::{Config, MembershipError, ProposeError, ReadError};
use crate::rpc::Purpose;

#[test]
fn commands_commit_on_the_leader_and_reach_all() {
    let nodes = Nodes::formed(steady());
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
    let long = "v".repeat(leader.group.command_bytes_max());
    let refused = leader.put("k", &long).unwrap_err();
    assert!(matches!(refused, ProposeError::TooLong { .. }));
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
    for node in [leader, follower] {
        assert!(node.group.since_contact().unwrap() < SOON);
    }
    let range = leader
        .block_on(leader.group.read_log(0..u64::MAX, 1 << 20))
        .unwrap();
    assert_eq!(range.commands.len(), 100);
    assert_eq!(range.commands, *follower.seen.applied.lock().unwrap());
}

#[test]
fn submissions_complete_in_order() {
    let nodes = Nodes::formed(steady());
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
    let mut nodes = Nodes::formed(Config {
        read_within: Duration::from_millis(500),
        ..steady()
    });
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
    // Refused, or waiting for ever; the lease decides which.
    assert!(
        matches!(never, Err(_) | Ok(Err(ProposeError::NotLeader { .. }))),
        "{never:?}"
    );
    assert_eq!(alone.group.with_state(|tally| tally.count), count);
}

#[test]
fn strangers_are_refused() {
    let mut nodes = Nodes::formed(quick());
    nodes.put("a", "1");
    nodes.agree(1);
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
    let mut nodes = Nodes::start(1, steady());
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

#[test]
fn followers_of_a_leader_that_is_gone_wait_for_no_lease() {
    // Its lease lasts longer than this test waits.
    let mut nodes = Nodes::formed(steady());
    nodes.put("a", "1");
    nodes.agree(1);
    let gone = nodes.leader().id;
    let term = nodes.leader().group.metrics().term;
    let others: Vec<u64> = (1..=3).filter(|id| *id != gone.0).collect();
    nodes.kill(gone.0);
    let [one, other] = [nodes.node(others[0]), nodes.node(others[1])];
    one.block_on(one.group.give_up_lease_of(gone));
    one.block_on(one.group.stand());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(
        one.group.metrics().term,
        term,
        "the other one still holds to the lease, and was only asked"
    );
    // Of a node that does not lead, there is none to give up.
    other.block_on(other.group.give_up_lease_of(NodeId(others[0])));
    other.block_on(other.group.give_up_lease_of(gone));
    one.block_on(one.group.stand());
    nodes.put("b", "2");
    assert_eq!(nodes.leader().id, NodeId(others[0]));
    nodes.agree(2);
}

/// Submits `count` commands of about a kilobyte, and waits until all are committed.
fn load(nodes: &Nodes, prefix: &str, count: u64) {
    let leader = nodes.leader();
    let (done, answered) = std::sync::mpsc::sync_channel(10_000);
    leader.block_on(async {
        for n in 0..count {
            let done = done.clone();
            let command = format!("{prefix}{n}={}", "v".repeat(1000)).into();
            leader
                .group
                .submit(command, move |outcome| done.send(outcome).unwrap())
                .await;
        }
    });
    for _ in 0..count {
        answered.recv_timeout(SOON).unwrap().unwrap();
    }
}

#[test]
fn a_follower_behind_the_purge_gets_a_snapshot_under_load() {
    let mut nodes = Nodes::formed(Config {
        checkpoint_bytes: 64 << 10,
        log_retain_bytes: 16 << 10,
        ..steady()
    });
    nodes.put("a", "1");
    nodes.agree(1);
    let late = nodes.follower().id.0;
    nodes.kill(late);
    load(&nodes, "k", 2000);
    eventually("a purge", || {
        (nodes.leader().group.metrics().purged > 100).then_some(())
    });
    nodes.start_node(late);
    load(&nodes, "k", 3000);
    nodes.agree(5001);
    let late_node = nodes.node(late);
    assert!(!late_node.seen.jumps.lock().unwrap().is_empty());
    // What was installed is on disk.
    nodes.kill(late);
    nodes.start_node(late);
    nodes.put("b", "2");
    nodes.agree(5002);
}

#[test]
fn a_tail_that_lags_holds_the_log_up_to_a_limit() {
    let nodes = Nodes::formed(Config {
        checkpoint_bytes: 64 << 10,
        log_retain_bytes: 16 << 10,
        log_hold_bytes_max: 2 << 20,
        ..steady()
    });
    nodes.put("a", "1");
    let leader = nodes.leader();
    leader.hold.store(2, Ordering::Relaxed);
    load(&nodes, "k", 1000);
    eventually("a checkpoint", || {
        (leader.group.metrics().checkpoint > 500).then_some(())
    });
    let read = || {
        leader
            .block_on(leader.group.read_log(2..u64::MAX, 64 << 10))
            .unwrap()
    };
    assert!(read().first <= 2);
    load(&nodes, "l", 3000);
    eventually("a purge beyond the hold", || {
        (read().first > 2).then_some(())
    });
    leader.hold.store(u64::MAX, Ordering::Relaxed);
    let range = read();
    assert_eq!(
        range.commands.first().map(|(index, _)| *index),
        Some(range.first)
    );
}

#[test]
fn a_call_for_another_node_is_refused() {
    let nodes = Nodes::formed(steady());
    let (one, two) = (nodes.node(1), nodes.node(2));
    // The address of node 2 under the name of node 9.
    let directory = one.channels.directory();
    let address = directory.address(two.id).unwrap();
    directory.set(NodeId(9), address);
    let refused = one.block_on(async {
        let channel = one.channels.to(NodeId(9), Purpose::Control);
        let mut client = RaftClient::new(channel);
        client
            .vote(proto::VoteRequest::default())
            .await
            .unwrap_err()
    });
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains(&two.id.to_string()), "{refused}");
}
