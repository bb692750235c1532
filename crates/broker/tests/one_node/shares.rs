//! Share groups: what members leave, and what waits for them.

use std::num::NonZeroU16;

use magpie_codec::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};

use crate::client::{Greeting, TestClient, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;
const JOBS: &str = "$share/g/jobs/+";

fn ack(id: PacketId) -> Ack {
    Ack::new(id, ReasonCode::Success)
}

/// To one topic, hence from one partition: members take turns.
async fn publish(writer: &mut TestClient, qos: QoS, numbers: std::ops::Range<u32>) {
    for number in numbers {
        writer.publish("jobs/1", qos, number.to_string()).await;
    }
}

async fn publish_to_many(writer: &mut TestClient, qos: QoS, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let topic = format!("jobs/{}", number % 5);
        writer.publish(&topic, qos, number.to_string()).await;
    }
}

/// A session that goes on is a member a moment after its CONNACK: messages, one at a time, until it gets one. From then on both have turns.
async fn until_both_have_turns(
    writer: &mut TestClient,
    qos: QoS,
    resumed: &mut TestClient,
    other: &mut TestClient,
) {
    loop {
        writer.publish("jobs/1", qos, "probe").await;
        tokio::select! {
            _ = resumed.next() => return,
            _ = other.next() => {}
        }
    }
}

fn numbers(payloads: Vec<String>) -> Vec<u32> {
    let mut numbers: Vec<u32> = payloads.iter().map(|it| it.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn what_a_member_has_not_acknowledged_goes_to_another() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for is_durable in [false, true] {
        let mut first = match is_durable {
            true => TestClient::begin(node.address, "first").await,
            false => TestClient::connect(node.address, "first").await,
        };
        first.subscribe(JOBS, QOS1).await;
        publish(&mut writer, QOS1, 0..10).await;
        for _ in 0..10 {
            first.next_unacknowledged().await;
        }
        let mut second = TestClient::connect(node.address, "second").await;
        second.subscribe(JOBS, QOS1).await;
        second.hears_nothing().await;
        drop(first);
        let again = second.next_payloads(10).await;
        assert_eq!(numbers(again), (0..10).collect::<Vec<_>>());
        if is_durable {
            let mut first = TestClient::resume(node.address, "first").await;
            first.hears_nothing().await;
            until_both_have_turns(&mut writer, QOS1, &mut first, &mut second).await;
            publish(&mut writer, QOS1, 10..20).await;
            let mut both = first.next_payloads(5).await;
            both.extend(second.next_payloads(5).await);
            assert_eq!(numbers(both), (10..20).collect::<Vec<_>>());
        }
        drop(second);
        node.gone("second").await;
    }
}

#[tokio::test]
async fn messages_wait_for_a_session_and_for_nobody_else() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut clean = TestClient::connect(node.address, "clean").await;
    clean.subscribe(JOBS, QOS1).await;
    clean.disconnect(ReasonCode::Success, None).await;
    node.gone("clean").await;
    // The group may know a moment later.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    publish(&mut writer, QOS1, 0..5).await;
    let mut worker = TestClient::begin(node.address, "worker").await;
    worker.subscribe(JOBS, QOS2).await;
    worker.hears_nothing().await;
    worker.disconnect(ReasonCode::Success, None).await;
    node.gone("worker").await;
    publish_to_many(&mut writer, QOS1, 5..10).await;
    publish_to_many(&mut writer, QOS2, 10..80).await;
    // Some at once, all in the end, by a client that takes one at a time.
    let slow = Greeting {
        receive_maximum: NonZeroU16::new(1),
        ..Greeting::durable()
    };
    let (mut worker, _) = TestClient::greet(node.address, "worker", slow).await;
    let payloads = worker.next_payloads(75).await;
    assert_eq!(numbers(payloads), (5..80).collect::<Vec<_>>());
    // The session ends, and what waits for the group with it.
    worker.disconnect(ReasonCode::Success, Some(0)).await;
    node.gone("worker").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    publish(&mut writer, QOS1, 0..5).await;
    let mut clean = TestClient::connect(node.address, "clean").await;
    clean.subscribe(JOBS, QOS1).await;
    clean.hears_nothing().await;
}

/// [MQTT-4.8.2-4]
#[tokio::test]
async fn a_qos_2_message_stays_with_its_session() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe(JOBS, QOS2).await;
    publish(&mut writer, QOS2, 0..2).await;
    let sent = phone.next_unacknowledged().await;
    let other = phone.next_unacknowledged().await;
    let id = sent.packet_id.unwrap();
    let mut second = TestClient::connect(node.address, "second").await;
    second.subscribe(JOBS, QOS2).await;
    // After PUBLISH: when the connection breaks, and when another takes the session over.
    for is_takeover in [false, true] {
        if !is_takeover {
            drop(phone);
            node.gone("phone").await;
            second.hears_nothing().await;
        }
        phone = TestClient::resume(node.address, "phone").await;
        let repeat = phone.next_unacknowledged().await;
        let expected = Publish {
            dup: true,
            ..sent.clone()
        };
        assert_eq!((&repeat, text(&repeat)), (&expected, text(&sent)));
        assert_eq!(phone.next_unacknowledged().await.packet_id, other.packet_id);
    }
    // After PUBREC.
    phone.send(&Packet::PubRec(ack(id))).await;
    assert_eq!(phone.receive().await, Packet::PubRel(ack(id)));
    drop(phone);
    node.gone("phone").await;
    phone = TestClient::resume(node.address, "phone").await;
    assert_eq!(phone.receive().await, Packet::PubRel(ack(id)));
    phone.send(&Packet::PubComp(ack(id))).await;
    assert_eq!(phone.next().await.packet_id, other.packet_id);
    // After PUBCOMP: neither is anybody's any more.
    drop(phone);
    node.gone("phone").await;
    phone = TestClient::resume(node.address, "phone").await;
    phone.hears_nothing().await;
    second.hears_nothing().await;
    until_both_have_turns(&mut writer, QOS2, &mut phone, &mut second).await;
    publish(&mut writer, QOS2, 2..6).await;
    let mut both = phone.next_payloads(2).await;
    both.extend(second.next_payloads(2).await);
    assert_eq!(numbers(both), (2..6).collect::<Vec<_>>());
}

