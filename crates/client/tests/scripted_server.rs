//! The client against a server that plays its part from a script.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::num::NonZeroU16;
use std::time::Duration;

use magpie_client::{Acknowledge, Client, Connection, Error, Options};
use magpie_codec::{
    Ack, ConnAck, ConnAckProperties, Disconnect, DisconnectProperties, Packet, PacketId,
    PacketType, ProtocolVersion, Publish, QoS, ReasonCode, SubAck, Text, TopicName,
};
use tokio::net::TcpListener;

/// Runs a client and a server against each other; both must come to their end.
async fn play<C, S>(client: impl FnOnce(Options) -> C, server: impl FnOnce(TcpListener) -> S)
where
    C: Future<Output = ()>,
    S: Future<Output = ()>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options::new("127.0.0.1", listener.local_addr().unwrap().port());
    let both = async { tokio::join!(client(options), server(listener)) };
    tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("both ends finish");
}

async fn accept(listener: &TcpListener, connack: ConnAck) -> Connection {
    let mut connection = Connection::accepted(listener.accept().await.unwrap().0).unwrap();
    assert!(matches!(recv(&mut connection).await, Packet::Connect(_)));
    connection.send(&Packet::ConnAck(connack)).await.unwrap();
    connection
}

fn welcome() -> ConnAck {
    ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: None,
    }
}

async fn recv(connection: &mut Connection) -> Packet {
    connection.recv().await.unwrap().expect("a packet")
}

async fn recv_publish(connection: &mut Connection) -> Publish {
    match recv(connection).await {
        Packet::Publish(publish) => publish,
        other => panic!("expected PUBLISH: {other:?}"),
    }
}

async fn expect_disconnect(connection: &mut Connection) {
    assert_eq!(
        recv(connection).await,
        Packet::Disconnect(Disconnect::default())
    );
    assert_eq!(connection.recv().await.unwrap(), None);
}

fn success(packet_id: PacketId) -> Ack {
    Ack::new(packet_id, ReasonCode::Success)
}

fn publish(qos: QoS, packet_id: u16, payload: &'static str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(packet_id),
        topic: Some(TopicName::from_static("a/b")),
        topic_alias: None,
        subscription_ids: Default::default(),
        properties: None,
        payload: payload.into(),
    }
}

#[tokio::test]
async fn a_refused_connection_names_the_reason() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        play(
            |options| async move {
                let error = Client::connect(Options { version, ..options })
                    .await
                    .unwrap_err();
                assert_eq!(
                    error.to_string(),
                    "the server refuses the connection: not authorized"
                );
            },
            |listener| async move {
                let connack = ConnAck {
                    reason: ReasonCode::NotAuthorized,
                    ..welcome()
                };
                accept(&listener, connack).await;
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    play(
        |options| async move {
            let connect_timeout = Duration::from_millis(50);
            let error = Client::connect(Options {
                connect_timeout,
                ..options
            })
            .await
            .unwrap_err();
            assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");
        },
        |listener| async move {
            let mut connection = Connection::accepted(listener.accept().await.unwrap().0).unwrap();
            assert!(matches!(recv(&mut connection).await, Packet::Connect(_)));
            assert_eq!(connection.recv().await.unwrap(), None);
        },
    )
    .await;
}

#[tokio::test]
async fn publish_waits_for_the_acknowledgement() {
    play(
        |options| async move {
            let client = Client::connect(options).await.unwrap();
            client
                .publish("a/b", "zero", QoS::AtMostOnce, false, None)
                .await
                .unwrap();
            let reason = client
                .publish("a/b", "one", QoS::AtLeastOnce, false, None)
                .await
                .unwrap();
            assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
            client
                .publish("a/b", "two", QoS::ExactlyOnce, true, None)
                .await
                .unwrap();
            let error = client
                .publish("a/b", "no", QoS::ExactlyOnce, false, None)
                .await
                .unwrap_err();
            assert_eq!(
                error.to_string(),
                "the server refuses the PUBLISH: quota exceeded"
            );
            let error = client
                .publish("a/#", "", QoS::AtMostOnce, false, None)
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Topic(_)), "{error}");
            client.disconnect().await.unwrap();
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            assert_eq!(recv_publish(&mut server).await.payload, "zero");
            let one = recv_publish(&mut server).await;
            let ack = Ack::new(one.packet_id.unwrap(), ReasonCode::NoMatchingSubscribers);
            server.send(&Packet::PubAck(ack)).await.unwrap();
            let two = recv_publish(&mut server).await;
            assert!(two.retain);
            let packet_id = two.packet_id.unwrap();
            server
                .send(&Packet::PubRec(success(packet_id)))
                .await
                .unwrap();
            assert_eq!(recv(&mut server).await, Packet::PubRel(success(packet_id)));
            server
                .send(&Packet::PubComp(success(packet_id)))
                .await
                .unwrap();
            let no = recv_publish(&mut server).await;
            let ack = Ack::new(no.packet_id.unwrap(), ReasonCode::QuotaExceeded);
            server.send(&Packet::PubRec(ack)).await.unwrap();
            expect_disconnect(&mut server).await;
        },
    )
    .await;
}

