//! QoS 2 of sessions that outlive their connections: exactly once, wherever it is broken off.

use magpie_codec::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};

use crate::client::{Greeting, TestClient, message, text};
use crate::node::TestNode;

const QOS2: QoS = QoS::ExactlyOnce;

fn ack(id: PacketId) -> Ack {
    Ack::new(id, ReasonCode::Success)
}

async fn again(node: &TestNode, client: TestClient) -> TestClient {
    drop(client);
    node.gone("phone").await;
    TestClient::resume(node.address, "phone").await
}

/// [MQTT-4.4.0-1], [MQTT-4.3.3-5]
#[tokio::test]
async fn a_delivery_goes_on_where_it_was_broken_off() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("a", QOS2).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for (round, is_takeover) in [false, true].into_iter().enumerate() {
        let reconnect = async |client: TestClient| match is_takeover {
            false => again(&node, client).await,
            true => TestClient::resume(node.address, "phone").await,
        };
        let payload = format!("{round}");
        writer.publish("a", QOS2, payload.clone()).await;
        writer.publish("a", QOS2, "other").await;
        let publish = phone.next_unacknowledged().await;
        let other = phone.next_unacknowledged().await;
        let id = publish.packet_id.unwrap();
        // After PUBLISH.
        phone = reconnect(phone).await;
        let repeat = phone.next_unacknowledged().await;
        let expected = Publish {
            dup: true,
            ..publish
        };
        assert_eq!((&repeat, text(&repeat)), (&expected, payload));
        let repeat = phone.next_unacknowledged().await;
        assert_eq!((repeat.packet_id, repeat.dup), (other.packet_id, true));
        phone.send(&Packet::PubRec(ack(id))).await;
        assert_eq!(phone.receive().await, Packet::PubRel(ack(id)));
        // After PUBREL, as often as it takes.
        for time in 0..2 {
            phone = reconnect(phone).await;
            let (mut publishes, mut releases) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                match phone.receive().await {
                    Packet::Publish(publish) => publishes.push(publish.packet_id),
                    Packet::PubRel(ack) => releases.push(ack.packet_id),
                    packet => panic!(
                        "{packet:?} after {publishes:?}, {releases:?} {round} {is_takeover} {time}"
                    ),
                }
            }
            assert_eq!((publishes, releases), (vec![other.packet_id], vec![id]));
        }
        phone.send(&Packet::PubComp(ack(id))).await;
        // After PUBCOMP.
        phone = reconnect(phone).await;
        assert_eq!(phone.next().await.packet_id, other.packet_id);
        phone.hears_nothing().await;
    }
}

/// [MQTT-4.3.3-10]: the PUBREC was lost, and the client repeats.
#[tokio::test]
async fn a_message_that_is_repeated_after_a_reconnect_is_taken_once() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("a/#", QOS2).await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    let id = PacketId::new(77).unwrap();
    let first = Publish {
        packet_id: Some(id),
        ..message("a/b", QOS2, "once")
    };
    phone.send(&Packet::Publish(first.clone())).await;
    assert_eq!(phone.receive().await, Packet::PubRec(ack(id)));
    for _ in 0..2 {
        phone = again(&node, phone).await;
        let repeat = Publish {
            dup: true,
            ..first.clone()
        };
        phone.send(&Packet::Publish(repeat)).await;
        assert_eq!(phone.receive().await, Packet::PubRec(ack(id)));
    }
    // Released by a connection that has not seen the message.
    phone = again(&node, phone).await;
    for _ in 0..2 {
        phone.send(&Packet::PubRel(ack(id))).await;
        assert_eq!(phone.receive().await, Packet::PubComp(ack(id)));
    }
    assert_eq!(text(&reader.next().await), "once");
    // From here on the id stands for another message, on this connection and a later one.
    for payload in ["anew", "and again"] {
        let anew = Publish {
            packet_id: Some(id),
            ..message("a/b", QOS2, payload)
        };
        phone.send(&Packet::Publish(anew)).await;
        assert_eq!(phone.receive().await, Packet::PubRec(ack(id)));
        phone.send(&Packet::PubRel(ack(id))).await;
        assert_eq!(phone.receive().await, Packet::PubComp(ack(id)));
        assert_eq!(text(&reader.next().await), payload);
        phone = again(&node, phone).await;
    }
    reader.hears_nothing().await;
}

/// What is in no log cannot be sent again, but the client may wait for the release of its id.
#[tokio::test]
async fn an_id_of_the_direct_class_is_released() {
    let node = TestNode::start().await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("direct/a", QOS2).await;
    phone.subscribe("a", QOS2).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    writer.publish("direct/a", QOS2, "x").await;
    let id = phone.next_unacknowledged().await.packet_id.unwrap();
    for _ in 0..2 {
        phone = again(&node, phone).await;
        assert_eq!(phone.receive().await, Packet::PubRel(ack(id)));
    }
    phone.send(&Packet::PubComp(ack(id))).await;
    phone = again(&node, phone).await;
    writer.publish("a", QOS2, "new").await;
    let publish = phone.next().await;
    assert_eq!((text(&publish).as_str(), publish.dup), ("new", false));
    phone.hears_nothing().await;
}

/// The partitions know the ids of the session also on its last connection, which keeps nothing.
#[tokio::test]
async fn ids_are_used_anew_on_the_last_connection_of_a_session() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("a", QOS2).await;
    let phone = TestClient::begin(node.address, "phone").await;
    drop(phone);
    node.gone("phone").await;
    let last = Greeting {
        expiry_s: 0,
        ..Greeting::durable()
    };
    let (mut phone, connack) = TestClient::greet(node.address, "phone", last).await;
    assert!(connack.session_present);
    let id = PacketId::new(5).unwrap();
    for payload in ["one", "two", "three"] {
        let publish = Publish {
            packet_id: Some(id),
            ..message("a", QOS2, payload)
        };
        phone.send(&Packet::Publish(publish)).await;
        assert_eq!(phone.receive().await, Packet::PubRec(ack(id)));
        phone.send(&Packet::PubRel(ack(id))).await;
        assert_eq!(phone.receive().await, Packet::PubComp(ack(id)));
        assert_eq!(text(&reader.next().await), payload);
    }
}
