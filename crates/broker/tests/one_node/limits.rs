//! What clients are told at the limits of the cluster.

use std::time::Duration;

use magpie_codec::{
    Ack, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, SubscriptionOptions, Text,
};
use magpie_state::ClientId;

use crate::client::{Greeting, TestClient, message, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn client(id: &str) -> ClientId {
    ClientId(Text::try_from(id.to_owned()).unwrap())
}

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
    let ack = Ack::new(open.packet_id.unwrap(), ReasonCode::Success);
    phone.send(&Packet::PubAck(ack)).await;
    let payloads = phone.next_payloads(180).await;
    let expected: Vec<_> = (20..200).map(|number| number.to_string()).collect();
    assert_eq!(payloads, expected);
}

#[tokio::test]
async fn too_much_for_one_session_is_lost_to_that_one_alone() {
    let node = TestNode::start_limited(
        |cluster| {
            cluster.session_bytes_max = 64 << 10;
            cluster.log_retain = Duration::from_secs(1);
        },
        |_| {},
    )
    .await;
    let mut greedy = TestClient::begin(node.address, "greedy").await;
    greedy.subscribe("news/#", QOS2).await;
    let mut modest = TestClient::begin(node.address, "modest").await;
    modest.subscribe("news/3", QOS1).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish("news/3", QOS2, "open").await;
    // Taken and not finished when its client goes.
    let open = greedy.next_unacknowledged().await;
    let ack = Ack::new(open.packet_id.unwrap(), ReasonCode::Success);
    greedy.send(&Packet::PubRec(ack.clone())).await;
    assert!(matches!(greedy.receive_answer().await, Packet::PubRel(_)));
    assert_eq!(text(&modest.next().await), "open");
    drop((greedy, modest));
    node.gone("greedy").await;
    node.gone("modest").await;
    let payload = |number: usize| format!("{number:04}{}", "x".repeat(1000));
    for number in 0..160 {
        let topic = format!("news/{}", number % 8);
        writer.publish(&topic, QOS1, payload(number)).await;
    }
    let mut lost = 0;
    for _ in 0..1000 {
        let session = node
            .cluster
            .session(&client("greedy"))
            .await
            .unwrap()
            .unwrap();
        // 62 of them are as much as may wait.
        if session.lost >= 98 {
            lost = session.lost;
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((98..=130).contains(&lost), "{lost}");
    let session = node
        .cluster
        .session(&client("modest"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(session.lost, 0);

    let mut modest = TestClient::resume(node.address, "modest").await;
    let expected: Vec<_> = (0..160).filter(|it| it % 8 == 3).map(payload).collect();
    assert_eq!(modest.next_payloads(expected.len()).await, expected);
    modest.hears_nothing().await;

    let mut greedy = TestClient::resume(node.address, "greedy").await;
    match greedy.receive_answer().await {
        Packet::PubRel(again) => assert_eq!(again.packet_id, ack.packet_id),
        other => panic!("not a PUBREL: {other:?}"),
    }
    greedy.send(&Packet::PubComp(ack)).await;
    let left = 160 - usize::try_from(lost).unwrap();
    let mut newest = vec![Vec::new(); 8];
    for _ in 0..left {
        let publish = greedy.next().await;
        let number: usize = text(&publish)[..4].parse().unwrap();
        newest[number % 8].push(number);
    }
    greedy.hears_nothing().await;
    for (topic, numbers) in newest.into_iter().enumerate() {
        let all: Vec<_> = (0..160).filter(|it| it % 8 == topic).collect();
        assert!(all.ends_with(&numbers), "the oldest are lost: {numbers:?}");
    }
}

/// In another partition than `news`.
const RARE: &str = "weather";

/// What waits is out of the log soon.
fn hasty(cluster: &mut magpie_cluster::Config) {
    cluster.log_retain = Duration::from_millis(800);
    cluster.log_retain_bytes = 64 << 20;
    cluster.partitions = 2;
}

fn of_1_kib(number: usize) -> String {
    format!("{number:04}{}", "x".repeat(1000))
}

impl TestNode {
    async fn lost(&self, id: &str) -> u64 {
        let session = self.cluster.session(&client(id)).await.unwrap();
        session.unwrap().lost
    }

    /// Waits until limits have taken so many messages from a session. The logs let go of the last entries when others come.
    async fn lost_at_least(&self, id: &str, messages: u64) -> u64 {
        let mut writer = TestClient::connect(self.address, "poke").await;
        for _ in 0..100 {
            let lost = self.lost(id).await;
            if lost >= messages {
                return lost;
            }
            for number in 0..8 {
                writer.publish(&format!("poke/{number}"), QOS1, "").await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("{} of {messages} lost", self.lost(id).await);
    }
}

#[tokio::test]
async fn beyond_the_room_of_a_partition_the_oldest_go_and_their_sessions_are_told() {
    let node = TestNode::start_limited(
        |cluster| {
            hasty(cluster);
            cluster.message_hold_bytes = 64 << 10;
        },
        |_| {},
    )
    .await;
    for (id, filter) in [("phone", "news"), ("other", RARE)] {
        let mut client = TestClient::begin(node.address, id).await;
        client.subscribe(filter, QOS1).await;
        drop(client);
        node.gone(id).await;
    }
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish(RARE, QOS1, "kept").await;
    for number in 0..160 {
        writer.publish("news", QOS1, of_1_kib(number)).await;
    }
    let lost = node.lost_at_least("phone", 98).await;
    let mut phone = TestClient::resume(node.address, "phone").await;
    let expected: Vec<_> = (usize::try_from(lost).unwrap()..160)
        .map(of_1_kib)
        .collect();
    assert_eq!(phone.next_payloads(expected.len()).await, expected);
    phone.hears_nothing().await;
    let is_there = node.cluster.partition_of(&RARE.try_into().unwrap())
        == node.cluster.partition_of(&"news".try_into().unwrap());
    assert!(!is_there, "in another partition nothing goes");
    let mut other = TestClient::resume(node.address, "other").await;
    assert_eq!(text(&other.next().await), "kept");
    assert_eq!(node.lost("other").await, 0);
}

#[tokio::test]
async fn limits_of_topics_take_what_is_old_or_too_much_of_those_alone() {
    let rule = |filter: &str, age, bytes| magpie_cluster::RetentionRule {
        filter: filter.to_owned(),
        age,
        bytes,
    };
    let node = TestNode::start_limited(
        |cluster| {
            hasty(cluster);
            cluster.retention = vec![
                rule("short/+", Some(Duration::from_secs(2)), None),
                rule("big", None, Some(32 << 10)),
            ];
        },
        |_| {},
    )
    .await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    for filter in ["short/#", "big", "chat"] {
        phone.subscribe(filter, QOS1).await;
    }
    drop(phone);
    node.gone("phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..100 {
        for topic in ["short/1", "big", "chat"] {
            writer.publish(topic, QOS1, of_1_kib(number)).await;
        }
    }
    // All that are old, and about 70 of those that are many.
    node.lost_at_least("phone", 100 + 68).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = node.lost("phone").await;
    writer.publish("short/1", QOS1, "new").await;
    let mut phone = TestClient::resume(node.address, "phone").await;
    let mut came = std::collections::BTreeMap::<String, Vec<String>>::new();
    for _ in 0..301 - lost {
        let publish = phone.next().await;
        let topic = publish.topic.as_ref().unwrap().to_string();
        came.entry(topic).or_default().push(text(&publish));
    }
    phone.hears_nothing().await;
    let all: Vec<_> = (0..100).map(of_1_kib).collect();
    assert_eq!(came["chat"], all);
    assert_eq!(came["short/1"], ["new"]);
    assert!(all.ends_with(&came["big"]) && came["big"].len() >= 28);
}

#[tokio::test]
async fn what_is_too_old_for_the_cluster_goes() {
    let node = TestNode::start_limited(
        |cluster| {
            hasty(cluster);
            cluster.message_hold_age = Duration::from_secs(2);
        },
        |_| {},
    )
    .await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a/#", QOS1).await;
    drop(phone);
    node.gone("phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..50 {
        writer.publish(&format!("a/{number}"), QOS1, "old").await;
    }
    node.lost_at_least("phone", 50).await;
    writer.publish("a/b", QOS1, "new").await;
    let mut phone = TestClient::resume(node.address, "phone").await;
    assert_eq!(text(&phone.next().await), "new");
    phone.hears_nothing().await;
    assert_eq!(node.lost("phone").await, 50);
}

#[tokio::test]
async fn one_retained_topic_more_than_there_may_be_is_refused() {
    let node = TestNode::start_limited(
        |cluster| {
            cluster.partitions = 1;
            cluster.retained_max = 2;
        },
        |_| {},
    )
    .await;
    node.limited().await;
    let mut live = TestClient::connect(node.address, "live").await;
    live.subscribe("#", QOS2).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let retained = |topic: &str, qos, payload: &'static str| Publish {
        retain: true,
        ..message(topic, qos, payload)
    };
    for (topic, payload) in [("a", "1"), ("direct/b", "1"), ("a", "2")] {
        writer.put(retained(topic, QOS1, payload)).await;
        assert_eq!(text(&live.next().await), payload);
    }
    for qos in [QOS1, QOS2] {
        let publish = Publish {
            packet_id: PacketId::new(60_009),
            ..retained("c", qos, "too many")
        };
        writer.send(&Packet::Publish(publish)).await;
        match writer.receive_answer().await {
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                assert_eq!(ack.reason, ReasonCode::QuotaExceeded);
            }
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }
    // Of QoS 0 it passes, and is not kept.
    writer.put(retained("c", QoS::AtMostOnce, "passing")).await;
    assert_eq!(text(&live.next().await), "passing");
    writer.put(retained("direct/b", QOS1, "")).await;
    live.next().await;
    writer.put(retained("c", QOS2, "fits")).await;
    assert_eq!(text(&live.next().await), "fits");
    let mut late = TestClient::connect(node.address, "late").await;
    late.subscribe("#", QOS1).await;
    let mut came = late.next_payloads(2).await;
    came.sort();
    assert_eq!(came, ["2", "fits"]);
    late.hears_nothing().await;
}
