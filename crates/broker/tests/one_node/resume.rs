//! A session that goes on with a later connection.

use magpie_codec::{
    Ack, MessageProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, SubscriptionOptions,
};

use crate::client::{Greeting, TestClient, message, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

async fn drop_client(node: &TestNode, client: TestClient, id: &str) {
    drop(client);
    node.gone(id).await;
}

/// [MQTT-4.5.0-1], [MQTT-3.1.2-5 v3.1.1], [MQTT-4.5.0-1 v3.1.1]
#[tokio::test]
async fn what_was_published_meanwhile_comes_in_order_and_once() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("exact", QOS1).await;
    phone.subscribe("wild/#", QOS2).await;
    phone.subscribe("wild/0", QOS1).await;
    phone.subscribe("nothing/+", QoS::AtMostOnce).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for round in 0..3 {
        drop_client(&node, phone, "phone").await;
        for number in 0..50 {
            for qos in [QOS1, QOS2] {
                let payload = format!("{round} {number} {qos:?}");
                writer.publish("exact", qos, payload.clone()).await;
                writer.publish("wild/0", qos, payload).await;
            }
            writer.publish("exact", QoS::AtMostOnce, "never kept").await;
            writer.publish("nothing/0", QOS1, "never kept").await;
        }
        phone = TestClient::resume(node.address, "phone").await;
        // By topic and QoS: between these there is no order.
        let mut came = [const { Vec::new() }; 4];
        for _ in 0..200 {
            let publish = phone.next().await;
            assert!(!publish.dup, "sent for the first time");
            let is_exact = publish.topic.as_ref().unwrap().as_str() == "exact";
            let is_sent_at_2 = text(&publish).ends_with("ExactlyOnce");
            let expected = if is_exact || !is_sent_at_2 {
                QOS1
            } else {
                QOS2
            };
            assert_eq!(publish.qos, expected);
            came[usize::from(is_exact) * 2 + usize::from(is_sent_at_2)].push(text(&publish));
        }
        let expected = |qos| -> Vec<_> {
            (0..50)
                .map(|number| format!("{round} {number} {qos:?}"))
                .collect()
        };
        let expected = [QOS1, QOS2].map(expected);
        assert_eq!(came[..2], expected);
        assert_eq!(came[2..], expected);
        phone.hears_nothing().await;
        // What comes from now on comes live.
        writer.publish("exact", QOS1, "live").await;
        assert_eq!(text(&phone.next().await), "live");
    }
}

/// [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.1.2-4 v3.1.1], [MQTT-3.1.2-6 v3.1.1], [MQTT-3.2.2-2 v3.1.1],
/// [MQTT-3.2.2-3 v3.1.1]
#[tokio::test]
async fn session_present_tells_the_truth() {
    let node = TestNode::start().await;
    let address = node.address;
    let connect = async |greeting: Greeting| {
        let (client, connack) = TestClient::greet(address, "it", greeting).await;
        drop_client(&node, client, "it").await;
        connack.session_present
    };
    let durable = Greeting::durable();
    let clean = Greeting {
        clean_start: true,
        ..Greeting::durable()
    };
    let last = Greeting {
        expiry_s: 0,
        ..Greeting::durable()
    };
    assert!(!connect(durable.clone()).await, "the first");
    assert!(connect(durable.clone()).await);
    assert!(!connect(clean.clone()).await, "[MQTT-3.1.2-4]");
    assert!(connect(durable.clone()).await, "a clean start begins one");
    assert!(connect(last.clone()).await, "it ends after this connection");
    assert!(!connect(durable.clone()).await);
    assert!(connect(last).await);
    let old = |clean_start| Greeting {
        version: ProtocolVersion::V3_1_1,
        clean_start,
        ..Greeting::default()
    };
    assert!(!connect(old(false)).await);
    assert!(connect(old(false)).await, "[MQTT-3.1.2-4 v3.1.1]");
    assert!(connect(durable).await, "whatever the version");
    assert!(!connect(old(true)).await, "[MQTT-3.1.2-6 v3.1.1]");
    assert!(!connect(old(false)).await);
}

