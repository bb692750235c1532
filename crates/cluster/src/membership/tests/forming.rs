//! How clusters begin.

use std::time::{Duration, Instant};

use super::harness::Nodes;

#[test]
fn a_node_without_seeds_is_a_cluster_of_one() {
    let mut nodes = Nodes::new(&[]);
    let start = Instant::now();
    nodes.start(1);
    nodes.all_ready();
    assert!(start.elapsed() < Duration::from_secs(5));
    let cluster = nodes.node(1).state(|state| state.cluster()).unwrap();
    nodes.replicated_on(&nodes.ids());
    nodes.kill(1);
    nodes.start(1);
    nodes.all_ready();
    assert_eq!(nodes.node(1).state(|state| state.cluster()), Some(cluster));
}

#[test]
fn three_seeds_form_one_cluster() {
    let start = Instant::now();
    let nodes = Nodes::three();
    eprintln!("ready after {:?}", start.elapsed());
    nodes.know(&nodes.ids());
    nodes.replicated_on(&nodes.ids());
    let clusters: std::collections::BTreeSet<_> = nodes
        .running
        .values()
        .map(|node| node.state(|state| state.cluster()))
        .collect();
    assert_eq!(clusters.len(), 1);
}
