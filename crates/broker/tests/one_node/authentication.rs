//! How clients prove who they are, where it takes time or several steps.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use magpie_access::{SALT_BYTES, SCRAM_ITERATIONS, ScramVerifier, User};
use magpie_auth::Kind;
use magpie_codec::{
    Auth, AuthProperties, ConnAck, Connect, ConnectProperties, Packet, ProtocolVersion, ReasonCode,
    Text,
};
use sha2::{Digest, Sha256};

use crate::access::user;
use crate::client::{Greeting, TestClient};
use crate::node::TestNode;

const METHOD: &str = "SCRAM-SHA-256";

async fn with_scram() -> TestNode {
    with_ann(TestNode::start().await).await
}

/// A node with a user who has keys for it.
async fn with_ann(node: TestNode) -> TestNode {
    let scram = ScramVerifier::of(b"pencil", [5; SALT_BYTES], SCRAM_ITERATIONS).unwrap();
    let ann = User {
        scram: Some(scram),
        ..user("pencil")
    };
    node.set_user("ann", ann).await;
    node
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// What a client with this password answers.
fn proof(password: &str, first: &str, server_first: &[u8]) -> Bytes {
    let server_first = std::str::from_utf8(server_first).unwrap();
    let attribute = |name: &str| {
        let mut attributes = server_first.split(',');
        attributes.find_map(|it| it.strip_prefix(name)).unwrap()
    };
    let salt = BASE64.decode(attribute("s=")).unwrap();
    let iterations = attribute("i=").parse().unwrap();
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
    let client_key = hmac(&salted, b"Client Key");
    let stored_key = Sha256::digest(client_key);
    let without_proof = format!("c=biws,r={}", attribute("r="));
    let bare = first.strip_prefix("n,,").unwrap();
    let transcript = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(&stored_key, transcript.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(a, b)| a ^ b)
        .collect();
    Bytes::from(format!("{without_proof},p={}", BASE64.encode(proof)))
}

fn auth(reason: ReasonCode, data: Bytes) -> Packet {
    Packet::Auth(Auth {
        reason,
        properties: Some(Box::new(AuthProperties {
            authentication_method: Text::from_static(METHOD),
            authentication_data: Some(data),
            reason_string: None,
            user_properties: Vec::new(),
        })),
    })
}

fn challenge(packet: Packet) -> Bytes {
    match packet {
        Packet::Auth(auth) if auth.reason == ReasonCode::ContinueAuthentication => {
            auth.properties.unwrap().authentication_data.unwrap()
        }
        other => panic!("not a challenge: {other:?}"),
    }
}

async fn begin(node: &TestNode, method: &'static str, first: &str) -> (TestClient, Packet) {
    let mut client = TestClient::open(node.address).await;
    let properties = ConnectProperties {
        authentication_method: Some(Text::from_static(method)),
        authentication_data: Some(Bytes::from(first.to_owned())),
        ..ConnectProperties::default()
    };
    let connect = Connect {
        version: ProtocolVersion::V5,
        client_id: Text::from_static("phone"),
        clean_start: true,
        keep_alive_s: 30,
        username: None,
        password: None,
        will: None,
        properties: Some(Box::new(properties)),
    };
    client.send(&Packet::Connect(Box::new(connect))).await;
    let answer = client.receive().await;
    (client, answer)
}

async fn log_in(node: &TestNode, name: &str, password: &str) -> (TestClient, ConnAck) {
    let first = format!("n,,n={name},r=abc");
    let (mut client, answer) = begin(node, METHOD, &first).await;
    let last = proof(password, &first, &challenge(answer));
    client
        .send(&auth(ReasonCode::ContinueAuthentication, last))
        .await;
    match client.receive().await {
        Packet::ConnAck(connack) => (client, connack),
        other => panic!("not a CONNACK: {other:?}"),
    }
}

#[tokio::test]
async fn a_method_of_the_users_is_none_where_users_are_not_asked() {
    let node = TestNode::start_with(|config| config.auth.order = vec![Kind::Jwt]).await;
    let node = with_ann(node).await;
    let (_, answer) = begin(&node, METHOD, "n,,n=ann,r=abc").await;
    let reason = ReasonCode::BadAuthenticationMethod;
    assert!(matches!(answer, Packet::ConnAck(connack) if connack.reason == reason));
}

/// The proof of a password that was changed meanwhile opens nothing.
#[tokio::test]
async fn an_exchange_does_not_outlive_its_password() {
    let node = with_scram().await;
    let first = "n,,n=ann,r=abc";
    let (mut client, answer) = begin(&node, METHOD, first).await;
    let last = proof("pencil", first, &challenge(answer));
    let scram = ScramVerifier::of(b"brush", [6; SALT_BYTES], SCRAM_ITERATIONS).unwrap();
    let ann = User {
        scram: Some(scram),
        ..user("brush")
    };
    node.set_user("ann", ann).await;
    client
        .send(&auth(ReasonCode::ContinueAuthentication, last))
        .await;
    let Packet::ConnAck(connack) = client.receive().await else {
        panic!("not a CONNACK");
    };
    assert_eq!(connack.reason, ReasonCode::NotAuthorized);
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-2], [MQTT-4.12.0-4], [MQTT-4.12.0-5], [MQTT-4.12.1-2]
#[tokio::test]
async fn scram_lets_in_who_knows_the_password() {
    let node = with_scram().await;
    let (mut client, connack) = log_in(&node, "ann", "pencil").await;
    assert_eq!(connack.reason, ReasonCode::Success);
    let properties = connack.properties.unwrap();
    assert_eq!(properties.authentication_method.as_deref(), Some(METHOD));
    assert!(properties.authentication_data.unwrap().starts_with(b"v="));
    let info = &node.node.clients()[0];
    assert_eq!(
        (info.username.as_deref(), info.authenticated_by),
        (Some("ann"), "scram")
    );
    // Again, right and then wrong.
    let first = "n,,n=ann,r=def";
    for (password, is_right) in [("pencil", true), ("pen", false)] {
        let again = auth(
            ReasonCode::ReAuthenticate,
            Bytes::from_static(first.as_bytes()),
        );
        client.send(&again).await;
        let last = proof(password, first, &challenge(client.receive().await));
        client
            .send(&auth(ReasonCode::ContinueAuthentication, last))
            .await;
        if is_right {
            let Packet::Auth(done) = client.receive().await else {
                panic!("not an AUTH");
            };
            assert_eq!(done.reason, ReasonCode::Success);
        }
    }
    assert_eq!(client.closed_with().await, ReasonCode::NotAuthorized);
    for (name, password) in [("ann", "pen"), ("eve", "pencil")] {
        let (_, connack) = log_in(&node, name, password).await;
        assert_eq!(connack.reason, ReasonCode::NotAuthorized);
    }
    let (_, answer) = begin(&node, "SCRAM-SHA-1", first).await;
    let reason = ReasonCode::BadAuthenticationMethod;
    assert!(matches!(answer, Packet::ConnAck(connack) if connack.reason == reason));
}

#[tokio::test]
async fn who_shows_again_is_who_it_was() {
    let node = with_scram().await;
    let scram = ScramVerifier::of(b"pen", [6; SALT_BYTES], SCRAM_ITERATIONS).unwrap();
    let bob = User {
        scram: Some(scram),
        ..user("pen")
    };
    node.set_user("bob", bob).await;
    let (mut ann, _) = log_in(&node, "ann", "pencil").await;
    let first = "n,,n=bob,r=def";
    let again = auth(
        ReasonCode::ReAuthenticate,
        Bytes::from_static(first.as_bytes()),
    );
    ann.send(&again).await;
    let last = proof("pen", first, &challenge(ann.receive().await));
    ann.send(&auth(ReasonCode::ContinueAuthentication, last))
        .await;
    assert_eq!(ann.closed_with().await, ReasonCode::NotAuthorized);
}

/// A token, signed with the secret of these tests.
fn token(claims: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!(
        "{}.{}",
        part(r#"{"alg":"HS256","typ":"JWT"}"#),
        part(claims)
    );
    let signature = URL_SAFE_NO_PAD.encode(hmac(SECRET.as_bytes(), signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Seconds since 1970.
fn now_s() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap().as_secs()
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_token_brings_rules_and_ends_the_connection_when_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, SECRET).unwrap();
    let node = TestNode::start_with(|config| {
        config.auth.jwt_secret_file = Some(path);
        config.auth.jwt_leeway = Duration::ZERO;
    })
    .await;
    let greeting = |expires: u64| {
        let claims = format!(r#"{{"sub":"ann","exp":{expires},"acl":[{{"topic":"a/%u"}}]}}"#);
        Greeting::user("whoever", &token(&claims))
    };
    let later = greeting(now_s() + 60);
    let (mut client, _) = TestClient::greet(node.address, "phone", later).await;
    assert_eq!(node.node.clients()[0].username.as_deref(), Some("ann"));
    let options = Default::default();
    let suback = client.say_subscribe(&["a/ann", "b"], options).await;
    assert_eq!(
        suback.reasons,
        [ReasonCode::Success, ReasonCode::NotAuthorized]
    );
    let (mut guest, expires) = loop {
        let expires = now_s() + 3;
        let (guest, connack) =
            TestClient::try_greet(node.address, "guest", greeting(expires)).await;
        if connack.reason == ReasonCode::Success {
            break (guest, expires);
        }
        // On a slow machine, it has expired before the node looks at it.
        assert!(now_s() >= expires, "{connack:?}");
    };
    assert_eq!(guest.closed_with().await, ReasonCode::NotAuthorized);
    let now = now_s();
    assert!(now >= expires && now <= expires + 30);
    let (_, connack) = TestClient::try_greet(node.address, "guest", greeting(expires)).await;
    assert!(connack.reason.is_error(), "{connack:?}");
}

/// A service that never answers holds up those whom it is asked about, and nobody else.
#[tokio::test]
async fn a_slow_service_holds_up_nobody_else() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let node = TestNode::start_with(|config| {
        config.auth.http_url = Some(url);
        config.auth.http_timeout = Duration::from_secs(5);
        config.auth.http_concurrency = 8;
    })
    .await;
    node.set_user("ann", user("ann")).await;
    let (mut before, _) =
        TestClient::greet(node.address, "before", Greeting::user("ann", "ann")).await;
    let address = node.address;
    let strangers: Vec<_> = (0..50)
        .map(|number| {
            tokio::spawn(async move {
                let id = format!("stranger-{number}");
                let greeting = Greeting::user("eve", "x");
                TestClient::try_greet(address, &id, greeting).await.1.reason
            })
        })
        .collect();
    // All of them have been asked about.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for number in 0..20 {
        let began = Instant::now();
        let id = format!("friend-{number}");
        TestClient::greet(address, &id, Greeting::user("ann", "ann")).await;
        before.send(&Packet::PingReq).await;
        assert_eq!(before.receive().await, Packet::PingResp);
        // Who is held up waits until the strangers are given up: at first for 3.5 s.
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
    }
    for stranger in strangers {
        let reason = stranger.await.unwrap();
        assert_eq!(reason, ReasonCode::ServerUnavailable, "it fails closed");
    }
}
