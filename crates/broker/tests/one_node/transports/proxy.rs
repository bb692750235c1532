//! The PROXY header before everything else, and IPv6.

use std::net::{Ipv6Addr, SocketAddr};

use magpie_broker::Transport;
use magpie_codec::{ProtocolVersion, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Authority;
use super::websocket::{over_websocket, upgraded};
use crate::client::{Socket, TestClient};
use crate::node::TestNode;

const VERSION_1: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 8883\r\n";

/// 192.0.2.7:51000, with an optional field behind the addresses.
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc0\x00\x02\x01\xc7\x38\x22\xb3\x04\x00\x04abcd";

async fn start(authority: &Authority) -> TestNode {
    authority.install(&authority.server());
    TestNode::start_with(|config| {
        let (certificate, key) = authority.paths();
        let listener = &mut config.listener;
        let free = Some(([127, 0, 0, 1], 0).into());
        listener.proxy_protocol = true;
        listener.allow_anonymous = Some(true);
        listener.mqtt_plain_listen = free;
        listener.mqtts_listen = free;
        listener.ws_listen = free;
        listener.wss_listen = free;
        listener.tls_cert = Some(certificate);
        listener.tls_key = Some(key);
    })
    .await
}

/// A connection on which a balancer has said this, byte by byte if it is short.
async fn balanced(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in header {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    socket
}

async fn check(node: &TestNode, socket: impl Socket + 'static, transport: Transport, from: &str) {
    let mut client = TestClient::over(socket, ProtocolVersion::V5);
    let connack = client.say_connect("balanced", None).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    let info = node.node.clients();
    assert_eq!(info[0].remote, from.parse().unwrap());
    assert_eq!(info[0].transport, transport);
    client.disconnect(ReasonCode::Success, None).await;
    node.gone("balanced").await;
}

#[tokio::test]
async fn every_listener_but_the_plain_one_takes_the_address_from_the_header() {
    let authority = Authority::new();
    let node = start(&authority).await;
    let listening = node.node.listening();
    for (header, from) in [
        (VERSION_1, "[2001:db8::7]:51000"),
        (VERSION_2, "192.0.2.7:51000"),
    ] {
        let socket = balanced(node.address, header).await;
        check(&node, socket, Transport::Tcp, from).await;
        let socket = balanced(listening.mqtts.unwrap(), header).await;
        let socket = authority.trusting().handshake(socket).await.unwrap();
        check(&node, socket, Transport::Tls, from).await;
        let socket = balanced(listening.ws.unwrap(), header).await;
        let socket = over_websocket(upgraded(socket).await, 1000);
        check(&node, socket, Transport::Ws, from).await;
        let socket = balanced(listening.wss.unwrap(), header).await;
        let socket = authority.trusting().handshake(socket).await.unwrap();
        let socket = over_websocket(upgraded(socket).await, 1000);
        check(&node, socket, Transport::Wss, from).await;
    }
    let plain = TcpStream::connect(listening.plain.unwrap()).await.unwrap();
    let own = plain.local_addr().unwrap().to_string();
    check(&node, plain, Transport::Tcp, &own).await;
}

#[tokio::test]
async fn a_header_and_what_follows_may_come_together() {
    let node = start(&Authority::new()).await;
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    let mut bytes = VERSION_2.to_vec();
    bytes.extend_from_slice(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a");
    socket.write_all(&bytes).await.unwrap();
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn without_a_header_there_is_no_connection() {
    let node = start(&Authority::new()).await;
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
    socket.write_all(connect).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn listeners_may_have_addresses_of_ipv6() {
    let node = TestNode::start_with(|config| {
        config.listener.mqtt_listen = Some((Ipv6Addr::LOCALHOST, 0).into());
    })
    .await;
    let client = TestClient::connect(node.address, "six").await;
    assert!(node.node.clients()[0].remote.is_ipv6());
    drop(client);
}
