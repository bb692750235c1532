//! A whole node, spoken to by TCP: what a client sees.

#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod authentication;
mod client;
mod conformance;
mod limits;
mod node;
mod qos2;
mod resume;
mod retained;
mod session_end;
mod shares;
mod slow;
mod sys_topics;
mod transports;
mod wills;

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use magpie_codec::{
    Disconnect, Packet, PacketId, QoS, ReasonCode, SubscriptionOptions, Text, TopicFilter,
    Unsubscribe,
};
use magpie_state::ClientId;

use client::TestClient;
use node::TestNode;

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}

/// [MQTT-4.2.0-1], [MQTT-7.1.1-1 v3.1.1], [MQTT-7.0.0-2 v3.1.1]
#[tokio::test]
async fn messages_of_every_qos_reach_every_kind_of_filter() {
    let node = TestNode::start().await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for topic in ["a/b/c", "direct/b/c"] {
        for filter in [
            topic.to_owned(),
            topic.replace("/b", "/+"),
            topic.replace("/c", "/#"),
        ] {
            for qos in ALL_QOS {
                let mut reader = TestClient::connect(node.address, "reader").await;
                reader.subscribe(&filter, qos).await;
                for sent in ALL_QOS {
                    writer.publish(topic, sent, "hello").await;
                    let received = reader.next().await;
                    assert_eq!(received.qos, sent.min(qos), "{filter}");
                    assert_eq!(received.payload, "hello");
                    assert_eq!(received.topic.unwrap().as_str(), topic);
                }
            }
        }
    }
}

