//! When a session ends.

use std::time::Duration;

use magpie_codec::{ProtocolVersion, QoS, ReasonCode, Text};
use magpie_state::ClientId;

use crate::client::{Greeting, TestClient, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn expiry(expiry_s: u32) -> Greeting {
    Greeting {
        expiry_s,
        ..Greeting::durable()
    }
}

async fn is_present(node: &TestNode, id: &str) -> bool {
    let (client, connack) = TestClient::greet(node.address, id, Greeting::durable()).await;
    drop(client);
    node.gone(id).await;
    connack.session_present
}

/// Waits until the session has ended: the partition's clock may be late, never early.
async fn ended(node: &TestNode, id: &str) {
    let client = ClientId(Text::try_from(id).unwrap());
    let ending = async {
        while node.cluster.session(&client).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ending).await;
    ended.expect("a session that ends");
}

/// [MQTT-3.1.2-23], [MQTT-4.1.0-2], [MQTT-4.1.0-1 v3.1.1]
#[tokio::test]
async fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    let node = TestNode::start().await;
    for (id, expiry_s) in [("short", 1), ("long", 60)] {
        let (mut client, _) = TestClient::greet(node.address, id, expiry(expiry_s)).await;
        client.subscribe("a", QOS1).await;
        drop(client);
        node.gone(id).await;
    }
    assert!(is_present(&node, "long").await);
    ended(&node, "short").await;
    assert!(!is_present(&node, "short").await);
    assert!(is_present(&node, "long").await);
}

#[tokio::test]
async fn disconnect_changes_the_expiry() {
    let node = TestNode::start().await;
    for (id, reason) in [
        ("ends", ReasonCode::Success),
        ("ends/with/will", ReasonCode::DisconnectWithWill),
    ] {
        let client = TestClient::begin(node.address, id).await;
        client.disconnect(reason, Some(0)).await;
        node.gone(id).await;
        assert!(!is_present(&node, id).await);
    }
    // Longer.
    let (client, _) = TestClient::greet(node.address, "longer", expiry(1)).await;
    client.disconnect(ReasonCode::Success, Some(60)).await;
    // Shorter.
    let client = TestClient::begin(node.address, "shorter").await;
    client.disconnect(ReasonCode::Success, Some(1)).await;
    // As it was.
    let client = TestClient::begin(node.address, "same").await;
    client.disconnect(ReasonCode::Success, None).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(is_present(&node, "longer").await);
    ended(&node, "shorter").await;
    assert!(!is_present(&node, "shorter").await);
    assert!(is_present(&node, "same").await);
}

/// Section 3.14.2.2.2 does not let a client make a session outlive its connection by DISCONNECT.
#[tokio::test]
async fn what_was_to_end_with_the_connection_cannot_be_kept_by_disconnect() {
    let node = TestNode::start().await;
    let mut client = TestClient::connect(node.address, "it").await;
    let disconnect = magpie_codec::Disconnect {
        reason: ReasonCode::Success,
        properties: Some(Box::new(magpie_codec::DisconnectProperties {
            session_expiry_interval_s: Some(10),
            ..Default::default()
        })),
    };
    client
        .send(&magpie_codec::Packet::Disconnect(disconnect))
        .await;
    assert_eq!(client.closed_with().await, ReasonCode::ProtocolError);
}

#[tokio::test]
async fn the_operator_cuts_the_expiry_and_the_client_is_told() {
    let node = TestNode::start_with(|config| {
        config.session.session_expiry_max = Duration::from_secs(1);
    })
    .await;
    let told = async |id: &str, asked_s: u32| {
        let (client, connack) = TestClient::greet(node.address, id, expiry(asked_s)).await;
        drop(client);
        connack.properties.unwrap().session_expiry_interval_s
    };
    assert_eq!(told("asks too much", 1000).await, Some(1));
    assert_eq!(told("for ever", u32::MAX).await, Some(1));
    assert_eq!(told("asks little", 1).await, None);
    assert_eq!(told("asks nothing", 0).await, None);
    let old = Greeting {
        version: ProtocolVersion::V3_1_1,
        ..Greeting::durable()
    };
    TestClient::greet(node.address, "old", old.clone()).await;
    // DISCONNECT cannot pass the bound either.
    let (client, _) = TestClient::greet(node.address, "late", expiry(1)).await;
    client.disconnect(ReasonCode::Success, Some(1000)).await;
    for id in ["asks too much", "for ever", "asks little", "late"] {
        ended(&node, id).await;
        assert!(!is_present(&node, id).await, "{id}");
    }
    ended(&node, "old").await;
    let (_, connack) = TestClient::greet(node.address, "old", old).await;
    assert!(!connack.session_present);
}

#[tokio::test]
async fn sessions_can_be_turned_off() {
    let node = TestNode::start_with(|config| {
        config.session.session_expiry_max = Duration::ZERO;
    })
    .await;
    let (client, connack) = TestClient::greet(node.address, "it", expiry(10)).await;
    let properties = connack.properties.unwrap();
    assert_eq!(properties.session_expiry_interval_s, Some(0));
    drop(client);
    node.gone("it").await;
    assert!(!is_present(&node, "it").await);
}

/// [MQTT-3.1.2-4], [MQTT-3.1.4-4], [MQTT-3.1.4-3 v3.1.1]: nothing of before.
#[tokio::test]
async fn a_clean_start_ends_what_was() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a", QOS1).await;
    drop(phone);
    node.gone("phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish("a", QOS1, "before").await;
    let clean = Greeting {
        clean_start: true,
        ..Greeting::durable()
    };
    let (mut phone, connack) = TestClient::greet(node.address, "phone", clean).await;
    assert!(!connack.session_present);
    writer.publish("a", QOS1, "unwanted").await;
    phone.hears_nothing().await;
    phone.subscribe("a", QOS1).await;
    writer.publish("a", QOS1, "wanted").await;
    assert_eq!(text(&phone.next().await), "wanted");
}
