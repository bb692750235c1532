//! Nodes that die, come back, or come back as what they were.

use std::time::Duration;

use magpie_state::control::MemberState;
use magpie_state::{NodeId, StreamId};

use super::harness::{Nodes, eventually};
use crate::membership::proto;
use crate::membership::proto::membership_client::MembershipClient;
use crate::rpc::Purpose;
use crate::{Event, Fatal, StartError};

#[test]
fn one_two_and_all_nodes_restart() {
    let mut nodes = Nodes::three();
    let (ids, cluster) = (nodes.ids(), nodes.node(1).state(|state| state.cluster()));
    for gone in [&[2][..], &[1, 3], &[1, 2, 3]] {
        for number in gone {
            nodes.kill(*number);
        }
        for number in gone {
            nodes.start(*number);
        }
        nodes.all_ready();
        nodes.know(&ids);
        assert_eq!(nodes.ids(), ids);
    }
    assert_eq!(nodes.node(1).state(|state| state.cluster()), cluster);
    nodes.replicated_on(&ids);
}

/// Calls in the pause after a failed dial fail at once, and a takeover in one would not get what it is handed over.
#[test]
fn a_node_that_lives_is_dialled_at_once() {
    let nodes = Nodes::three();
    let (caller, callee) = (nodes.node(1), nodes.node(2).id());
    let channels = &caller.membership.inner.channels;
    // Nothing else uses this channel here.
    let length = Duration::from_secs(3600);
    caller.block_on(async { channels.pause(callee, Purpose::Snapshot, length) });
    let call = || {
        caller.block_on(async {
            let channel = channels.to(callee, Purpose::Snapshot);
            let mut client = MembershipClient::new(channel);
            client.ping(proto::PingRequest {}).await
        })
    };
    eventually(call, || call().ok());
}

#[test]
fn a_node_without_quorum_is_not_ready_and_heals() {
    let mut nodes = Nodes::three();
    // What a slow machine may have asked for while the cluster formed.
    while nodes.running.get_mut(&1).unwrap().events.try_recv().is_ok() {}
    nodes.kill(2);
    nodes.kill(3);
    eventually(
        || nodes.node(1).why_not(),
        || nodes.node(1).why_not().contains("no quorum").then_some(()),
    );
    let alone = nodes.running.get_mut(&1).unwrap();
    eventually(
        || "clients to be closed",
        || matches!(alone.events.try_recv(), Ok(Event::CloseAll { .. })).then_some(()),
    );
    // Once for each loss: for twice as long again, nothing more is asked.
    assert!(alone.no_event_for(Duration::from_millis(2500)));
    nodes.start(2);
    nodes.start(3);
    nodes.all_ready();
}

#[test]
fn a_silent_member_is_declared_down_and_comes_back_with_a_new_life() {
    let mut nodes = Nodes::three();
    let silent = nodes.control_leader();
    let life = nodes.node(silent).membership.stream();
    nodes.kill(silent);
    let others: Vec<u64> = nodes.running.keys().copied().collect();
    for other in &others {
        eventually(
            || "a member declared down",
            || {
                nodes
                    .node(*other)
                    .state(|state| state.is_over(life))
                    .then_some(())
            },
        );
    }
    assert!(!nodes.node(others[0]).membership.is_reachable(life));
    nodes.start(silent);
    nodes.all_ready();
    nodes.know(&nodes.ids());
    let new = nodes.node(silent).membership.stream();
    assert!(
        nodes
            .node(others[0])
            .state(|state| state.is_over(life) && !state.is_over(new))
    );
}

#[test]
fn a_restored_directory_is_fenced() {
    let mut nodes = Nodes::three();
    nodes.kill(3);
    let copy = nodes.back_up(3);
    nodes.start(3);
    nodes.all_ready();
    nodes.kill(3);
    nodes.restore(3, copy);
    nodes.start(3);
    assert!(matches!(nodes.node(3).fatal(), Fatal::Fenced(_)));
    assert!(!nodes.node(3).is_ready());
    nodes.kill(3);
    assert!(matches!(nodes.try_start(3), Err(StartError::DataDir(_))));
    nodes.all_ready();
}

#[test]
fn a_wiped_node_takes_the_place_of_its_former_self() {
    let mut nodes = Nodes::three();
    let former = nodes.node(2).id();
    let former_life = nodes.node(2).membership.stream();
    nodes.wipe(2);
    nodes.start(2);
    nodes.all_ready();
    assert_ne!(nodes.node(2).id(), former);
    nodes.know(&nodes.ids());
    nodes.replicated_on(&nodes.ids());
    let voters = |node: NodeId| {
        let control = nodes.node(1).groups.control().unwrap();
        control.members().voters.contains(&node)
    };
    eventually(
        || nodes.node(1).groups.control().unwrap().members(),
        || (voters(nodes.node(2).id()) && !voters(former)).then_some(()),
    );
    assert!(
        nodes
            .node(1)
            .state(|state| state.is_former(former) && state.is_over(former_life))
    );
}

#[test]
fn a_life_declared_down_while_it_goes_on_stops() {
    let nodes = Nodes::three();
    let victim = nodes.node(2).membership.stream();
    let StreamId { node, incarnation } = victim;
    let down = magpie_state::control::ControlCommand::Down { node, incarnation };
    let asked = nodes.node(1);
    let (index, _) = asked.block_on(asked.membership.propose(down)).unwrap();
    asked.block_on(asked.membership.wait_applied(index));
    assert!(matches!(nodes.node(2).fatal(), Fatal::Down(_)));
    let state = asked.state(|state| state.members()[&node].state);
    assert_eq!(state, MemberState::Down);
}