/// [MQTT-4.8.2-5], [MQTT-4.8.2-6]
#[tokio::test]
async fn what_is_refused_or_was_sent_to_a_session_that_ended_is_discarded() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe(JOBS, QOS2).await;
    publish(&mut writer, QOS1, 0..1).await;
    publish(&mut writer, QOS2, 1..3).await;
    let sent = [
        phone.next_unacknowledged().await,
        phone.next_unacknowledged().await,
        phone.next_unacknowledged().await,
    ];
    for publish in &sent[..2] {
        let refusal = Ack::new(
            publish.packet_id.unwrap(),
            ReasonCode::ImplementationSpecificError,
        );
        phone
            .send(&match publish.qos {
                QoS::ExactlyOnce => Packet::PubRec(refusal),
                _ => Packet::PubAck(refusal),
            })
            .await;
    }
    let mut second = TestClient::connect(node.address, "second").await;
    second.subscribe(JOBS, QOS2).await;
    // Both refusals are taken before the connection ends.
    second.hears_nothing().await;
    phone.disconnect(ReasonCode::Success, Some(0)).await;
    node.gone("phone").await;
    second.hears_nothing().await;
    publish(&mut writer, QOS2, 7..8).await;
    assert_eq!(text(&second.next().await), "7");
}

#[tokio::test]
async fn a_full_mailbox_leaves_messages_in_the_log() {
    let node = TestNode::start_with(|config| config.mailbox.messages_max = 4).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let greeting = Greeting {
        receive_maximum: NonZeroU16::new(1),
        ..Greeting::default()
    };
    let (mut worker, _) = TestClient::greet(node.address, "worker", greeting).await;
    worker.subscribe(JOBS, QOS1).await;
    worker.subscribe("$share/h/jobs/+", QOS1).await;
    publish_to_many(&mut writer, QOS1, 0..100).await;
    let twice = numbers(worker.next_payloads(200).await);
    assert_eq!(twice, (0..100).flat_map(|it| [it, it]).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_member_that_unsubscribes_leaves_the_rest_to_others() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut first = TestClient::begin(node.address, "first").await;
    first.subscribe(JOBS, QOS1).await;
    let mut second = TestClient::begin(node.address, "second").await;
    second.subscribe(JOBS, QOS1).await;
    publish(&mut writer, QOS1, 0..10).await;
    for _ in 0..5 {
        first.next_unacknowledged().await;
    }
    assert_eq!(first.unsubscribe(JOBS).await, ReasonCode::Success);
    let all = second.next_payloads(10).await;
    assert_eq!(numbers(all), (0..10).collect::<Vec<_>>());
    publish(&mut writer, QOS1, 10..20).await;
    let all = second.next_payloads(10).await;
    assert_eq!(numbers(all), (10..20).collect::<Vec<_>>());
    first = TestClient::resume(node.address, "first").await;
    publish(&mut writer, QOS1, 20..25).await;
    let all = second.next_payloads(5).await;
    assert_eq!(numbers(all), (20..25).collect::<Vec<_>>());
    drop(first);
}

/// What was left does not end what is joined afterwards.
#[tokio::test]
async fn who_unsubscribes_and_subscribes_again_is_a_member() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut worker = TestClient::begin(node.address, "worker").await;
    worker.subscribe(JOBS, QOS1).await;
    for round in 0..20 {
        if round % 2 == 0 {
            worker.unsubscribe(JOBS).await;
            worker.subscribe(JOBS, QOS1).await;
        } else {
            worker.subscribe_anew(JOBS, QOS1).await;
        }
        publish_to_many(&mut writer, QOS1, 0..5).await;
        let all = worker.next_payloads(5).await;
        assert_eq!(numbers(all), (0..5).collect::<Vec<_>>(), "round {round}");
    }
}

/// The rest is a filter like any other, even if it reads like a share name.
#[tokio::test]
async fn a_share_name_behind_a_share_name_is_none() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut worker = TestClient::begin(node.address, "worker").await;
    for filter in ["$share/g/$share/h/x", "$share/g/$share/h/#"] {
        worker.subscribe(filter, QOS1).await;
    }
    writer.publish("x", QOS1, "not theirs").await;
    worker.hears_nothing().await;
    writer.publish("$share/h/x", QOS1, "theirs").await;
    assert_eq!(worker.next_payloads(2).await, ["theirs", "theirs"]);
}
