//! Retained messages.

use std::time::Duration;

use magpie_codec::{
    MessageProperties, Publish, QoS, ReasonCode, RetainHandling, SubscriptionOptions, TopicFilter,
};
use tokio::time::sleep;

use crate::client::{Greeting, TestClient, message, text};
use crate::node::TestNode;

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn retained(topic: &str, qos: QoS, payload: &str) -> Publish {
    Publish {
        retain: true,
        ..message(topic, qos, payload.to_owned())
    }
}

/// Waits until this is what the cluster keeps: a message of QoS 0 comes to its partition a moment later.
async fn kept(node: &TestNode, topic: &str, payload: Option<&str>) {
    let filter = TopicFilter::try_from(topic.to_owned()).unwrap();
    for _ in 0..6000 {
        let (list, _) = node.cluster.retained_list(&filter, None, 1).await.unwrap();
        let found = list.first().map(|item| &item.message.payload[..]);
        if found == payload.map(str::as_bytes) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{topic} is not kept as {payload:?}");
}

async fn subscribed(node: &TestNode, filter: &str, qos: QoS) -> TestClient {
    let mut client = TestClient::connect(node.address, "reader").await;
    client.subscribe(filter, qos).await;
    client
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8], [MQTT-3.3.1-5 v3.1.1], [MQTT-3.3.1-6 v3.1.1],
/// [MQTT-3.3.1-7 v3.1.1], [MQTT-3.3.1-8 v3.1.1], [MQTT-3.3.1-10 v3.1.1], [MQTT-3.3.1-11 v3.1.1], [MQTT-3.3.1-12 v3.1.1]
#[tokio::test]
async fn the_last_one_of_a_topic_is_what_a_new_subscription_gets() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut live = subscribed(&node, "#", QOS2).await;
    for topic in ["a", "direct/a"] {
        for sent in [QOS0, QOS1, QOS2] {
            for wanted in [QOS0, QOS1, QOS2] {
                writer.put(retained(topic, sent, "old")).await;
                writer.put(retained(topic, sent, "new")).await;
                writer.put(message(topic, sent, "passing")).await;
                for payload in ["old", "new", "passing"] {
                    let publish = live.next().await;
                    assert_eq!((text(&publish).as_str(), publish.retain), (payload, false));
                }
                let mut reader = TestClient::connect(node.address, "late").await;
                kept(&node, topic, Some("new")).await;
                reader.subscribe(topic, wanted).await;
                let publish = reader.next().await;
                assert_eq!((text(&publish).as_str(), publish.retain), ("new", true));
                assert_eq!(publish.qos, sent.min(wanted), "{topic}");
                // Cleared.
                writer.put(retained(topic, sent, "")).await;
                let cleared = [live.next().await, reader.next().await];
                assert!(cleared.iter().all(|it| it.payload.is_empty() && !it.retain));
                kept(&node, topic, None).await;
                reader.subscribe(topic, wanted).await;
                reader.hears_nothing().await;
            }
        }
    }
}

#[tokio::test]
async fn wildcards_find_all_of_them_and_only_those() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let topics = ["a", "a/b", "a/b/c", "b", "b/b", "$x/b"];
    for topic in topics {
        writer.put(retained(topic, QOS1, topic)).await;
    }
    for (filter, expected) in [
        ("#", &["a", "a/b", "a/b/c", "b", "b/b"][..]),
        ("a/#", &["a", "a/b", "a/b/c"]),
        ("+/b", &["a/b", "b/b"]),
        ("$x/#", &["$x/b"]),
        ("c/#", &[]),
    ] {
        let mut reader = subscribed(&node, filter, QOS1).await;
        let mut came = reader.next_payloads(expected.len()).await;
        came.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(came, expected, "{filter}");
        reader.hears_nothing().await;
    }
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
#[tokio::test]
async fn retain_handling_says_when() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.put(retained("a", QOS1, "kept")).await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    let options = |retain_handling| SubscriptionOptions {
        qos: QOS1,
        retain_handling,
        ..SubscriptionOptions::default()
    };
    let steps = [
        (RetainHandling::DoNotSend, false),
        (RetainHandling::SendIfNew, false),
        (RetainHandling::Send, true),
        (RetainHandling::Send, true),
    ];
    for (handling, comes) in steps {
        reader.say_subscribe(&["a"], options(handling)).await;
        if comes {
            assert_eq!(text(&reader.next().await), "kept");
        }
        reader.hears_nothing().await;
    }
    reader.unsubscribe("a").await;
    reader
        .say_subscribe(&["a"], options(RetainHandling::SendIfNew))
        .await;
    assert_eq!(text(&reader.next().await), "kept");
    reader.hears_nothing().await;
}

