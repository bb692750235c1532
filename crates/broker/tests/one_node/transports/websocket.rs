//! WebSocket, spoken by another implementation of it.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use magpie_broker::{Config, Transport};
use magpie_codec::{ProtocolVersion, QoS, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::certificates::Authority;
use crate::client::{Socket, TestClient};
use crate::node::TestNode;

/// A CONNECT of version 3.1.1.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";
const PINGREQ: &[u8] = b"\xc0\x00";
const PINGRESP: &[u8] = b"\xd0\x00";

async fn start(change: impl FnOnce(&mut Config)) -> (TestNode, SocketAddr) {
    let node = TestNode::start_with(|config| {
        config.listener.ws_listen = Some(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await;
    let address = node.node.listening().ws.unwrap();
    (node, address)
}

fn request(subprotocols: &'static str) -> Request {
    let mut request = "ws://broker.example/mqtt".into_client_request().unwrap();
    let value = subprotocols.parse().unwrap();
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", value);
    request
}

pub(super) async fn upgraded<S: Socket>(socket: S) -> WebSocketStream<S> {
    let upgrade = tokio_tungstenite::client_async(request("mqtt"), socket);
    upgrade.await.unwrap().0
}

async fn open(address: SocketAddr) -> WebSocketStream<TcpStream> {
    upgraded(TcpStream::connect(address).await.unwrap()).await
}

/// The bytes of a WebSocket. What is written goes out in messages of so many bytes.
pub(super) fn over_websocket<S: Socket + 'static>(
    mut websocket: WebSocketStream<S>,
    message_bytes_max: usize,
) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(theirs);
        let mut buffer = vec![0; message_bytes_max];
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        let message = Message::binary(buffer[..count].to_vec());
                        if websocket.send(message).await.is_err() {
                            break;
                        }
                    }
                },
                message = websocket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => to.write_all(&bytes).await.unwrap(),
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => break,
                },
            }
        }
    });
    ours
}

/// [MQTT-6.0.0-2], [MQTT-6.0.0-2 v3.1.1]
#[tokio::test]
async fn messages_of_every_size_go_both_ways_however_they_are_cut() {
    let (node, address) = start(|_| {}).await;
    for cut in [1, 2, 7, 1000, 100_000] {
        let socket = over_websocket(open(address).await, cut);
        let mut client = TestClient::over(socket, ProtocolVersion::V5);
        client.say_connect("ws", None).await;
        client.subscribe("a", QoS::AtLeastOnce).await;
        for size in [0, 1, 200, 20_000, 100 * cut.min(5_000), 3] {
            let payload = "x".repeat(size);
            client.publish("a", QoS::AtLeastOnce, payload.clone()).await;
            assert_eq!(client.next().await.payload, payload, "{cut} {size}");
        }
        assert_eq!(node.node.clients()[0].transport, Transport::Ws);
        client.disconnect(ReasonCode::Success, None).await;
        node.gone("ws").await;
    }
}

#[tokio::test]
async fn the_same_over_tls() {
    let authority = Authority::new();
    authority.install(&authority.server());
    let (node, _) = start(|config| {
        let (certificate, key) = authority.paths();
        config.listener.wss_listen = Some(([127, 0, 0, 1], 0).into());
        config.listener.tls_cert = Some(certificate);
        config.listener.tls_key = Some(key);
    })
    .await;
    let mut trusting = authority.trusting();
    trusting.protocols = &["h2", "http/1.1"];
    let socket = trusting.connect(node.node.listening().wss.unwrap()).await;
    let socket = over_websocket(upgraded(socket.unwrap()).await, 3000);
    let mut client = TestClient::over(socket, ProtocolVersion::V5);
    client.say_connect("wss", None).await;
    client.subscribe("a", QoS::AtLeastOnce).await;
    for size in [0, 1, 20_000, 500_000] {
        let payload = "x".repeat(size);
        client.publish("a", QoS::AtLeastOnce, payload.clone()).await;
        assert_eq!(client.next().await.payload, payload);
    }
    assert_eq!(node.node.clients()[0].transport, Transport::Wss);
}