/// [MQTT-3.3.4-9]: never more unacknowledged messages than the server's Receive Maximum; and never out of order.
#[tokio::test]
async fn queued_messages_keep_the_servers_receive_maximum() {
    const MESSAGES: u32 = 1000;
    play(
        |options| async move {
            let client = Client::connect(options).await.unwrap();
            let mut pending = Vec::new();
            for number in 0..MESSAGES {
                let payload = number.to_be_bytes().to_vec();
                let queued = client.publish_queued("n", payload, QoS::AtLeastOnce, false, None);
                pending.push(queued.await.unwrap());
            }
            for pending in pending {
                pending.outcome().await.unwrap();
            }
            client.disconnect().await.unwrap();
        },
        |listener| async move {
            let properties = ConnAckProperties {
                receive_maximum: NonZeroU16::new(2),
                ..ConnAckProperties::default()
            };
            let connack = ConnAck {
                properties: Some(Box::new(properties)),
                ..welcome()
            };
            let mut server = accept(&listener, connack).await;
            for number in (0..MESSAGES).step_by(2) {
                let first = recv_publish(&mut server).await;
                let second = recv_publish(&mut server).await;
                assert_eq!(first.payload[..], number.to_be_bytes());
                assert_eq!(second.payload[..], (number + 1).to_be_bytes());
                let early = tokio::time::timeout(Duration::from_millis(1), server.recv()).await;
                assert!(early.is_err(), "a third message: {early:?}");
                server
                    .queue(&Packet::PubAck(success(first.packet_id.unwrap())))
                    .unwrap();
                server
                    .queue(&Packet::PubAck(success(second.packet_id.unwrap())))
                    .unwrap();
                server.flush().await.unwrap();
            }
            expect_disconnect(&mut server).await;
        },
    )
    .await;
}

#[tokio::test]
async fn subscribe_says_what_was_granted() {
    play(
        |options| async move {
            let client = Client::connect(options).await.unwrap();
            let granted = client.subscribe("a/#", QoS::ExactlyOnce).await.unwrap();
            assert_eq!(granted, QoS::AtLeastOnce);
            let error = client.subscribe("b", QoS::AtMostOnce).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "the server refuses the SUBSCRIBE: not authorized"
            );
            client.disconnect().await.unwrap();
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            for reason in [ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized] {
                let Packet::Subscribe(subscribe) = recv(&mut server).await else {
                    panic!("expected SUBSCRIBE");
                };
                let suback = SubAck {
                    packet_id: subscribe.packet_id,
                    reasons: vec![reason],
                    properties: None,
                };
                server.send(&Packet::SubAck(suback)).await.unwrap();
            }
            expect_disconnect(&mut server).await;
        },
    )
    .await;
}

