//! What clients are told at the limits of the cluster.

use magpie_codec::{ProtocolVersion, QoS, ReasonCode, SubscriptionOptions};

use crate::client::{Greeting, TestClient};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;

#[tokio::test]
async fn one_session_more_than_there_may_be_is_refused_and_resuming_works() {
    let node = TestNode::start_limited(
        |cluster| {
            cluster.partitions = 1;
            cluster.sessions_max = 2;
        },
        |_| {},
    )
    .await;
    node.limited().await;
    let first = TestClient::begin(node.address, "first").await;
    let _second = TestClient::begin(node.address, "second").await;
    let asked = TestClient::try_greet(node.address, "third", Greeting::durable()).await;
    assert_eq!(asked.1.reason, ReasonCode::QuotaExceeded);
    let of_version_3 = Greeting {
        version: ProtocolVersion::V3_1_1,
        ..Greeting::durable()
    };
    let asked = TestClient::try_greet(node.address, "third", of_version_3).await;
    assert_eq!(asked.1.reason, ReasonCode::ServerUnavailable, "0x03");
    // Who asks for no session is let in, and who has one goes on.
    let mut third = TestClient::connect(node.address, "third").await;
    third.publish("a", QOS1, "all the same").await;
    drop(first);
    node.gone("first").await;
    let first = TestClient::resume(node.address, "first").await;
    // A place that is given back can be taken.
    first.disconnect(ReasonCode::Success, Some(0)).await;
    node.gone("first").await;
    drop(third);
    node.gone("third").await;
    TestClient::begin(node.address, "third").await;
}

#[tokio::test]
async fn subscriptions_that_are_stored_count() {
    let node = TestNode::start_with(|config| config.session.max_subscriptions_per_client = 3).await;
    let options = SubscriptionOptions {
        qos: QOS1,
        ..SubscriptionOptions::default()
    };
    let granted = ReasonCode::granted(QOS1);
    let refused = ReasonCode::QuotaExceeded;
    let mut phone = TestClient::begin(node.address, "phone").await;
    let suback = phone.say_subscribe(&["a", "b/+"], options).await;
    assert_eq!(suback.reasons, [granted, granted]);
    for _ in 0..2 {
        drop(phone);
        node.gone("phone").await;
        phone = TestClient::resume(node.address, "phone").await;
        let suback = phone.say_subscribe(&["a", "c", "d", "b/+"], options).await;
        assert_eq!(suback.reasons, [granted, granted, refused, granted]);
    }
    assert_eq!(phone.unsubscribe("c").await, ReasonCode::Success);
    let suback = phone.say_subscribe(&["d"], options).await;
    assert_eq!(suback.reasons, [granted]);
}

/// The first message is never acknowledged, and all others are.
#[tokio::test]
async fn who_holds_one_message_open_is_not_remembered_without_end() {
    let node = TestNode::start_with(|config| config.session.ahead_max = 20).await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("t", QOS1).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..200 {
        writer.publish("t", QOS1, number.to_string()).await;
    }
    let open = phone.next_unacknowledged().await;
    phone.next_payloads(19).await;
    phone.hears_nothing().await;
    let ack = magpie_codec::Ack::new(open.packet_id.unwrap(), ReasonCode::Success);
    phone.send(&magpie_codec::Packet::PubAck(ack)).await;
    let payloads = phone.next_payloads(180).await;
    let expected: Vec<_> = (20..200).map(|number| number.to_string()).collect();
    assert_eq!(payloads, expected);
}
