//! What users, rules and bans of one node do to clients of the others: who gets in, who may what, and how soon a right is gone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_client::{Client, Error, Options};
use magpie_codec::{ProtocolVersion, QoS, ReasonCode, Text};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::nodes::{Cluster, Node, PATIENCE};

/// The aim, on a machine that has nothing else to do; here other tests run beside.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take on this one.
const REVOKED_AT_LAST: Duration = Duration::from_secs(10);

fn ctl(node: &Node, arguments: &[&str], input: &str) -> Value {
    let (succeeded, text) = node.ctl(arguments, input);
    assert!(succeeded, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap()
}

fn as_user(node: &Node, version: ProtocolVersion, user: &str, client: &str) -> Options {
    with_password(node, version, user, client, &format!("secret of {user}"))
}

fn with_password(
    node: &Node,
    version: ProtocolVersion,
    user: &str,
    client: &str,
    password: &str,
) -> Options {
    let mut options = node.options(version);
    options.client_id = Text::try_from(client).unwrap();
    options.username = Some(Text::try_from(user).unwrap());
    options.password = Some(Bytes::copy_from_slice(password.as_bytes()));
    // Debug builds hash slowly on a machine that is busy.
    options.connect_timeout = PATIENCE;
    options
}

async fn refused(options: Options) -> ReasonCode {
    match Client::connect(options).await {
        Err(Error::Refused { reason, .. }) => reason,
        Err(other) => panic!("not refused, but {other}"),
        Ok(_) => panic!("let in"),
    }
}

/// The same, of a node that may not have heard of it yet.
async fn refused_soon(options: Options) -> ReasonCode {
    let started = Instant::now();
    while let Ok(client) = Client::connect(options.clone()).await {
        assert!(started.elapsed() < REVOKED_AT_LAST, "let in");
        drop(client);
    }
    refused(options).await
}

/// The reason with which the server ends the connection, and how long it took.
async fn ended(client: &mut Client, since: Instant) -> (ReasonCode, Duration) {
    loop {
        match timeout(PATIENCE, client.next()).await {
            Ok(Ok(_)) => {}
            Ok(Err(Error::Disconnected { reason, .. })) => return (reason, since.elapsed()),
            other => panic!("ended with {other:?}"),
        }
    }
}

/// Three nodes that know `anna`, who may do everything below `a/`, and `root`, who may do everything. Both are set on the first node, the rule
/// on the second.
async fn with_users() -> (Cluster, String) {
    let cluster = Cluster::start().await;
    let nodes = &cluster.nodes;
    ctl(&nodes[0], &["user", "add", "anna"], "secret of anna\n");
    ctl(
        &nodes[0],
        &["user", "add", "root", "--superuser"],
        "secret of root\n",
    );
    let rule = ctl(
        &nodes[1],
        &["acl", "add", "allow", "all", "a/#", "--user", "anna"],
        "",
    );
    for node in nodes {
        let started = Instant::now();
        while ctl(node, &["acl", "list"], "")["rules"] == serde_json::json!([]) {
            assert!(started.elapsed() < PATIENCE);
            sleep(Duration::from_millis(20)).await;
        }
    }
    (cluster, rule["id"].to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_rules_of_one_node_hold_on_the_others() {
    let (cluster, _) = with_users().await;
    for (node, version) in [
        (&cluster.nodes[1], ProtocolVersion::V5),
        (&cluster.nodes[2], ProtocolVersion::V3_1_1),
    ] {
        // Anonymous clients were let in as long as nobody was known.
        let nobody = refused(node.options(version)).await;
        assert_eq!(nobody, ReasonCode::NotAuthorized);
        for user in ["anna", "nobody"] {
            let wrong = with_password(node, version, user, "c", "guessed");
            let reason = refused(wrong).await;
            assert!(
                matches!(
                    reason,
                    ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized
                ),
                "{user}: {reason:?}"
            );
        }

        let mut anna = Client::connect(as_user(node, version, "anna", "c"))
            .await
            .unwrap();
        anna.subscribe("a/+/x", QoS::AtLeastOnce).await.unwrap();
        for filter in ["b", "#", "+/x", "$SYS/#"] {
            let refused = anna.subscribe(filter, QoS::AtLeastOnce).await;
            assert!(
                matches!(refused, Err(Error::Rejected { .. })),
                "{filter}: {refused:?}"
            );
        }
        // What may not be published reaches nobody.
        let mut root = Client::connect(as_user(&cluster.nodes[0], version, "root", "r"))
            .await
            .unwrap();
        root.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        let forbidden = anna
            .publish("b/1/x", "forbidden", QoS::AtLeastOnce, false, None)
            .await;
        if version == ProtocolVersion::V5 {
            assert!(
                matches!(
                    forbidden,
                    Err(Error::Rejected {
                        reason: ReasonCode::NotAuthorized,
                        ..
                    })
                ),
                "{forbidden:?}"
            );
        }
        anna.publish("a/1/x", "allowed", QoS::AtLeastOnce, false, None)
            .await
            .unwrap();
        for client in [&mut anna, &mut root] {
            let got = timeout(PATIENCE, client.next()).await.unwrap().unwrap();
            assert_eq!(&got.payload[..], b"allowed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_on_one_node_ends_subscriptions_on_the_others() {
    let (cluster, rule) = with_users().await;
    let [one, two, three] = &cluster.nodes[..] else {
        panic!("three nodes");
    };
    // A session that waits, with a message in it.
    let mut options = as_user(two, ProtocolVersion::V5, "anna", "waiting");
    options.properties.session_expiry_interval_s = 3600;
    let waiting = Client::connect(options.clone()).await.unwrap();
    waiting.subscribe("a/kept", QoS::AtLeastOnce).await.unwrap();
    waiting.disconnect().await.unwrap();
    let root = Client::connect(as_user(one, ProtocolVersion::V5, "root", "r"))
        .await
        .unwrap();
    root.publish("a/kept", "not for her", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();

    let mut live = Client::connect(as_user(three, ProtocolVersion::V5, "anna", "live"))
        .await
        .unwrap();
    live.subscribe("a/live", QoS::AtLeastOnce).await.unwrap();
    let asked = Instant::now();
    ctl(one, &["acl", "remove", &rule], "");
    let answered = Instant::now();
    // Without a rule everything would be allowed again, so this removal alone takes nothing away.
    root.publish("a/live", "still", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();
    let got = timeout(PATIENCE, live.next()).await.unwrap().unwrap();
    assert_eq!(&got.payload[..], b"still");
    println!("removed in {:?}", answered - asked);

    ctl(one, &["acl", "add", "deny", "subscribe", "a/#"], "");
    let (reason, within) = ended(&mut live, Instant::now()).await;
    println!("a live subscription ended {within:?} after the answer");
    assert_eq!(reason, ReasonCode::NotAuthorized);
    assert!(within < REVOKED_AT_LAST, "{within:?}");

    // The session goes on, on whichever node, without what may not be read any more.
    options.host = three.options(ProtocolVersion::V5).host;
    options.port = three.options(ProtocolVersion::V5).port;
    options.clean_start = false;
    let mut resumed = Client::connect(options).await.unwrap();
    assert!(resumed.connack().session_present);
    root.publish("a/kept", "nor this", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();
    let got = timeout(Duration::from_secs(2), resumed.next()).await;
    assert!(got.is_err(), "got {got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_new_passwords_and_removed_users_end_connections_on_every_node() {
    let (cluster, _) = with_users().await;
    let [one, two, three] = &cluster.nodes[..] else {
        panic!("three nodes");
    };
    let connect = async |node: &Node, client: &str| {
        Client::connect(as_user(node, ProtocolVersion::V5, "anna", client))
            .await
            .unwrap()
    };
    let mut delays = Vec::new();

    let mut banned = connect(three, "noisy").await;
    let mut stays = connect(two, "quiet").await;
    ctl(one, &["ban", "add", "client:noisy", "--for", "1h"], "");
    let (reason, within) = ended(&mut banned, Instant::now()).await;
    assert_eq!(reason, ReasonCode::AdministrativeAction);
    delays.push(within);
    let again = refused_soon(as_user(two, ProtocolVersion::V5, "anna", "noisy")).await;
    assert_eq!(again, ReasonCode::Banned);
    stays
        .publish("a/x", "x", QoS::AtLeastOnce, false, None)
        .await
        .unwrap();
    ctl(two, &["ban", "remove", "client:noisy"], "");

    ctl(three, &["user", "passwd", "anna"], "another secret\n");
    let (reason, within) = ended(&mut stays, Instant::now()).await;
    assert_eq!(reason, ReasonCode::NotAuthorized);
    delays.push(within);
    refused(as_user(two, ProtocolVersion::V5, "anna", "quiet")).await;
    let new =
        |node: &Node| with_password(node, ProtocolVersion::V5, "anna", "quiet", "another secret");
    let mut back = Client::connect(new(two)).await.unwrap();

    ctl(one, &["user", "remove", "anna"], "");
    let (reason, within) = ended(&mut back, Instant::now()).await;
    assert_eq!(reason, ReasonCode::NotAuthorized);
    delays.push(within);
    refused_soon(new(three)).await;
    println!("ended after the answers: {delays:?}");
    assert!(
        delays.iter().all(|delay| *delay < REVOKED_AT_LAST),
        "{delays:?}"
    );
    // A busy machine may be late; not all three times.
    assert!(
        delays.iter().any(|delay| *delay < REVOKED_WITHIN),
        "{delays:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_holds_when_all_nodes_have_been_killed() {
    let (mut cluster, _) = with_users().await;
    ctl(&cluster.nodes[0], &["ban", "add", "client:noisy"], "");
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_ready().await;
    for node in &cluster.nodes {
        // The first that get in are those who may.
        let nobody = refused(node.options(ProtocolVersion::V5)).await;
        assert_eq!(nobody, ReasonCode::NotAuthorized);
        let banned = refused(as_user(node, ProtocolVersion::V5, "anna", "noisy")).await;
        assert_eq!(banned, ReasonCode::Banned);
        let anna = Client::connect(as_user(node, ProtocolVersion::V5, "anna", "c"))
            .await
            .unwrap();
        assert!(anna.subscribe("b", QoS::AtLeastOnce).await.is_err());
        anna.subscribe("a/b", QoS::AtLeastOnce).await.unwrap();
    }
}
