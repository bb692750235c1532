//! How clusters begin.

use std::time::Duration;

use super::harness::{Nodes, eventually};

#[test]
fn a_node_without_seeds_is_a_cluster_of_one() {
    let mut nodes = Nodes::new(&[]);
    nodes.start(1);
    nodes.all_ready();
    let cluster = nodes.node(1).state(|state| state.cluster()).unwrap();
    nodes.replicated_on(&nodes.ids());
    nodes.kill(1);
    nodes.start(1);
    nodes.all_ready();
    assert_eq!(nodes.node(1).state(|state| state.cluster()), Some(cluster));
}

#[test]
fn three_seeds_form_one_cluster() {
    let nodes = Nodes::three();
    nodes.know(&nodes.ids());
    nodes.replicated_on(&nodes.ids());
    let clusters: std::collections::BTreeSet<_> = nodes
        .running
        .values()
        .map(|node| node.state(|state| state.cluster()))
        .collect();
    assert_eq!(clusters.len(), 1);
}

#[test]
fn a_subset_of_the_seeds_waits_for_the_others_in_any_order() {
    let mut nodes = Nodes::new(&[1, 2, 3]);
    nodes.start(3);
    nodes.start(1);
    let missing = nodes.address(2);
    for number in [1, 3] {
        eventually(
            || nodes.node(number).why_not(),
            || {
                nodes
                    .node(number)
                    .why_not()
                    .contains(&missing)
                    .then_some(())
            },
        );
    }
    // Several rounds later, and after a restart, still none.
    std::thread::sleep(Duration::from_secs(2));
    nodes.kill(1);
    nodes.start(1);
    assert!(
        nodes
            .running
            .values()
            .all(|node| node.groups.control().is_none())
    );
    nodes.start(2);
    nodes.all_ready();
    nodes.know(&nodes.ids());
}

#[test]
fn founders_that_die_while_they_form_go_on_after_a_restart() {
    let mut nodes = Nodes::new(&[1, 2, 3]);
    for number in 1..=3 {
        nodes.start(number);
    }
    // As soon as the first record is on disk, everything dies.
    eventually(
        || "a founding record",
        || {
            let mut all = nodes.running.values();
            all.any(|node| node.identity_file.founding().is_some())
                .then_some(())
        },
    );
    for number in 1..=3 {
        nodes.kill(number);
    }
    for number in 1..=3 {
        nodes.start(number);
    }
    nodes.all_ready();
    nodes.know(&nodes.ids());
}

#[test]
fn seeds_that_disagree_do_not_form() {
    let mut nodes = Nodes::new(&[1, 2]);
    nodes.start(1);
    nodes.set_seeds(&[1, 2, 3]);
    nodes.start(2);
    eventually(
        || nodes.node(1).why_not(),
        || {
            let why = nodes.node(1).why_not();
            why.contains("another list of seeds").then_some(())
        },
    );
    assert!(
        nodes
            .running
            .values()
            .all(|node| node.groups.control().is_none())
    );
}

#[test]
fn a_node_that_is_no_seed_joins() {
    let mut nodes = Nodes::new(&[1, 2]);
    nodes.start(3);
    nodes.start(1);
    nodes.start(2);
    nodes.all_ready();
    nodes.know(&nodes.ids());
    nodes.replicated_on(&nodes.ids());
}