/// [MQTT-4.4.0-1]
#[tokio::test]
async fn a_newer_connection_goes_on_with_what_the_older_one_did_not_acknowledge() {
    let node = TestNode::start().await;
    let mut older = TestClient::begin(node.address, "phone").await;
    older.subscribe("a", QOS2).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for (number, qos) in [QOS1, QOS2, QOS1, QOS2, QOS1].into_iter().enumerate() {
        writer.publish("a", qos, number.to_string()).await;
    }
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(older.next_unacknowledged().await);
    }
    // The third is acknowledged, out of order.
    let done = sent.remove(2).packet_id.unwrap();
    older
        .send(&Packet::PubAck(Ack::new(done, ReasonCode::Success)))
        .await;
    writer.publish("a", QOS1, "5").await;
    sent.push(older.next_unacknowledged().await);
    // Twice: what the second one was handed goes on to the third.
    for _ in 0..2 {
        let mut newer = TestClient::resume(node.address, "phone").await;
        assert_eq!(older.closed_with().await, ReasonCode::SessionTakenOver);
        for before in &sent {
            let again = newer.next_unacknowledged().await;
            let expected = Publish {
                dup: true,
                ..before.clone()
            };
            assert_eq!(again, expected);
        }
        newer.hears_nothing().await;
        older = newer;
    }
}

#[tokio::test]
async fn a_message_that_passes_during_a_takeover_is_not_lost() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a/#", QOS1).await;
    let address = node.address;
    let writing = tokio::spawn(async move {
        let mut writer = TestClient::connect(address, "writer").await;
        for number in 0..700 {
            writer
                .publish(&format!("a/{}", number % 7), QOS1, number.to_string())
                .await;
        }
    });
    let mut came = std::collections::BTreeSet::new();
    while came.len() < 700 {
        for _ in 0..40 {
            let publish = phone.next().await;
            came.insert(text(&publish).parse::<u32>().unwrap());
            if came.len() == 700 {
                break;
            }
        }
        phone = TestClient::resume(node.address, "phone").await;
    }
    writing.await.unwrap();
}

/// [MQTT-3.10.4-1]
#[tokio::test]
async fn what_was_unsubscribed_never_comes_back() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a", QOS1).await;
    phone.subscribe("b", QOS1).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish("a", QOS1, "unacknowledged").await;
    let sent = phone.next_unacknowledged().await;
    assert_eq!(phone.unsubscribe("a").await, ReasonCode::Success);
    drop_client(&node, phone, "phone").await;
    writer.publish("a", QOS1, "unwanted").await;
    writer.publish("b", QOS1, "wanted").await;
    for round in 0..2 {
        let mut phone = TestClient::resume(node.address, "phone").await;
        if round == 0 {
            // What was begun is brought to its end.
            let again = phone.next().await;
            assert_eq!((again.packet_id, again.dup), (sent.packet_id, true));
            assert_eq!(text(&phone.next().await), "wanted");
        }
        writer.publish("a", QOS1, "unwanted").await;
        phone.hears_nothing().await;
        writer.publish("b", QOS1, "live").await;
        assert_eq!(text(&phone.next().await), "live");
        assert_eq!(
            phone.unsubscribe("a").await,
            ReasonCode::NoSubscriptionExisted
        );
        drop_client(&node, phone, "phone").await;
    }
}

