//! Rules of MQTT that only a whole node can show, and that no other test is about.

use bytes::Bytes;
use magpie_codec::{ProtocolVersion, QoS, TopicName, Will};

use crate::ALL_QOS;
use crate::client::{Greeting, TestClient, text};
use crate::node::TestNode;

/// [MQTT-3.1.2-14], [MQTT-3.1.2-15], [MQTT-3.1.2-16 v3.1.1], [MQTT-3.1.2-17 v3.1.1], [MQTT-3.1.2-7 v3.1.1]: its session is
/// gone when it is read.
#[tokio::test]
async fn a_will_is_retained_if_it_says_so_and_outlives_its_session() {
    let node = TestNode::start().await;
    let mut live = TestClient::connect(node.address, "live").await;
    live.subscribe("will/+", QoS::AtLeastOnce).await;
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        for retain in [false, true] {
            let topic = format!("will/{version:?}{retain}");
            let will = Will {
                topic: TopicName::try_from(topic.clone()).unwrap(),
                payload: Bytes::from_static(b"gone"),
                qos: QoS::AtLeastOnce,
                retain,
                delay_interval_s: 0,
                properties: None,
            };
            let greeting = Greeting {
                version,
                will: Some(Box::new(will)),
                ..Greeting::default()
            };
            let (client, _) = TestClient::greet(node.address, "phone", greeting).await;
            drop(client);
            node.gone("phone").await;
            let passing = live.next().await;
            assert_eq!((text(&passing).as_str(), passing.retain), ("gone", false));
            let mut late = TestClient::connect(node.address, "late").await;
            late.subscribe(&topic, QoS::AtLeastOnce).await;
            if retain {
                let kept = late.next().await;
                assert_eq!((text(&kept).as_str(), kept.retain), ("gone", true));
            } else {
                late.hears_nothing().await;
            }
        }
    }
}

/// [MQTT-4.8.2-3]
#[tokio::test]
async fn a_member_gets_messages_at_the_qos_that_it_was_granted() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for granted in ALL_QOS {
        let mut member = TestClient::connect(node.address, "member").await;
        member.subscribe("$share/g/a", granted).await;
        for sent in ALL_QOS {
            writer.publish("a", sent, "hello").await;
            assert_eq!(member.next().await.qos, sent.min(granted));
        }
    }
}
