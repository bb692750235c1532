//! Clients that do not keep up.

use std::num::NonZeroU16;

use bytes::Bytes;
use magpie_codec::{QoS, ReasonCode};

use crate::client::{Greeting, TestClient, text};
use crate::node::TestNode;

const QOS1: QoS = QoS::AtLeastOnce;

async fn node() -> TestNode {
    TestNode::start_with(|config| config.mailbox.messages_max = 50).await
}

/// Its messages wait in the log, not in memory, whatever topics they are of.
#[tokio::test]
async fn a_slow_session_that_is_kept_loses_nothing() {
    let node = node().await;
    let narrow = Greeting {
        receive_maximum: NonZeroU16::new(3),
        ..Greeting::durable()
    };
    let (mut slow, _) = TestClient::greet(node.address, "slow", narrow).await;
    slow.subscribe("news/#", QOS1).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let mut most = 0;
    for number in 0..1500 {
        let topic = format!("news/{}", number % 5);
        writer.publish(&topic, QOS1, number.to_string()).await;
        let clients = node.node.clients();
        let waiting = clients.iter().find(|it| &*it.client.0 == "slow").unwrap();
        most = most.max(waiting.waiting);
        if number % 100 == 0 {
            // It reads a little, so that it catches up now and then.
            slow.next().await;
        }
    }
    assert!(most <= 50, "{most}");
    let mut came = vec![Vec::new(); 5];
    for _ in 15..1500 {
        let publish = slow.next().await;
        let topic = publish.topic.as_ref().unwrap().as_str();
        let of: usize = topic[5..].parse().unwrap();
        came[of].push(text(&publish).parse::<u32>().unwrap());
    }
    for (of, came) in came.iter().enumerate() {
        assert!(came.is_sorted(), "topic {of}: {came:?}");
    }
    slow.hears_nothing().await;
    writer.publish("news/0", QOS1, "live").await;
    assert_eq!(text(&slow.next().await), "live");
}

#[tokio::test]
async fn a_slow_session_that_ends_with_its_connection_is_closed() {
    let node = node().await;
    let mut slow = TestClient::connect(node.address, "slow").await;
    slow.subscribe("news", QOS1).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for _ in 0..400 {
        writer.publish("news", QOS1, "x").await;
    }
    assert_eq!(slow.closed_with().await, ReasonCode::QuotaExceeded);
}

/// Large messages: what waits is read as the client takes it.
#[tokio::test]
async fn what_waits_for_a_session_does_not_come_into_memory_at_once() {
    let node = TestNode::start_with(|config| {
        config.mailbox.bytes_max = bytesize::ByteSize::mib(1);
        config.connection.write_buffer = bytesize::ByteSize::kib(64);
    })
    .await;
    let mut phone = TestClient::begin(node.address, "phone").await;
    phone.subscribe("big", QOS1).await;
    drop(phone);
    node.gone("phone").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    let payload = |number: u8| Bytes::from(vec![number; 100_000]);
    for number in 0..100 {
        writer.publish("big", QOS1, payload(number)).await;
    }
    let mut phone = TestClient::resume(node.address, "phone").await;
    for number in 0..100 {
        let waiting = node.node.totals();
        assert_eq!(waiting.clients, 2);
        assert_eq!(phone.next().await.payload, payload(number));
    }
    phone.hears_nothing().await;
}