/// Section 4.8.2, and [MQTT-3.8.3-3].
#[tokio::test]
async fn shared_subscriptions_and_no_local_get_none() {
    let node = TestNode::start().await;
    let mut client = TestClient::connect(node.address, "client").await;
    client.put(retained("a", QOS1, "own")).await;
    client.subscribe("$share/g/a", QOS1).await;
    client.hears_nothing().await;
    let options = SubscriptionOptions {
        qos: QOS1,
        no_local: true,
        ..SubscriptionOptions::default()
    };
    client.say_subscribe(&["a"], options).await;
    client.hears_nothing().await;
}

#[tokio::test]
async fn they_come_before_what_is_published_after() {
    let node = TestNode::start().await;
    let address = node.address;
    let mut writer = TestClient::connect(address, "writer").await;
    for number in 0..300 {
        writer
            .put(retained(
                &format!("a/{}", number % 100),
                QOS1,
                &number.to_string(),
            ))
            .await;
    }
    let writing = tokio::spawn(async move {
        for number in 300.. {
            writer
                .put(retained(
                    &format!("a/{}", number % 100),
                    QOS1,
                    &number.to_string(),
                ))
                .await;
        }
    });
    for round in 0..5 {
        let mut reader = subscribed(&node, "a/#", QOS1).await;
        let mut newest = vec![None; 100];
        let mut is_live = false;
        // The retained ones, and some live.
        for _ in 0..120 {
            let publish = reader.next().await;
            is_live |= !publish.retain;
            assert_eq!(
                publish.retain, !is_live,
                "retained ones first, in round {round}"
            );
            let number: usize = text(&publish).parse().unwrap();
            let newest = &mut newest[number % 100];
            assert!(
                newest.is_none_or(|it| it + 100 == number),
                "{newest:?} {number}"
            );
            *newest = Some(number);
        }
    }
    assert!(!writing.is_finished());
    writing.abort();
}

/// More than fit into memory at once, for a client that takes them slowly.
#[tokio::test]
async fn many_are_read_as_the_client_takes_them() {
    let node = TestNode::start_with(|config| config.mailbox.messages_max = 20).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..1000 {
        let topic = format!("a/{number}");
        writer
            .put(retained(&topic, QOS1, &number.to_string()))
            .await;
    }
    let mut reader = TestClient::begin(node.address, "reader").await;
    reader.subscribe("a/#", QOS1).await;
    for number in 0..100 {
        writer
            .put(message("a/live", QOS1, format!("{number}")))
            .await;
    }
    let mut came: Vec<u32> = Vec::new();
    for _ in 0..1000 {
        let publish = reader.next().await;
        assert!(publish.retain);
        came.push(text(&publish).parse().unwrap());
    }
    came.sort_unstable();
    assert_eq!(came, (0..1000).collect::<Vec<_>>());
    for number in 0..100 {
        let publish = reader.next().await;
        assert_eq!(
            (text(&publish), publish.retain),
            (number.to_string(), false)
        );
    }
    reader.hears_nothing().await;
}

#[tokio::test]
async fn one_that_has_expired_does_not_come() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let properties = MessageProperties {
        expiry_interval_s: Some(1),
        ..MessageProperties::default()
    };
    let publish = Publish {
        properties: Some(Box::new(properties)),
        ..retained("a", QOS1, "short")
    };
    writer.put(publish).await;
    sleep(Duration::from_millis(1500)).await;
    subscribed(&node, "a", QOS1).await.hears_nothing().await;
}

