//! TLS: versions, certificates of clients, ALPN, and new certificates while clients are connected.

use std::net::SocketAddr;

use magpie_broker::{ClientCertificate, Config, Transport};
use magpie_codec::{ProtocolVersion, QoS, ReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{HandshakeKind, version};

use super::certificates::{Authority, Certified, HOST};
use crate::client::{Socket, TestClient};
use crate::node::TestNode;

/// A node with TLS, whose certificate `authority` has signed.
async fn start(authority: &Authority, change: impl FnOnce(&mut Config)) -> (TestNode, SocketAddr) {
    authority.install(&authority.server());
    let node = TestNode::start_with(|config| {
        let (certificate, key) = authority.paths();
        config.listener.mqtts_listen = Some(([127, 0, 0, 1], 0).into());
        config.listener.tls_cert = Some(certificate);
        config.listener.tls_key = Some(key);
        change(config);
        assert_eq!(config.problems(), []);
    })
    .await;
    let address = node.node.listening().mqtts.unwrap();
    (node, address)
}

fn ask_for(config: &mut Config, authority: &Authority, how: ClientCertificate) {
    config.listener.tls_client_ca = Some(authority.file());
    config.listener.tls_client_cert = how;
}

async fn say_hello(socket: impl Socket + 'static, id: &str) -> TestClient {
    let mut client = TestClient::over(socket, ProtocolVersion::V5);
    let connack = client.say_connect(id, None).await;
    assert_eq!(connack.reason, ReasonCode::Success);
    client
}

#[tokio::test]
async fn messages_of_every_size_go_both_ways_in_both_versions() {
    let authority = Authority::new();
    let (node, address) = start(&authority, |_| {}).await;
    for version in [&version::TLS12, &version::TLS13] {
        let mut trusting = authority.trusting();
        trusting.versions = std::slice::from_ref(&version);
        let socket = trusting.connect(address).await.unwrap();
        let mut client = say_hello(socket, "tls").await;
        client.subscribe("a", QoS::AtLeastOnce).await;
        for size in [0, 1, 20_000, 1_000_000, 5] {
            let payload = "x".repeat(size);
            client.publish("a", QoS::AtLeastOnce, payload.clone()).await;
            assert_eq!(client.next().await.payload, payload);
        }
        let info = node.node.clients();
        assert_eq!(info[0].transport, Transport::Tls);
        assert_eq!(info[0].certificate, None);
    }
}

#[tokio::test]
async fn a_certificate_of_a_client_tells_its_names() {
    let authority = Authority::new();
    let own = authority.client("pump");
    let ask = |config: &mut Config| ask_for(config, &authority, ClientCertificate::Required);
    let (node, address) = start(&authority, ask).await;
    let mut trusting = authority.trusting();
    trusting.own = Some(&own);
    let _client = say_hello(trusting.connect(address).await.unwrap(), "pump").await;
    let names = node.node.clients()[0].certificate.clone().unwrap();
    assert_eq!(names.common_name.as_deref(), Some("pump"));
    assert_eq!(names.dns_names, ["pump.example"]);
    assert_eq!(names.uris, ["urn:device:pump"]);
    assert_eq!(names.emails, ["pump@example.com"]);
    // Who has none is not let in, nor who has one that somebody else has signed.
    let stranger = Authority::new().client("pump");
    for own in [None, Some(&stranger)] {
        let mut trusting = authority.trusting();
        trusting.own = own;
        assert!(is_refused(trusting.connect(address).await).await);
    }
}

/// In TLS 1.3 a client hears of it with the first bytes that it reads.
/// Who resumes a session of TLS shows no certificate again, and what was good once would be good for ever.
#[tokio::test]
async fn sessions_are_resumed_by_clients_without_a_certificate_only() {
    let authority = Authority::new();
    let own = authority.client("pump");
    for own in [None, Some(&own)] {
        for version in [&version::TLS12, &version::TLS13] {
            let (_node, address) = start(&authority, |config| {
                if own.is_some() {
                    ask_for(config, &authority, ClientCertificate::Required);
                }
            })
            .await;
            let mut trusting = authority.trusting();
            trusting.own = own;
            trusting.versions = std::slice::from_ref(&version);
            let connector = trusting.connector();
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let socket = TcpStream::connect(address).await.unwrap();
                let name = ServerName::try_from(HOST).unwrap();
                let socket = connector.connect(name, socket).await.unwrap();
                kinds.push(socket.get_ref().1.handshake_kind().unwrap());
                // By then a ticket would have come.
                let client = say_hello(socket, "pump").await;
                client.disconnect(ReasonCode::Success, None).await;
            }
            let second = match own {
                None => HandshakeKind::Resumed,
                Some(_) => HandshakeKind::Full,
            };
            assert_eq!(kinds, [HandshakeKind::Full, second], "{version:?}");
        }
    }
}