/// [MQTT-4.3.3-10]: a repeated QoS 2 PUBLISH is acknowledged and not a second message.
#[tokio::test]
async fn incoming_messages_are_acknowledged_and_qos_2_comes_once() {
    play(
        |mut options| async move {
            options.properties.topic_alias_maximum = 1;
            let mut client = Client::connect(options).await.unwrap();
            for payload in ["zero", "one", "two"] {
                let incoming = client.next().await.unwrap();
                assert_eq!(incoming.topic, TopicName::from_static("a/b"));
                assert_eq!(incoming.payload, payload);
            }
            let error = client.next().await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "the server ended the connection: server shutting down (maintenance)"
            );
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            let alias = NonZeroU16::new(1);
            let zero = Publish {
                topic_alias: alias,
                ..publish(QoS::AtMostOnce, 0, "zero")
            };
            server.queue(&Packet::Publish(zero)).unwrap();
            let one = Publish {
                topic: None,
                topic_alias: alias,
                ..publish(QoS::AtLeastOnce, 7, "one")
            };
            server.send(&Packet::Publish(one)).await.unwrap();
            let seven = PacketId::new(7).unwrap();
            assert_eq!(recv(&mut server).await, Packet::PubAck(success(seven)));
            let two = publish(QoS::ExactlyOnce, 7, "two");
            server.queue(&Packet::Publish(two.clone())).unwrap();
            server
                .send(&Packet::Publish(Publish { dup: true, ..two }))
                .await
                .unwrap();
            assert_eq!(recv(&mut server).await, Packet::PubRec(success(seven)));
            assert_eq!(recv(&mut server).await, Packet::PubRec(success(seven)));
            server.send(&Packet::PubRel(success(seven))).await.unwrap();
            assert_eq!(recv(&mut server).await, Packet::PubComp(success(seven)));
            let properties = DisconnectProperties {
                reason_string: Some(Text::from_static("maintenance")),
                ..DisconnectProperties::default()
            };
            let disconnect = Disconnect {
                reason: ReasonCode::ServerShuttingDown,
                properties: Some(Box::new(properties)),
            };
            server.send(&Packet::Disconnect(disconnect)).await.unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn by_hand_means_not_before_the_user_says_so() {
    play(
        |options| async move {
            let acknowledge = Acknowledge::ByHand;
            let mut client = Client::connect(Options {
                acknowledge,
                ..options
            })
            .await
            .unwrap();
            let first = client.next().await.unwrap();
            let second = client.next().await.unwrap();
            client.acknowledge(&second).await.unwrap();
            client.acknowledge(&first).await.unwrap();
            client.disconnect().await.unwrap();
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            server
                .queue(&Packet::Publish(publish(QoS::AtLeastOnce, 1, "")))
                .unwrap();
            server
                .send(&Packet::Publish(publish(QoS::ExactlyOnce, 2, "")))
                .await
                .unwrap();
            let [one, two] = [1, 2].map(|number| PacketId::new(number).unwrap());
            assert_eq!(recv(&mut server).await, Packet::PubRec(success(two)));
            assert_eq!(recv(&mut server).await, Packet::PubAck(success(one)));
            expect_disconnect(&mut server).await;
        },
    )
    .await;
}

/// What the user does not take stays in the socket, and nothing is lost.
#[tokio::test]
async fn a_slow_user_holds_up_the_server() {
    const MESSAGES: u16 = 500;
    play(
        |options| async move {
            let mut client = Client::connect(Options {
                incoming_max: 1,
                ..options
            })
            .await
            .unwrap();
            for number in 1..=MESSAGES {
                let incoming = client.next().await.unwrap();
                assert_eq!(incoming.packet_id.unwrap().number(), number);
            }
            client.disconnect().await.unwrap();
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            for number in 1..=MESSAGES {
                server
                    .queue(&Packet::Publish(publish(QoS::AtLeastOnce, number, "x")))
                    .unwrap();
            }
            server.flush().await.unwrap();
            for number in 1..=MESSAGES {
                let packet_id = PacketId::new(number).unwrap();
                assert_eq!(recv(&mut server).await, Packet::PubAck(success(packet_id)));
            }
            expect_disconnect(&mut server).await;
        },
    )
    .await;
}

/// [MQTT-3.1.2-20] [MQTT-3.1.2-21]: the client pings in time, here by the server's keep alive.
#[tokio::test]
async fn keep_alive_pings_and_gives_up_a_dead_server() {
    play(
        |options| async move {
            let mut client = Client::connect(options).await.unwrap();
            assert!(matches!(
                client.next().await.unwrap_err(),
                Error::KeepAliveTimeout
            ));
        },
        |listener| async move {
            let properties = ConnAckProperties {
                server_keep_alive_s: Some(1),
                ..ConnAckProperties::default()
            };
            let connack = ConnAck {
                properties: Some(Box::new(properties)),
                ..welcome()
            };
            let mut server = accept(&listener, connack).await;
            assert_eq!(recv(&mut server).await, Packet::PingReq);
            server.send(&Packet::PingResp).await.unwrap();
            assert_eq!(recv(&mut server).await.packet_type(), PacketType::PingReq);
            assert_eq!(server.recv().await.unwrap(), None);
        },
    )
    .await;
}

#[tokio::test]
async fn a_lost_connection_fails_what_waits_for_it() {
    play(
        |options| async move {
            let client = Client::connect(options).await.unwrap();
            let error = client
                .publish("a", "", QoS::AtLeastOnce, false, None)
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Closed), "{error}");
            let error = client.subscribe("a", QoS::AtMostOnce).await.unwrap_err();
            assert!(matches!(error, Error::Closed), "{error}");
        },
        |listener| async move {
            let mut server = accept(&listener, welcome()).await;
            recv_publish(&mut server).await;
        },
    )
    .await;
}