/// Ends what was begun, and must not come back by it.
#[tokio::test]
async fn an_unsubscribe_ends_those_that_wait() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..600 {
        let topic = format!("a/{number}");
        writer
            .put(retained(&topic, QOS1, &number.to_string()))
            .await;
    }
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a/#", QOS1).await;
    phone.subscribe("b", QOS1).await;
    phone.unsubscribe("a/#").await;
    writer.publish("b", QOS1, "live").await;
    let mut came = 0;
    while text(&phone.next().await) != "live" {
        came += 1;
    }
    assert!(came < 600, "{came}");
    for _ in 0..2 {
        drop(phone);
        node.gone("phone").await;
        phone = TestClient::resume(node.address, "phone").await;
        writer.publish("a/0", QOS1, "unwanted").await;
        phone.hears_nothing().await;
    }
}

/// Of a session that outlives its connection: what was not acknowledged comes again.
#[tokio::test]
async fn they_come_again_if_the_session_did_not_acknowledge_them() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..5 {
        writer
            .put(retained(&format!("a/{number}"), QOS2, &number.to_string()))
            .await;
    }
    for (id, qos) in [("one", QOS1), ("two", QOS2)] {
        let mut phone = TestClient::begin(node.address, id).await;
        phone.subscribe("a/#", qos).await;
        for _ in 0..2 {
            phone.next_unacknowledged().await;
        }
        for _ in 0..2 {
            drop(phone);
            node.gone(id).await;
            phone = TestClient::resume(node.address, id).await;
            let mut came = Vec::new();
            while came.len() < 5 {
                // Under ids of which the client may know, nothing else comes before they are released.
                match phone.receive().await {
                    magpie_codec::Packet::Publish(publish) => {
                        assert!(publish.retain);
                        came.push(text(&publish));
                    }
                    magpie_codec::Packet::PubRel(_) => assert_eq!(qos, QOS2),
                    packet => panic!("{packet:?}"),
                }
            }
            came.sort();
            assert_eq!(came, ["0", "1", "2", "3", "4"]);
        }
        // All acknowledged: never again.
        let (mut phone, _) = TestClient::greet(node.address, id, Greeting::durable()).await;
        let mut came = 0;
        let mut unreleased = std::collections::BTreeSet::new();
        while came < 5 || !unreleased.is_empty() {
            match phone.receive().await {
                magpie_codec::Packet::Publish(publish) => {
                    came += 1;
                    let ack =
                        magpie_codec::Ack::new(publish.packet_id.unwrap(), ReasonCode::Success);
                    let answer = match qos {
                        QOS1 => magpie_codec::Packet::PubAck(ack),
                        _ => {
                            unreleased.insert(ack.packet_id);
                            magpie_codec::Packet::PubRec(ack)
                        }
                    };
                    phone.send(&answer).await;
                }
                magpie_codec::Packet::PubRel(ack) => {
                    unreleased.remove(&ack.packet_id);
                    phone.send(&magpie_codec::Packet::PubComp(ack)).await;
                }
                packet => panic!("{packet:?}"),
            }
        }
        phone.hears_nothing().await;
        drop(phone);
        node.gone(id).await;
        TestClient::resume(node.address, id)
            .await
            .hears_nothing()
            .await;
    }
}

/// Of a flood at QoS 0, the newest of each topic is what is kept, at the cost of a few records; and nothing of it overtakes what the client
/// publishes later.
#[tokio::test]
async fn a_flood_costs_a_few_records_and_its_last_message_is_kept() {
    const MESSAGES: usize = 4000;
    let node = TestNode::start().await;
    let written = || node.cluster.status().log.written_bytes;
    let before = written();
    let mut writer = TestClient::connect(node.address, "writer").await;
    let payload = "x".repeat(500);
    for number in 1..=MESSAGES {
        for topic in ["flood/a", "flood/b"] {
            let publish = retained(topic, QOS0, &format!("{number} {payload}"));
            writer.put(publish).await;
        }
    }
    writer.put(retained("flood/b", QOS1, "after it")).await;
    writer.disconnect(ReasonCode::Success, None).await;
    node.gone("writer").await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("flood/#", QOS1).await;
    let mut kept = [text(&reader.next().await), text(&reader.next().await)];
    kept.sort();
    assert_eq!(kept[0], format!("{MESSAGES} {payload}"));
    assert_eq!(kept[1], "after it");
    let bytes = written() - before;
    let sent = (2 * MESSAGES * payload.len()) as u64;
    assert!(bytes < sent / 2, "{bytes} bytes of log for {sent} bytes");
}
