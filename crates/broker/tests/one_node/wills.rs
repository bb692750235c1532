//! Wills: published when the partition of the client finds that they are due.

use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_codec::{QoS, ReasonCode, TopicName, Will};

use crate::client::{Greeting, TestClient, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;

fn with_will(payload: &str, delay_s: u32) -> Greeting {
    let will = Will {
        topic: TopicName::from_static("will"),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QOS1,
        retain: false,
        delay_interval_s: delay_s,
        properties: None,
    };
    Greeting {
        will: Some(Box::new(will)),
        ..Greeting::durable()
    }
}

async fn reader(node: &TestNode) -> TestClient {
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("will", QOS1).await;
    reader
}

async fn lost(node: &TestNode, greeting: Greeting) {
    let (client, _) = TestClient::greet(node.address, "phone", greeting).await;
    drop(client);
    node.gone("phone").await;
}

/// [MQTT-3.1.3-9]
#[tokio::test]
async fn a_will_waits_for_its_delay_and_is_cancelled_by_a_resume() {
    let node = TestNode::start().await;
    let mut reader = reader(&node).await;
    lost(&node, with_will("cancelled", 3)).await;
    // Back in time, with another one.
    let started = Instant::now();
    lost(&node, with_will("delayed", 2)).await;
    assert_eq!(text(&reader.next().await), "delayed");
    assert!(started.elapsed() >= Duration::from_secs(2));
    tokio::time::sleep(Duration::from_secs(3)).await;
    reader.hears_nothing().await;
    // The session is still there.
    TestClient::resume(node.address, "phone").await;
}

/// [MQTT-3.1.2-8]: with the end of the session, if that comes first.
#[tokio::test]
async fn a_clean_start_makes_a_delayed_will_due() {
    let node = TestNode::start().await;
    let mut reader = reader(&node).await;
    lost(&node, with_will("due", 600)).await;
    let clean = Greeting {
        clean_start: true,
        ..Greeting::default()
    };
    TestClient::greet(node.address, "phone", clean).await;
    assert_eq!(text(&reader.next().await), "due");
    let short = Greeting {
        expiry_s: 1,
        ..with_will("expired", 600)
    };
    lost(&node, short).await;
    assert_eq!(text(&reader.next().await), "expired");
}

/// [MQTT-3.1.2-10], [MQTT-3.14.4-3]
#[tokio::test]
async fn a_goodbye_discards_the_will_unless_it_asks_for_it() {
    let node = TestNode::start().await;
    let mut reader = reader(&node).await;
    let say = async |payload: &str, reason| {
        let (client, _) = TestClient::greet(node.address, "phone", with_will(payload, 0)).await;
        client.disconnect(reason, None).await;
    };
    say("discarded", ReasonCode::Success).await;
    say("asked for", ReasonCode::DisconnectWithWill).await;
    assert_eq!(text(&reader.next().await), "asked for");
    reader.hears_nothing().await;
}

#[tokio::test]
async fn a_will_without_delay_comes_with_a_takeover_and_with_a_kick() {
    let node = TestNode::start().await;
    let mut reader = reader(&node).await;
    let (mut older, _) = TestClient::greet(node.address, "phone", with_will("taken", 0)).await;
    let (mut newer, _) = TestClient::greet(node.address, "phone", with_will("kicked", 0)).await;
    assert_eq!(older.closed_with().await, ReasonCode::SessionTakenOver);
    assert_eq!(text(&reader.next().await), "taken");
    let phone = magpie_state::ClientId("phone".try_into().unwrap());
    assert!(node.node.kick(&phone));
    assert_eq!(newer.closed_with().await, ReasonCode::AdministrativeAction);
    assert_eq!(text(&reader.next().await), "kicked");
    // One with delay is cancelled by the connection that takes over.
    let (_, _) = TestClient::greet(node.address, "phone", with_will("delayed", 1)).await;
    let (_newer, _) = TestClient::greet(node.address, "phone", Greeting::durable()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    reader.hears_nothing().await;
}

#[tokio::test]
async fn a_will_waits_for_a_session_that_is_away() {
    let node = TestNode::start().await;
    let mut friend = TestClient::begin(node.address, "friend").await;
    friend.subscribe("will", QOS1).await;
    drop(friend);
    node.gone("friend").await;
    lost(&node, with_will("gone", 0)).await;
    let mut friend = TestClient::resume(node.address, "friend").await;
    assert_eq!(text(&friend.next().await), "gone");
}
