//! `$SYS/`.

use std::collections::HashMap;

use magpie_codec::{Packet, QoS, ReasonCode};

use crate::client::{TestClient, text};
use crate::node::TestNode;

/// [MQTT-4.7.2-1], [MQTT-4.7.2-1 v3.1.1]: only to who asks for it by name.
#[tokio::test]
async fn who_subscribes_is_told_soon_and_who_subscribes_to_everything_is_not() {
    let node = TestNode::start().await;
    let mut everything = TestClient::connect(node.address, "everything").await;
    everything.subscribe("#", QoS::AtMostOnce).await;
    let mut watcher = TestClient::connect(node.address, "watcher").await;
    watcher.subscribe("$SYS/#", QoS::AtLeastOnce).await;
    let mut told = HashMap::new();
    while !told.contains_key("$SYS/broker/nodes/count") {
        let publish = watcher.next().await;
        assert!(!publish.retain);
        assert_eq!(publish.qos, QoS::AtMostOnce);
        let topic = publish.topic.clone().unwrap();
        told.insert(topic.as_str().to_owned(), text(&publish));
    }
    assert!(told["$SYS/broker/version"].starts_with("magpie "));
    assert!(told["$SYS/broker/uptime"].ends_with(" seconds"));
    assert_eq!(told["$SYS/broker/nodes/count"], "1");
    everything.hears_nothing().await;
}

#[tokio::test]
async fn no_client_speaks_for_the_nodes() {
    let node = TestNode::start().await;
    let mut liar = TestClient::connect(node.address, "liar").await;
    liar.send_publish("$SYS/broker/uptime", QoS::AtLeastOnce, "0 seconds")
        .await;
    let Packet::PubAck(ack) = liar.receive().await else {
        panic!("no PUBACK")
    };
    assert_eq!(ack.reason, ReasonCode::NotAuthorized);
}