async fn is_refused(connected: std::io::Result<impl Socket>) -> bool {
    match connected {
        Ok(mut socket) => socket.read_u8().await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test]
async fn an_optional_certificate_must_be_good_if_it_is_shown() {
    let authority = Authority::new();
    let ask = |config: &mut Config| ask_for(config, &authority, ClientCertificate::Optional);
    let (node, address) = start(&authority, ask).await;
    let socket = authority.trusting().connect(address).await.unwrap();
    let _client = say_hello(socket, "nobody").await;
    assert_eq!(node.node.clients()[0].certificate, None);
    let stranger = Authority::new().client("pump");
    let mut trusting = authority.trusting();
    trusting.own = Some(&stranger);
    assert!(is_refused(trusting.connect(address).await).await);
}

#[tokio::test]
async fn a_client_may_ask_for_mqtt_and_for_nothing_else() {
    let authority = Authority::new();
    let (_node, address) = start(&authority, |_| {}).await;
    let connect = async |protocols: &[&str]| {
        let mut trusting = authority.trusting();
        trusting.protocols = protocols;
        let connected = trusting.connect(address).await;
        connected.map(|socket| socket.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(connect(&[]).await.unwrap(), None);
    let mqtt = Some(b"mqtt".to_vec());
    assert_eq!(connect(&["h2", "mqtt"]).await.unwrap(), mqtt);
    assert!(connect(&["h2", "http/1.1"]).await.is_err());
}

/// Live clients keep their connection, new ones get the new certificate; files that cannot be used change nothing.
#[tokio::test]
async fn certificates_are_replaced_under_live_clients() {
    let authority = Authority::new();
    let (node, address) = start(&authority, |_| {}).await;
    let shown = async || {
        let socket = authority.trusting().connect(address).await.unwrap();
        let chain = socket.get_ref().1.peer_certificates().unwrap();
        chain[0].clone()
    };
    let socket = authority.trusting().connect(address).await.unwrap();
    let mut old = say_hello(socket, "old").await;
    old.subscribe("a", QoS::AtLeastOnce).await;
    let first = shown().await;

    let next: Certified = authority.server();
    authority.install(&next);
    assert_eq!(shown().await, first, "nobody has asked");
    node.node.reload_tls();
    let second = shown().await;
    assert_ne!(second, first);
    old.publish("a", QoS::AtLeastOnce, "still here").await;
    assert_eq!(old.next().await.payload, "still here");

    let (_, key) = authority.paths();
    std::fs::write(key, "no key").unwrap();
    node.node.reload_tls();
    assert_eq!(shown().await, second);
    old.publish("a", QoS::AtLeastOnce, "and now").await;
    assert_eq!(old.next().await.payload, "and now");
}

#[tokio::test]
async fn what_is_no_tls_is_refused_and_hurts_nobody() {
    let authority = Authority::new();
    let (node, address) = start(&authority, |_| {}).await;
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // An alert, perhaps; no CONNACK.
    let _ = plain.read_to_end(&mut answer).await;
    assert_ne!(answer.first(), Some(&0x20));
    let socket = authority.trusting().connect(address).await.unwrap();
    say_hello(socket, "canary").await;
    crate::until("half-open connections that are gone", || {
        node.node.totals().half_open == 0
    })
    .await;
}

#[test]
fn problems_with_the_files_are_told_by_key() {
    let authority = Authority::new();
    let check = |change: &dyn Fn(&mut Config), expected: &[(&str, &str)]| {
        authority.install(&authority.server());
        let mut config = Config::default();
        let (certificate, key) = authority.paths();
        config.listener.wss_listen = Some(([127, 0, 0, 1], 0).into());
        config.listener.tls_cert = Some(certificate);
        config.listener.tls_key = Some(key);
        change(&mut config);
        let problems = config.problems();
        let told = problems.iter().zip(expected);
        for (problem, (key, what)) in told {
            assert_eq!(problem.key, *key);
            assert!(problem.what.contains(what), "{problem}");
        }
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
    };
    check(&|_| {}, &[]);
    let both = |config: &mut Config| {
        config.listener.tls_cert = None;
        config.listener.tls_key = None;
    };
    check(
        &both,
        &[("tls_cert", "must be set"), ("tls_key", "must be set")],
    );
    let (certificate, key) = authority.paths();
    let write = |path: &std::path::Path, text: &str| std::fs::write(path, text).unwrap();
    check(
        &|_| write(&certificate, "nothing"),
        &[("tls_cert", "no certificate")],
    );
    check(
        &|_| write(&key, "nothing"),
        &[("tls_key", "no private key")],
    );
    check(
        &|_| std::fs::remove_file(&key).unwrap(),
        &[("tls_key", "cannot be read")],
    );
    let of_another = |_: &mut Config| {
        let kept = std::fs::read(&key).unwrap();
        authority.install(&authority.server());
        std::fs::write(&key, kept).unwrap();
    };
    check(
        &of_another,
        &[("tls_key", "is not the key of the certificate")],
    );
    let no_authority = |config: &mut Config| config.listener.tls_client_ca = Some(key.clone());
    check(&no_authority, &[("tls_client_ca", "no certificate")]);
}

#[test]
fn a_certificate_that_has_ended_is_warned_of() {
    let authority = Authority::new();
    let mut config = Config::default();
    let (certificate, key) = authority.paths();
    config.listener.mqtts_listen = Some(([127, 0, 0, 1], 0).into());
    config.listener.tls_cert = Some(certificate);
    config.listener.tls_key = Some(key);
    authority.install(&authority.server());
    assert_eq!(config.warnings(), []);
    authority.install(&authority.expired());
    assert_eq!(config.problems(), []);
    let warnings = config.warnings();
    assert_eq!(warnings[0].key, "tls_cert");
    assert!(warnings[0].what.contains("has expired"));
}
