//! Nodes die under load, and return.

use std::time::Duration;

use magpie_client::Client;
use magpie_codec::{ProtocolVersion, QoS};
use tokio::time::{sleep, timeout};

use super::load::Load;
use super::nodes::{Cluster, PATIENCE};

/// While one node is gone the other two have only each other: neither is to close its clients when a slow machine holds up the other.
const PATIENT: &[(&str, &str)] = &[
    ("MAGPIE_CLUSTER__QUORUM_LOST_AFTER", "6s"),
    ("MAGPIE_CLUSTER__DOWN_AFTER", "30s"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_node_is_killed_in_turn_and_returns() {
    let mut cluster = Cluster::start_with(PATIENT).await;
    for killed in 0..3 {
        let load = Load::start(&cluster, &format!("kill{killed}")).await;
        sleep(Duration::from_secs(2)).await;
        cluster.nodes[killed].kill();
        sleep(Duration::from_secs(5)).await;
        cluster.nodes[killed].start();
        cluster.wait_ready().await;
        sleep(Duration::from_secs(2)).await;
        let account = load.end().await;
        account.check();
        for node in 0..3 {
            assert_eq!(
                account.heard[node].is_whole,
                node != killed,
                "node {killed} was killed; the subscriber on node {node}"
            );
            assert!(
                !account.acknowledged[node].is_empty(),
                "nothing was acknowledged on node {node}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_killed_and_started_again() {
    let mut cluster = Cluster::start_with(PATIENT).await;
    for round in 0..2 {
        let load = Load::start(&cluster, &format!("round{round}")).await;
        sleep(Duration::from_secs(2)).await;
        for node in &mut cluster.nodes {
            node.kill();
        }
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_ready().await;
        load.end().await.check();

        let again = Load::start(&cluster, &format!("again{round}")).await;
        sleep(Duration::from_secs(2)).await;
        let account = again.end().await;
        account.check();
        assert!(account.heard.iter().all(|heard| heard.is_whole));
        assert!(
            account
                .acknowledged
                .iter()
                .all(|acknowledged| !acknowledged.is_empty())
        );
    }
}

/// Nobody waits for the lease of a process that is gone: here it lasts longer than the test.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_killed_is_followed_at_once() {
    let mut cluster = Cluster::start_with(&[("MAGPIE_CLUSTER__ELECTION_TIMEOUT", "60s")]).await;
    let client = cluster.nodes[0].client(ProtocolVersion::V5).await;
    cluster.nodes[1].kill();
    // Enough topics for every partition, a third of which it led.
    for topic in 0..64 {
        let topic = format!("followed/{topic}");
        let published = client.publish(topic.as_str(), "", QoS::AtLeastOnce, false, None);
        timeout(PATIENCE, published)
            .await
            .expect("a new leader")
            .unwrap();
    }
}

/// P7: a node without quorum refuses, says so, and heals by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_minority_acknowledges_nothing_and_heals() {
    let mut cluster = Cluster::start().await;
    let client = cluster.nodes[0].client(ProtocolVersion::V5).await;
    client
        .publish("minority", "with quorum", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let unready = async {
        while cluster.nodes[0].is_ready().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, unready)
        .await
        .expect("readiness fails without quorum");
    let refused = timeout(
        PATIENCE,
        client.publish("minority", "without quorum", QoS::AtLeastOnce, false, None),
    )
    .await;
    assert!(
        !matches!(refused, Ok(Ok(_))),
        "acknowledged without a quorum"
    );
    // Whoever comes now is not let in, or gets nothing acknowledged.
    if let Ok(late) = Client::connect(cluster.nodes[0].options(ProtocolVersion::V5)).await {
        let refused = timeout(
            PATIENCE,
            late.publish("minority", "late", QoS::AtLeastOnce, false, None),
        )
        .await;
        assert!(
            !matches!(refused, Ok(Ok(_))),
            "acknowledged without a quorum"
        );
    }

    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.wait_ready().await;
    let client = cluster.nodes[0].client(ProtocolVersion::V5).await;
    client
        .publish("minority", "healed", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();
}