/// Several packets in a frame, one packet in fragments with a Ping between them [MQTT-6.0.0-2].
#[tokio::test]
async fn packets_and_frames_do_not_have_the_same_bounds() {
    let (_node, address) = start(|_| {}).await;
    let mut socket = open(address).await;
    let (first, rest) = CONNECT.split_at(5);
    let fragment = |data, bytes: &[u8], is_final| {
        let code = OpCode::Data(data);
        Message::Frame(Frame::message(bytes.to_vec(), code, is_final))
    };
    socket
        .send(fragment(Data::Binary, first, false))
        .await
        .unwrap();
    socket.send(Message::Ping("there?".into())).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::Pong("there?".into())
    );
    socket
        .send(fragment(Data::Continue, b"", false))
        .await
        .unwrap();
    let more = [rest, PINGREQ, PINGREQ].concat();
    socket
        .send(fragment(Data::Continue, &more, true))
        .await
        .unwrap();
    let mut answers = Vec::new();
    while answers.len() < CONNACK.len() + 2 * PINGRESP.len() {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => answers.extend_from_slice(&bytes),
            other => panic!("not binary: {other:?}"),
        }
    }
    assert_eq!(answers, [CONNACK, PINGRESP, PINGRESP].concat());
    // The WebSocket is closed in order, and so is its connection.
    socket.close(None).await.unwrap();
    while let Some(message) = socket.next().await {
        assert!(matches!(message, Ok(Message::Close(_))), "{message:?}");
    }
}

/// [MQTT-6.0.0-1], [MQTT-6.0.0-1 v3.1.1]
#[tokio::test]
async fn a_text_frame_ends_the_connection() {
    let (node, address) = start(|_| {}).await;
    let mut socket = open(address).await;
    socket
        .send(Message::binary(CONNECT.to_vec()))
        .await
        .unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap(),
        Message::binary(CONNACK.to_vec())
    );
    socket.send(Message::text("hello")).await.unwrap();
    let Message::Close(Some(close)) = socket.next().await.unwrap().unwrap() else {
        panic!("not closed");
    };
    assert_eq!(u16::from(close.code), 1003);
    node.gone("a").await;
}

/// [MQTT-6.0.0-4], [MQTT-6.0.0-4 v3.1.1]
#[tokio::test]
async fn the_subprotocol_is_mqtt() {
    let (_node, address) = start(|_| {}).await;
    let offer = async |subprotocols| {
        let socket = TcpStream::connect(address).await.unwrap();
        let upgrade = tokio_tungstenite::client_async(request(subprotocols), socket).await;
        upgrade.map(|(_, response)| {
            let subprotocol = response.headers().get("Sec-WebSocket-Protocol").cloned();
            subprotocol.unwrap().to_str().unwrap().to_owned()
        })
    };
    assert_eq!(offer("mqtt").await.unwrap(), "mqtt");
    assert_eq!(offer("chat, mqtt").await.unwrap(), "mqtt");
    assert_eq!(offer("mqttv3.1").await.unwrap(), "mqttv3.1");
    let Err(Error::Http(refused)) = offer("chat").await else {
        panic!("not refused");
    };
    assert_eq!(refused.status().as_u16(), 400);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_if_some_are_named() {
    let (_node, address) =
        start(|config| config.websocket.origins = vec!["https://app.example".to_owned()]).await;
    for (origin, is_welcome) in [
        (None, true),
        (Some("https://app.example"), true),
        (Some("https://evil.example"), false),
    ] {
        let mut request = request("mqtt");
        if let Some(origin) = origin {
            request
                .headers_mut()
                .insert("Origin", origin.parse().unwrap());
        }
        let socket = TcpStream::connect(address).await.unwrap();
        let upgrade = tokio_tungstenite::client_async(request, socket).await;
        assert_eq!(upgrade.is_ok(), is_welcome, "{origin:?}");
    }
}

/// A client that does not read holds nobody up and is not written to for ever; one that reads late gets everything.
#[tokio::test]
async fn what_a_client_does_not_take_waits_within_bounds() {
    let (node, address) = start(|_| {}).await;
    let socket = over_websocket(open(address).await, 1000);
    let mut slow = TestClient::over(socket, ProtocolVersion::V5);
    slow.say_connect("slow", None).await;
    slow.subscribe("a", QoS::AtLeastOnce).await;
    let mut writer = TestClient::connect(node.address, "writer").await;
    for number in 0..100 {
        let payload = format!("{number:05}").repeat(20_000);
        writer.publish("a", QoS::AtLeastOnce, payload.clone()).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..100 {
        let payload = slow.next().await.payload;
        assert_eq!(payload.len(), 100_000);
        assert_eq!(payload[..5], *format!("{number:05}").as_bytes());
    }
}