/// [MQTT-4.6.0-5], [MQTT-4.6.0-6], [MQTT-4.6.0-5 v3.1.1], [MQTT-4.6.0-6 v3.1.1]
#[tokio::test]
async fn pipelined_messages_keep_their_order() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for (topic, qos) in [
        ("a", QoS::AtMostOnce),
        ("b", QoS::AtLeastOnce),
        ("direct/c", QoS::AtLeastOnce),
    ] {
        reader.subscribe(topic, qos).await;
        for round in 0..10 {
            // Within the Receive Maximum.
            for number in 0..200 {
                writer
                    .send_publish(topic, qos, format!("{}", round * 200 + number))
                    .await;
            }
            for number in 0..200 {
                assert_eq!(
                    reader.next().await.payload,
                    format!("{}", round * 200 + number)
                );
                if qos != QoS::AtMostOnce {
                    assert!(matches!(writer.receive().await, Packet::PubAck(_)));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_message_after_the_suback_is_received() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for round in 0..100 {
        let topic = format!("round/{round}");
        reader.subscribe(&topic, QoS::AtLeastOnce).await;
        writer.publish(&topic, QoS::AtLeastOnce, "x").await;
        assert_eq!(reader.next().await.topic.unwrap().as_str(), topic);
    }
}

#[tokio::test]
async fn a_large_payload_arrives_whole() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    reader.subscribe("large", QoS::ExactlyOnce).await;
    let payload: Bytes = (0..250_000u32)
        .map(|byte| byte as u8)
        .collect::<Vec<_>>()
        .into();
    for qos in ALL_QOS {
        writer.publish("large", qos, payload.clone()).await;
        assert_eq!(reader.next().await.payload, payload);
    }
}

/// [MQTT-3.1.3-2], [MQTT-3.1.4-3], [MQTT-3.1.3-2 v3.1.1], [MQTT-3.1.4-2 v3.1.1]
#[tokio::test]
async fn a_newer_connection_takes_over_and_the_will_is_published() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("will", QoS::AtLeastOnce).await;
    let mut old = TestClient::connect_with_will(node.address, "twice", "will").await;
    let mut new = TestClient::connect(node.address, "twice").await;
    assert_eq!(old.closed_with().await, ReasonCode::SessionTakenOver);
    assert_eq!(reader.next().await.payload, "gone");
    new.subscribe("x", QoS::AtMostOnce).await;
    new.publish("x", QoS::AtMostOnce, "still here").await;
    assert_eq!(new.next().await.payload, "still here");
}

/// [MQTT-3.1.2-8], [MQTT-3.1.2-10]
/// [MQTT-3.1.2-8 v3.1.1], [MQTT-3.1.2-10 v3.1.1], [MQTT-3.1.2-12 v3.1.1]
#[tokio::test]
async fn the_will_is_published_when_the_socket_breaks_but_not_after_a_goodbye() {
    let node = TestNode::start().await;
    let mut reader = TestClient::connect(node.address, "reader").await;
    reader.subscribe("will/+", QoS::AtLeastOnce).await;
    let mut polite = TestClient::connect_with_will(node.address, "polite", "will/polite").await;
    polite
        .send(&Packet::Disconnect(Disconnect::default()))
        .await;
    assert!(polite.try_receive().await.is_none());
    drop(TestClient::connect_with_will(node.address, "rude", "will/rude").await);
    assert_eq!(reader.next().await.topic.unwrap().as_str(), "will/rude");
}

#[tokio::test]
async fn who_does_not_read_loses_qos_0_and_nobody_else_does() {
    let node = TestNode::start_with(|config| {
        config.mailbox.messages_max = 100;
        config.connection.write_buffer = ByteSize::kib(64);
    })
    .await;
    let mut slow = TestClient::connect(node.address, "slow").await;
    slow.subscribe("news", QoS::AtMostOnce).await;
    let mut quick = TestClient::connect(node.address, "quick").await;
    quick.subscribe("news", QoS::AtMostOnce).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    // More than the sockets' buffers hold.
    let payload = Bytes::from(vec![7; 64 * 1024]);
    for _ in 0..500 {
        writer
            .publish("news", QoS::AtMostOnce, payload.clone())
            .await;
        assert_eq!(quick.next().await.payload.len(), payload.len());
    }
    let clients = node.node.clients();
    let slow_one = clients.iter().find(|it| &*it.client.0 == "slow").unwrap();
    assert_eq!(slow_one.waiting, 100);
    assert!(slow_one.messages_sent < 400);
    // It can go on as soon as it reads.
    slow.next().await;
}

#[tokio::test]
async fn who_does_not_take_qos_1_is_closed() {
    let node = TestNode::start_with(|config| config.mailbox.messages_max = 100).await;
    let mut slow = TestClient::connect(node.address, "slow").await;
    slow.subscribe("news", QoS::AtLeastOnce).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    // The window (256) and the mailbox (100) are full before that.
    for _ in 0..500 {
        writer.publish("news", QoS::AtLeastOnce, "x").await;
    }
    assert_eq!(slow.closed_with().await, ReasonCode::QuotaExceeded);
}

/// [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-5], [MQTT-3.10.4-1 v3.1.1], [MQTT-3.10.4-2 v3.1.1],
/// [MQTT-3.10.4-5 v3.1.1]
#[tokio::test]
async fn unsubscribe_takes_effect_in_the_order_of_the_packets() {
    let node = TestNode::start().await;
    let mut client = TestClient::connect(node.address, "client").await;
    // Pipelined: the UNSUBSCRIBE comes while the SUBSCRIBE is still being watched.
    let filter = TopicFilter::from_static("a/#");
    let subscribe = magpie_codec::Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        subscription_id: None,
        user_properties: Vec::new(),
        filters: vec![(filter.clone(), SubscriptionOptions::default())],
    };
    let unsubscribe = |id| {
        Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::new(id).unwrap(),
            user_properties: Vec::new(),
            filters: vec![filter.clone()],
        })
    };
    client.send(&Packet::Subscribe(subscribe)).await;
    client.send(&unsubscribe(2)).await;
    client.send(&unsubscribe(3)).await;
    assert!(matches!(client.receive().await, Packet::SubAck(_)));
    for expected in [ReasonCode::Success, ReasonCode::NoSubscriptionExisted] {
        let Packet::UnsubAck(unsuback) = client.receive().await else {
            panic!("not an UNSUBACK");
        };
        assert_eq!(unsuback.reasons, [expected]);
    }
    client.send_publish("a/b", QoS::AtLeastOnce, "x").await;
    assert!(matches!(client.receive().await, Packet::PubAck(_)));
    assert_eq!(node.node.totals().subscriptions, 0);
}

