//! What clients are told at the limits of the cluster.

use magpie_codec::{Ack, Packet, ProtocolVersion, QoS, ReasonCode, SubscriptionOptions, Text};
use magpie_state::ClientId;

use crate::client::{Greeting, TestClient, text};
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
            cluster.log_retain = std::time::Duration::from_secs(1);
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
        // About 62 of them are as much as may wait.
        if session.lost >= 97 {
            lost = session.lost;
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!((97..=130).contains(&lost), "{lost}");
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
