//! What a client may do: asked at each step, and taken back while it is connected or away.

use std::time::{Duration, Instant};

use magpie_access::{
    Action, Ban, BanTarget, Change, Changed, Effect, PasswordHash, Pattern, Rule, RuleId,
    SALT_BYTES, User, UserIs, Who,
};
use magpie_codec::{
    Ack, Packet, ProtocolVersion, QoS, ReasonCode, SubscriptionOptions, Text, TopicName, Will,
};

use crate::client::{Greeting, TestClient, message, text};
use crate::node::TestNode;

const DENIED: ReasonCode = ReasonCode::NotAuthorized;

pub(crate) fn user(password: &str) -> User {
    User {
        password: PasswordHash::of(password.as_bytes(), [3; SALT_BYTES]).unwrap(),
        scram: None,
        is_superuser: false,
    }
}

impl TestNode {
    pub(crate) async fn change(&self, change: Change) -> Changed {
        self.cluster.change_access(change).await.unwrap()
    }

    pub(crate) async fn set_user(&self, name: &str, user: User) {
        self.change(Change::SetUser {
            name: name.to_owned(),
            user,
            expect: UserIs::NewOrKnown,
        })
        .await;
    }

    /// A rule for everybody; gives its number.
    async fn add_rule(&self, effect: Effect, action: Action, pattern: &str) -> RuleId {
        let rule = Rule {
            effect,
            action,
            who: Who::Everybody,
            pattern: Pattern::try_from(pattern).unwrap(),
        };
        match self.change(Change::AddRule { rule }).await {
            Changed::Rule(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn allow(&self, pattern: &str) -> RuleId {
        self.add_rule(Effect::Allow, Action::All, pattern).await
    }

    async fn remove_rule(&self, id: RuleId) {
        self.change(Change::RemoveRule { id }).await;
    }
}

/// With two users, each with the own name as password.
async fn with_users() -> TestNode {
    let node = TestNode::start().await;
    for name in ["ann", "bob"] {
        node.set_user(name, user(name)).await;
    }
    node
}

async fn refusal(node: &TestNode, id: &str, greeting: Greeting) -> ReasonCode {
    let (_, connack) = TestClient::try_greet(node.address, id, greeting).await;
    connack.reason
}

async fn connect(node: &TestNode, id: &str, name: &'static str) -> TestClient {
    let greeting = Greeting::user(name, name);
    TestClient::greet(node.address, id, greeting).await.0
}

fn durable(name: &'static str) -> Greeting {
    Greeting {
        user: Some((name, name.to_owned())),
        ..Greeting::durable()
    }
}

#[tokio::test]
async fn users_come_in_and_others_do_not() {
    let node = with_users().await;
    let none = Greeting::default();
    assert_eq!(refusal(&node, "x", none).await, DENIED);
    let wrong = ReasonCode::BadUserNameOrPassword;
    assert_eq!(
        refusal(&node, "x", Greeting::user("ann", "bob")).await,
        wrong
    );
    assert_eq!(
        refusal(&node, "x", Greeting::user("eve", "ann")).await,
        wrong
    );
    let older = |user| Greeting {
        version: ProtocolVersion::V3_1_1,
        ..user
    };
    assert_eq!(
        refusal(&node, "x", older(Greeting::user("ann", "x"))).await,
        wrong
    );
    assert_eq!(
        refusal(&node, "x", older(Greeting::default())).await,
        DENIED
    );
    let _ann = connect(&node, "phone", "ann").await;
    let clients = node.node.clients();
    assert_eq!(clients[0].username.as_deref(), Some("ann"));
    assert_eq!(clients[0].authenticated_by, "users");
}

/// [MQTT-3.3.5-2 v3.1.1], [MQTT-3.8.4-2]
#[tokio::test]
async fn rules_are_asked_at_publish_and_subscribe() {
    let node = with_users().await;
    node.allow("a/%u/#").await;
    let mut ann = connect(&node, "phone", "ann").await;
    let filters = [
        "a/ann/x",
        "a/bob/x",
        "$share/g/a/ann/#",
        "$share/g/a/#",
        "a/+/x",
    ];
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    let suback = ann.say_subscribe(&filters, options).await;
    let granted = ReasonCode::GrantedQoS1;
    assert_eq!(suback.reasons, [granted, DENIED, granted, DENIED, DENIED]);
    let suback = ann.say_subscribe(&["b", "c"], options).await;
    assert_eq!(
        suback.reasons,
        [DENIED, DENIED],
        "none is left to be asked for"
    );
    let mut bob = connect(&node, "tablet", "bob").await;
    bob.say_subscribe(&["a/bob/#"], options).await;
    let id = ann
        .send_publish("a/bob/x", QoS::AtLeastOnce, "no")
        .await
        .unwrap();
    let refused = Packet::PubAck(Ack::new(id, DENIED));
    assert_eq!(ann.receive_answer().await, refused);
    let id = ann
        .send_publish("a/bob/x", QoS::ExactlyOnce, "no")
        .await
        .unwrap();
    let refused = Packet::PubRec(Ack::new(id, DENIED));
    assert_eq!(ann.receive_answer().await, refused);
    ann.send_publish("a/bob/x", QoS::AtMostOnce, "no").await;
    // An older client cannot be told: acknowledged, and dropped.
    let older = Greeting {
        version: ProtocolVersion::V3_1_1,
        ..Greeting::user("ann", "ann")
    };
    let (mut older, _) = TestClient::greet(node.address, "old", older).await;
    for qos in crate::ALL_QOS {
        older.publish("a/bob/x", qos, "no").await;
    }
    // It goes on with what it may.
    older.publish("a/ann/x", QoS::ExactlyOnce, "yes").await;
    assert_eq!(text(&ann.next().await), "yes");
    bob.publish("a/bob/x", QoS::AtLeastOnce, "mine").await;
    assert_eq!(text(&bob.next().await), "mine", "and nothing else");
}

#[tokio::test]
async fn no_name_acts_as_a_wildcard() {
    let node = TestNode::start().await;
    for name in ["+", "#", "a/b"] {
        node.set_user(name, user("x")).await;
    }
    node.allow("a/%u/x").await;
    for name in ["+", "#", "a/b"] {
        let greeting = Greeting::user(name, "x");
        let (mut client, _) = TestClient::greet(node.address, "phone", greeting).await;
        for filter in ["a/b/x", "a/+/x", "a/a/b/x"] {
            let options = SubscriptionOptions::default();
            let suback = client.say_subscribe(&[filter], options).await;
            assert_eq!(suback.reasons, [DENIED], "{name}: {filter}");
        }
        client.disconnect(ReasonCode::Success, None).await;
        node.gone("phone").await;
    }
}

#[tokio::test]
async fn a_will_is_asked_about_when_it_is_left() {
    let node = with_users().await;
    node.allow("a/%u/#").await;
    let with_will = |topic| Greeting {
        will: Some(Box::new(Will {
            topic: TopicName::from_static(topic),
            payload: "gone".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s: 0,
            properties: None,
        })),
        ..Greeting::user("ann", "ann")
    };
    assert_eq!(refusal(&node, "x", with_will("a/bob/x")).await, DENIED);
    let mut bob = connect(&node, "tablet", "bob").await;
    bob.subscribe("a/bob/x", QoS::AtLeastOnce).await;
    // One whose right is gone by then is not sent.
    let rule = node
        .add_rule(Effect::Allow, Action::Publish, "a/bob/#")
        .await;
    let (ann, _) = TestClient::greet(node.address, "x", with_will("a/bob/x")).await;
    node.remove_rule(rule).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(ann);
    node.gone("x").await;
    bob.hears_nothing().await;
}

fn ban(until_ms: Option<u64>) -> Ban {
    Ban {
        reason: "abuse".to_owned(),
        until_ms,
    }
}

#[tokio::test]
async fn the_banned_go_and_do_not_come_back() {
    let node = with_users().await;
    let targets = [
        BanTarget::Client("phone".to_owned()),
        BanTarget::User("ann".to_owned()),
        "network:127.0.0.0/8".parse().unwrap(),
    ];
    for target in targets {
        let mut ann = connect(&node, "phone", "ann").await;
        let add = Change::AddBan {
            target: target.clone(),
            ban: ban(None),
            now_ms: 1,
        };
        node.change(add).await;
        let reason = ann.closed_with().await;
        assert_eq!(reason, ReasonCode::AdministrativeAction, "{target}");
        if matches!(target, BanTarget::Network(_)) {
            // Closed before anything is read.
            let mut banned = TestClient::open(node.address).await;
            assert!(banned.try_receive().await.is_none());
        } else {
            let banned = refusal(&node, "phone", Greeting::user("ann", "ann")).await;
            assert_eq!(banned, ReasonCode::Banned, "{target}");
        }
        node.change(Change::RemoveBan { target, now_ms: 1 }).await;
    }
    // One that is over.
    let target = BanTarget::User("ann".to_owned());
    let over = Change::AddBan {
        target,
        ban: ban(Some(2)),
        now_ms: 1,
    };
    node.change(over).await;
    connect(&node, "phone", "ann").await;
}

/// DESIGN: a right that is taken back ends what rests on it within a second.
#[tokio::test]
async fn who_loses_a_right_goes() {
    let node = with_users().await;
    node.allow("b/#").await;
    let mut other = connect(&node, "other", "bob").await;
    other.subscribe("b/x", QoS::AtLeastOnce).await;
    let mut took = Vec::new();
    // A busy machine may be late once.
    for _ in 0..3 {
        let rule = node.allow("a/#").await;
        let mut reader = connect(&node, "reader", "ann").await;
        reader.subscribe("a/x", QoS::AtLeastOnce).await;
        let began = Instant::now();
        node.remove_rule(rule).await;
        assert_eq!(reader.closed_with().await, DENIED);
        took.push(began.elapsed());
    }
    assert!(
        took.iter().any(|it| *it < Duration::from_secs(1)),
        "{took:?}"
    );
    other.publish("b/x", QoS::AtLeastOnce, "still").await;
    assert_eq!(text(&other.next().await), "still");
    let id = other
        .send_publish("a/x", QoS::AtLeastOnce, "no")
        .await
        .unwrap();
    let refused = Packet::PubAck(Ack::new(id, DENIED));
    assert_eq!(other.receive_answer().await, refused);
    // A user that is not what it was.
    let mut ann = connect(&node, "phone", "ann").await;
    node.set_user("ann", user("changed")).await;
    assert_eq!(ann.closed_with().await, DENIED);
    let name = "bob".to_owned();
    node.change(Change::RemoveUser { name }).await;
    assert_eq!(other.closed_with().await, DENIED);
}

/// What it may not read any more is not sent to it, and what it has in hand is brought to its end; the rest goes on.
#[tokio::test]
async fn a_stored_session_goes_on_without_what_it_lost() {
    let node = with_users().await;
    let rule = node.allow("a/#").await;
    node.allow("b/#").await;
    let (mut ann, _) = TestClient::greet(node.address, "phone", durable("ann")).await;
    for filter in ["a/x", "b/x", "$share/g/a/s"] {
        ann.subscribe(filter, QoS::ExactlyOnce).await;
    }
    let mut bob = connect(&node, "tablet", "bob").await;
    bob.publish("a/x", QoS::ExactlyOnce, "seen").await;
    bob.publish("a/x", QoS::AtLeastOnce, "seen too").await;
    let seen = ann.next_unacknowledged().await;
    let seen_too = ann.next_unacknowledged().await;
    assert_eq!(
        (seen.qos, seen_too.qos),
        (QoS::ExactlyOnce, QoS::AtLeastOnce)
    );
    drop(ann);
    node.gone("phone").await;
    for topic in ["a/x", "b/x", "a/s"] {
        bob.publish(topic, QoS::AtLeastOnce, topic).await;
    }
    node.remove_rule(rule).await;
    let (mut ann, connack) = TestClient::greet(node.address, "phone", durable("ann")).await;
    assert!(connack.session_present);
    // The client may have it: it is released under its id, and not sent.
    let Packet::PubRel(release) = ann.receive().await else {
        panic!("not a PUBREL");
    };
    assert_eq!(Some(release.packet_id), seen.packet_id);
    ann.send(&Packet::PubComp(release)).await;
    assert_eq!(text(&ann.next().await), "b/x");
    ann.hears_nothing().await;
    // For good: the right comes back, the subscription does not.
    node.allow("a/#").await;
    bob.publish("a/x", QoS::AtLeastOnce, "new").await;
    ann.hears_nothing().await;
    drop(ann);
    node.gone("phone").await;
    let (mut ann, _) = TestClient::greet(node.address, "phone", durable("ann")).await;
    ann.hears_nothing().await;
}

#[tokio::test]
async fn a_session_is_its_users() {
    let node = with_users().await;
    let (mut ann, _) = TestClient::greet(node.address, "phone", durable("ann")).await;
    ann.subscribe("a", QoS::AtLeastOnce).await;
    let clean = Greeting::user("bob", "bob");
    let older = Greeting {
        version: ProtocolVersion::V3_1_1,
        ..Greeting::user("bob", "bob")
    };
    for greeting in [durable("bob"), clean, older] {
        assert_eq!(refusal(&node, "phone", greeting).await, DENIED);
    }
    // She has noticed nothing.
    ann.publish("a", QoS::AtLeastOnce, "here").await;
    assert_eq!(text(&ann.next().await), "here");
    drop(ann);
    node.gone("phone").await;
    assert_eq!(refusal(&node, "phone", durable("bob")).await, DENIED);
    let (_ann, connack) = TestClient::greet(node.address, "phone", durable("ann")).await;
    assert!(connack.session_present);
    let client = magpie_state::ClientId(Text::from_static("phone"));
    assert!(node.cluster.end_session(&client).await.unwrap());
    node.gone("phone").await;
    connect(&node, "phone", "bob").await;
}

/// A retained message is as any other.
#[tokio::test]
async fn retained_messages_follow_the_rules() {
    let node = with_users().await;
    node.allow("a/%u/#").await;
    let mut bob = connect(&node, "tablet", "bob").await;
    let retained = |topic, payload| magpie_codec::Publish {
        retain: true,
        ..message(topic, QoS::AtLeastOnce, payload)
    };
    bob.put(retained("a/bob/x", "mine")).await;
    let mut ann = connect(&node, "phone", "ann").await;
    let options = SubscriptionOptions::default();
    let suback = ann.say_subscribe(&["a/bob/x"], options).await;
    assert_eq!(suback.reasons, [DENIED]);
    ann.hears_nothing().await;
}

/// A client that is too fast is not read, or goes; others do not notice.
#[tokio::test]
async fn a_client_is_held_to_its_rate() {
    let node = TestNode::start_with(|config| config.session.publish_rate = 50).await;
    let mut fast = TestClient::connect(node.address, "fast").await;
    let began = Instant::now();
    for _ in 0..100 {
        fast.send_publish("a", QoS::AtMostOnce, "x").await;
    }
    fast.publish("a", QoS::AtLeastOnce, "last").await;
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    let node = TestNode::start_with(|config| {
        config.session.publish_rate = 50;
        config.session.publish_rate_policy = magpie_broker::RatePolicy::Disconnect;
    })
    .await;
    let mut fast = TestClient::connect(node.address, "fast").await;
    for _ in 0..60 {
        fast.send_publish("a", QoS::AtMostOnce, "x").await;
    }
    assert_eq!(fast.closed_with().await, ReasonCode::MessageRateTooHigh);
}

async fn ping_of(client: &mut TestClient) {
    client.send(&Packet::PingReq).await;
    assert_eq!(client.receive().await, Packet::PingResp);
}

/// How long it takes to look at 100,000 subscriptions, and what others notice of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn many_subscriptions_are_looked_at_beside_the_traffic() {
    let node = with_users().await;
    let all = node.allow("a/#").await;
    let other = node.allow("b/#").await;
    // Without any rule everything would be allowed.
    node.allow("c/#").await;
    let mut readers = Vec::new();
    for number in 0..10 {
        let mut reader = connect(&node, &format!("reader-{number}"), "ann").await;
        for packet in 0..10 {
            let filters: Vec<_> = (0..1000)
                .map(|filter| format!("a/{number}/{packet}/{filter}"))
                .collect();
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            let suback = reader.say_subscribe(&filters, SubscriptionOptions::default());
            assert!(suback.await.reasons.iter().all(|it| !it.is_error()));
        }
        for reader in &mut readers {
            ping_of(reader).await;
        }
        readers.push(reader);
    }
    let mut canary = connect(&node, "canary", "bob").await;
    let mut ping = async || {
        let began = Instant::now();
        canary.send(&Packet::PingReq).await;
        assert_eq!(canary.receive().await, Packet::PingResp);
        began.elapsed()
    };
    let quiet = ping().await;
    // All are looked at, and none goes.
    node.remove_rule(other).await;
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(2) {
        slowest = slowest.max(ping().await);
    }
    println!("ping: {quiet:?}; while 100,000 subscriptions are looked at: at most {slowest:?}");
    // Their Keep Alive passes otherwise.
    for reader in &mut readers {
        ping_of(reader).await;
    }
    let began = Instant::now();
    node.remove_rule(all).await;
    for reader in &mut readers {
        assert_eq!(reader.closed_with().await, DENIED);
    }
    println!("all of them ended after {:?}", began.elapsed());
}