/// Section 4.8.2.
#[tokio::test]
async fn a_share_group_gets_each_message_once() {
    let node = TestNode::start().await;
    let (tell, mut told) = tokio::sync::mpsc::channel(100);
    for number in 0..3 {
        let mut member = TestClient::connect(node.address, &format!("member{number}")).await;
        member.subscribe("$share/g/+/job", QoS::AtLeastOnce).await;
        let tell = tell.clone();
        tokio::spawn(async move {
            loop {
                let received = member.next().await;
                tell.send((number, received.payload)).await.unwrap();
            }
        });
    }
    let mut writer = TestClient::connect(node.address, "writer").await;
    let ways = [
        ("a/job", QoS::AtLeastOnce),
        ("a/job", QoS::AtMostOnce),
        ("direct/job", QoS::AtLeastOnce),
    ];
    // A second copy of a message shows up in the next round, at the latest.
    for (topic, qos) in ways {
        let payload = |number: i32| Bytes::from(format!("{topic} {qos:?} {number:02}"));
        for number in 0..30 {
            writer.publish(topic, qos, payload(number)).await;
        }
        let mut received = Vec::new();
        let mut busy = [false; 3];
        for _ in 0..30 {
            let (member, payload) = told.recv().await.unwrap();
            received.push(payload);
            busy[member] = true;
        }
        received.sort();
        assert_eq!(received, (0..30).map(payload).collect::<Vec<_>>());
        assert_eq!(busy, [true; 3], "each member has its part");
    }
}

#[tokio::test]
async fn the_operator_sees_and_closes_clients() {
    let node = TestNode::start().await;
    let mut client = TestClient::connect(node.address, "client").await;
    client.subscribe("a", QoS::AtLeastOnce).await;
    client.publish("a", QoS::AtLeastOnce, "12345").await;
    client.next().await;
    let clients = node.node.clients();
    let [info] = &clients[..] else {
        panic!("not one client: {clients:?}");
    };
    assert_eq!((info.keep_alive_s, info.subscriptions), (30, 1));
    assert_eq!((info.messages_received, info.bytes_received), (1, 5));
    assert_eq!((info.messages_sent, info.bytes_sent), (1, 5));
    let id = |text: &str| ClientId(Text::try_from(text).unwrap());
    assert!(!node.node.kick(&id("nobody")));
    assert!(node.node.kick(&id("client")));
    assert_eq!(client.closed_with().await, ReasonCode::AdministrativeAction);
    until("an empty node", || node.node.totals().connections == 0).await;
    assert_eq!(node.node.totals().filters, 0);
}

#[tokio::test]
async fn shutdown_tells_the_clients() {
    let node = TestNode::start().await;
    let mut client = TestClient::connect(node.address, "client").await;
    let stopping = node.node.clone();
    let stopped = tokio::spawn(async move { stopping.shutdown(Duration::from_millis(100)).await });
    assert_eq!(client.closed_with().await, ReasonCode::ServerShuttingDown);
    drop(client);
    stopped.await.unwrap();
    assert!(node.node.is_draining());
    assert!(tokio::net::TcpStream::connect(node.address).await.is_err());
}

#[tokio::test]
async fn the_connection_limit_holds_and_is_given_back() {
    let node = TestNode::start_with(|config| config.listener.max_connections = 1).await;
    let client = TestClient::connect(node.address, "first").await;
    let mut second = TestClient::open(node.address).await;
    assert!(second.try_receive().await.is_none());
    drop(client);
    until("a free place", || node.node.totals().connections == 0).await;
    TestClient::connect(node.address, "third").await;
}

#[tokio::test]
async fn the_proxy_header_tells_the_clients_address() {
    let node = TestNode::start_with(|config| {
        config.listener.proxy_protocol = true;
        config.listener.allow_anonymous = Some(true);
    })
    .await;
    let mut client = TestClient::open(node.address).await;
    client
        .send_bytes(b"PROXY TCP4 192.0.2.7 127.0.0.1 51000 1883\r\n")
        .await;
    assert_eq!(
        client.say_connect("client", None).await.reason,
        ReasonCode::Success
    );
    assert_eq!(
        node.node.clients()[0].remote,
        "192.0.2.7:51000".parse().unwrap()
    );
    let mut without = TestClient::open(node.address).await;
    without
        .send_bytes(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00")
        .await;
    assert!(without.try_receive().await.is_none());
}

#[tokio::test]
async fn nonsense_ends_its_connection_only() {
    let node = TestNode::start().await;
    let mut good = TestClient::connect(node.address, "good").await;
    let mut bad = TestClient::open(node.address).await;
    bad.send_bytes(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(bad.try_receive().await.is_none());
    let mut late = TestClient::connect(node.address, "late").await;
    late.send_bytes(&[0xff; 100]).await;
    assert!(late.closed_with().await.is_error());
    good.subscribe("a", QoS::AtMostOnce).await;
    good.publish("a", QoS::AtMostOnce, "x").await;
    assert_eq!(good.next().await.payload, "x");
}
