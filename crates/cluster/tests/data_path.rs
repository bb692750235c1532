//! Streams, tails and links over whole nodes in one process, through the handle that the broker uses.
#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::sync::Arc;

use magpie_cluster::{Direct, DirectOutcome};
use magpie_codec::{QoS, TopicName};
use tokio::sync::oneshot;
use tokio::time::timeout;

use node::{PATIENCE, client, committed, delivered, message, nodes, publish, restart, subscribe};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_commits_and_delivers_in_order() {
    let mut nodes = nodes(1, &[]).await;
    subscribe(&nodes[0], "chat/#").await;
    for number in 0..200 {
        assert_eq!(
            publish(&nodes[0], "chat/1", &number.to_string()).await,
            committed()
        );
    }
    let got = delivered(&mut nodes[0], 200).await;
    assert_eq!(
        got,
        (0..200)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
    nodes[0].cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_publishes_every_node_delivers() {
    let mut nodes = nodes(3, &[]).await;
    for node in &nodes {
        subscribe(node, "chat/+").await;
    }
    for (from, node) in nodes.iter().enumerate() {
        for number in 0..20 {
            assert_eq!(
                publish(node, "chat/1", &format!("{from}-{number}")).await,
                committed()
            );
        }
    }
    let expected: Vec<String> = (0..3)
        .flat_map(|from| (0..20).map(move |number| format!("{from}-{number}")))
        .collect();
    for node in &mut nodes {
        assert_eq!(delivered(node, 60).await, expected);
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_reach_the_nodes_that_have_subscribers() {
    let mut nodes = nodes(3, &["telemetry/#"]).await;
    assert!(
        nodes[0]
            .cluster
            .is_direct(&TopicName::from_static("telemetry/1"))
    );
    assert!(
        !nodes[0]
            .cluster
            .is_direct(&TopicName::from_static("chat/1"))
    );
    subscribe(&nodes[1], "telemetry/#").await;
    let count = 500;
    let mut outcomes = Vec::new();
    for number in 0..count {
        let (done, outcome) = oneshot::channel();
        let direct = Direct {
            publisher: client("sensor"),
            qos: QoS::AtLeastOnce,
            retain: false,
            published_ms: 1,
            message: Arc::new(message("telemetry/1", &number.to_string())),
            plain: true,
            shares: Vec::new(),
        };
        nodes[0].cluster.forward(
            vec![direct],
            Some(Box::new(move |outcome| {
                let _ = done.send(outcome);
            })),
        );
        outcomes.push(outcome);
    }
    for outcome in outcomes {
        assert_eq!(
            timeout(PATIENCE, outcome).await.unwrap().unwrap(),
            DirectOutcome::Received
        );
    }
    for number in 0..count {
        assert_eq!(nodes[1].direct.recv().await.unwrap(), number.to_string());
    }
    assert!(
        nodes[2].direct.try_recv().is_err(),
        "nobody subscribed there"
    );
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_goes_on_when_the_other_node_has_started_anew() {
    let mut nodes = nodes(3, &["telemetry/#"]).await;
    for life in 0..2 {
        subscribe(&nodes[1], "telemetry/#").await;
        for number in 0..10 {
            let payload = format!("{life}-{number}");
            let direct = Direct {
                publisher: client("sensor"),
                qos: QoS::AtLeastOnce,
                retain: false,
                published_ms: 1,
                message: Arc::new(message("telemetry/1", &payload)),
                plain: true,
                shares: Vec::new(),
            };
            let (done, outcome) = oneshot::channel();
            let done = Box::new(move |outcome| {
                let _ = done.send(outcome);
            });
            nodes[0].cluster.forward(vec![direct], Some(done));
            let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
            assert_eq!(outcome, DirectOutcome::Received, "{payload}");
            assert_eq!(nodes[1].direct.recv().await.unwrap(), payload);
        }
        if life == 0 {
            let restarted = restart(nodes.remove(1)).await;
            nodes.insert(1, restarted);
        }
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}
