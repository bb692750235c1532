//! Connections that do not get as far as CONNECT, and too many of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use magpie_codec::{ProtocolVersion, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificates::Authority;
use crate::client::{Greeting, TestClient};
use crate::node::TestNode;

/// Whether the node closes a connection on which these bytes were sent, when it should.
async fn is_closed_in_time(address: SocketAddr, bytes: &[u8], timeout: Duration) {
    let began = Instant::now();
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let closed = tokio::time::timeout(timeout * 10, reading).await;
    let _ = closed.expect("it is closed");
    assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
}

#[tokio::test]
async fn whatever_comes_before_connect_has_the_time_of_connect() {
    let authority = Authority::new();
    authority.install(&authority.server());
    let timeout = Duration::from_millis(1000);
    let node = TestNode::start_with(|config| {
        let (certificate, key) = authority.paths();
        let listener = &mut config.listener;
        let free = Some(([127, 0, 0, 1], 0).into());
        listener.mqtt_plain_listen = free;
        listener.mqtts_listen = free;
        listener.ws_listen = free;
        listener.wss_listen = free;
        listener.tls_cert = Some(certificate);
        listener.tls_key = Some(key);
        listener.proxy_protocol = true;
        listener.allow_anonymous = Some(true);
        config.session.connect_timeout = timeout;
    })
    .await;
    let listening = node.node.listening();
    let plain = listening.plain.unwrap();
    let header = &b"PROXY UNKNOWN\r\n"[..];
    let begun = |rest: &[u8]| [header, rest].concat();
    let hello = begun(b"\x16\x03\x01\x02\x00\x01");
    let request = begun(b"GET /mqtt HTTP/1.1\r\nHost: a\r\n");
    let cases = [
        (plain, Vec::new()),
        (plain, b"\x10\x0c\x00\x04MQ".to_vec()),
        (node.address, Vec::new()),
        (node.address, b"PROXY ".to_vec()),
        (node.address, header.to_vec()),
        (listening.mqtts.unwrap(), header.to_vec()),
        (listening.mqtts.unwrap(), hello.clone()),
        (listening.ws.unwrap(), request),
        (
            listening.ws.unwrap(),
            begun(&[&b"GET /mqtt HTTP/1.1\r\nX: "[..], &[b'x'; 5000]].concat()),
        ),
        (listening.wss.unwrap(), hello),
    ];
    let all = cases.map(|(address, bytes)| {
        tokio::spawn(async move { is_closed_in_time(address, &bytes, timeout).await })
    });
    for one in all {
        one.await.unwrap();
    }
    crate::until("half-open connections that are gone", || {
        node.node.totals().half_open == 0
    })
    .await;
}

#[tokio::test]
async fn half_open_connections_are_bounded_and_others_are_not_counted() {
    let node = TestNode::start_with(|config| config.listener.max_half_open = 3).await;
    let mut clients = Vec::new();
    for number in 0..5 {
        clients.push(TestClient::connect(node.address, &format!("c{number}")).await);
    }
    assert_eq!(node.node.totals().half_open, 0);
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    crate::until("half-open connections", || {
        node.node.totals().half_open == 3
    })
    .await;
    let mut one_more = TcpStream::connect(node.address).await.unwrap();
    let mut answer = [0];
    assert_eq!(one_more.read(&mut answer).await.unwrap_or(0), 0);
    silent.pop();
    crate::until("room", || node.node.totals().half_open == 2).await;
    TestClient::connect(node.address, "late").await;
}

#[tokio::test]
async fn one_address_does_not_take_the_places_of_all() {
    let change = |config: &mut magpie_broker::Config| config.listener.max_half_open_per_address = 1;
    let node = TestNode::start_with(change).await;
    let silent = TcpStream::connect(node.address).await.unwrap();
    crate::until("a half-open connection", || {
        node.node.totals().half_open == 1
    })
    .await;
    let mut one_more = TcpStream::connect(node.address).await.unwrap();
    assert_eq!(one_more.read(&mut [0]).await.unwrap_or(0), 0);
    drop(silent);
    crate::until("room", || node.node.totals().half_open == 0).await;
    TestClient::connect(node.address, "late").await;
}

/// What the first one is told that is not let in. A slow machine lets some in, as time goes by, but not a hundred.
async fn refusal(node: &TestNode, greeting: Greeting) -> ReasonCode {
    for number in 0..100 {
        let id = format!("refused-{number}");
        let (_, connack) = TestClient::try_greet(node.address, &id, greeting.clone()).await;
        if connack.reason != ReasonCode::Success {
            return connack.reason;
        }
    }
    panic!("a hundred at once were let in");
}

#[tokio::test]
async fn too_many_connections_of_an_address_are_told_so() {
    let node = TestNode::start_with(|config| {
        config.listener.max_connect_rate_per_address = 2;
    })
    .await;
    let _clients = [
        TestClient::connect(node.address, "a").await,
        TestClient::connect(node.address, "b").await,
    ];
    let reason = refusal(&node, Greeting::default()).await;
    assert_eq!(reason, ReasonCode::ConnectionRateExceeded);
    let of_version_3 = Greeting {
        version: ProtocolVersion::V3_1_1,
        ..Greeting::default()
    };
    let reason = refusal(&node, of_version_3).await;
    assert_eq!(reason, ReasonCode::ServerUnavailable, "0x03");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    TestClient::connect(node.address, "c").await;
}

#[tokio::test]
async fn too_many_connections_of_the_node_are_told_so() {
    let node = TestNode::start_with(|config| config.listener.max_connect_rate = 1).await;
    let _client = TestClient::connect(node.address, "a").await;
    let reason = refusal(&node, Greeting::default()).await;
    assert_eq!(reason, ReasonCode::ConnectionRateExceeded);
}