#[tokio::test]
async fn messages_read_later_heed_the_subscription_options() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    let options = SubscriptionOptions {
        qos: QOS1,
        no_local: true,
        retain_as_published: true,
        ..SubscriptionOptions::default()
    };
    phone.say_subscribe_as(&["a/+"], options, Some(7)).await;
    let plain = SubscriptionOptions {
        qos: QOS2,
        ..SubscriptionOptions::default()
    };
    phone.say_subscribe_as(&["a/both"], plain, Some(8)).await;
    phone.say_subscribe_as(&["c"], plain, None).await;
    // Published by itself, and not delivered before it is gone.
    for topic in ["a/own", "a/both"] {
        phone.publish(topic, QOS1, "own").await;
    }
    let own = phone.next().await;
    assert_eq!(own.topic.as_ref().unwrap().as_str(), "a/both");
    assert_eq!(
        own.subscription_ids[..],
        [8],
        "No Local leaves the other one"
    );
    drop_client(&node, phone, "phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for topic in ["a/one", "a/both", "c"] {
        let publish = Publish {
            retain: true,
            ..message(topic, QOS2, "x")
        };
        writer.put(publish).await;
    }
    let mut phone = TestClient::resume(node.address, "phone").await;
    let mut came = Vec::new();
    for _ in 0..3 {
        let publish = phone.next().await;
        let mut ids = publish.subscription_ids.to_vec();
        ids.sort_unstable();
        let topic = publish.topic.unwrap();
        came.push((topic.as_str().to_owned(), publish.qos, publish.retain, ids));
    }
    came.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("a/both".to_owned(), QOS2, true, vec![7, 8]),
        ("a/one".to_owned(), QOS1, true, vec![7]),
        ("c".to_owned(), QOS2, false, vec![]),
    ];
    assert_eq!(came, expected);
    phone.hears_nothing().await;
}

/// [MQTT-3.8.4-3], [MQTT-3.8.4-4], [MQTT-3.8.4-3 v3.1.1]
#[tokio::test]
async fn a_subscription_that_is_replaced_loses_nothing() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a", QOS1).await;
    phone.subscribe("zero", QoS::AtMostOnce).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish("a", QOS2, "before").await;
    assert_eq!(phone.next_unacknowledged().await.qos, QOS1);
    phone.subscribe("a", QOS2).await;
    phone.subscribe("zero", QOS1).await;
    drop_client(&node, phone, "phone").await;
    writer.publish("a", QOS2, "after").await;
    writer.publish("zero", QOS2, "after").await;
    let mut phone = TestClient::resume(node.address, "phone").await;
    let again = phone.next().await;
    assert_eq!((text(&again), again.qos), ("before".to_owned(), QOS1));
    let mut came = Vec::new();
    for _ in 0..2 {
        let publish = phone.next().await;
        came.push((publish.topic.unwrap().as_str().to_owned(), publish.qos));
    }
    came.sort();
    assert_eq!(came, [("a".to_owned(), QOS2), ("zero".to_owned(), QOS1)]);
    phone.hears_nothing().await;
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6]
#[tokio::test]
async fn what_expires_meanwhile_does_not_come() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a", QOS2).await;
    drop_client(&node, phone, "phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for (qos, expiry_s) in [(QOS1, 1), (QOS2, 1), (QOS1, 100), (QOS2, 100)] {
        let properties = MessageProperties {
            expiry_interval_s: Some(expiry_s),
            ..MessageProperties::default()
        };
        let publish = Publish {
            properties: Some(Box::new(properties)),
            ..message("a", qos, expiry_s.to_string())
        };
        writer.put(publish).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let mut phone = TestClient::resume(node.address, "phone").await;
    for qos in [QOS1, QOS2] {
        let publish = phone.next().await;
        assert_eq!((text(&publish), publish.qos), ("100".to_owned(), qos));
        let left = publish.properties.unwrap().expiry_interval_s.unwrap();
        assert!((50..100).contains(&left), "{left}");
    }
    phone.hears_nothing().await;
    // They are done, not only passed over.
    drop_client(&node, phone, "phone").await;
    TestClient::resume(node.address, "phone")
        .await
        .hears_nothing()
        .await;
}
