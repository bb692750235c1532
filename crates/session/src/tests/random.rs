//! Random packets, answers, deliveries and times, against what must hold whatever happens.
//!
//! | invariant | where |
//! |---|---|
//! | no packet id is used for two deliveries at a time | `Watch::delivered` |
//! | the window is never passed | `Watch::delivered` |
//! | deliveries of one QoS leave in the order in which they came | `Watch::see` |
//! | a QoS 2 delivery of a durable session leaves after its answer, its PUBREL after the next | `Watch::see` |
//! | each delivery is done at most once, and only a delivery that was made | `Watch::see` |
//! | a PUBLISH is acknowledged at most once, after its answer, in order | `Watch::acknowledged` |
//! | a QoS 2 message is passed on once until it is released | `Watch::see` |
//! | SUBACK and UNSUBACK come at most once, after their answer, in order | `Watch::see` |
//! | each ticket is new | `Watch::see` |
//! | nothing follows the Close, and an open connection stays usable | `Watch::see`, `check` |

mod watch;

use std::num::NonZeroU16;

use magpie_codec::{
    Auth, ConnectProperties, Disconnect, Packet, ProtocolVersion, Publish, QoS, ReasonCode,
    Subscribe, SubscriptionOptions, TopicFilter, TopicName, Unsubscribe,
};
use proptest::prelude::*;
use proptest::sample::Index;

use self::watch::{Question, Sent, Watch};
use super::{Driver, ack_with, connect, connect_v5, delivery, id, publish_of};
use crate::{Answer, Eviction, Limits, Output};

const WINDOW: u16 = 3;
const RECEIVE_MAXIMUM: u16 = 4;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        qos: QoS,
        id: u16,
        dup: bool,
        alias: u16,
        named: bool,
    },
    PubRel(u16),
    /// Acknowledges what was sent to the client, as it should be.
    Acknowledge(Index),
    /// Any acknowledgement, for any id.
    Ack {
        kind: u8,
        id: u16,
        error: bool,
    },
    Subscribe {
        id: u16,
        filters: Vec<usize>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<usize>,
    },
    Ping,
    /// Something that ends the connection.
    End(u8),
    Answer {
        which: Index,
        outcome: u8,
    },
    Deliver(QoS),
    Sleep(u64),
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let filters = || prop::collection::vec(0..4_usize, 1..4);
    prop_oneof![
        6 => (qos(), 1..8_u16, any::<bool>(), 0..4_u16, prop::bool::weighted(0.97))
            .prop_map(|(qos, id, dup, alias, named)| Step::Publish { qos, id, dup, alias, named }),
        3 => (1..8_u16).prop_map(Step::PubRel),
        6 => any::<Index>().prop_map(Step::Acknowledge),
        1 => (0..3_u8, 0..9_u16, any::<bool>()).prop_map(|(kind, id, error)| Step::Ack { kind, id: id + 1, error }),
        2 => (1..8_u16, filters()).prop_map(|(id, filters)| Step::Subscribe { id, filters }),
        2 => (1..8_u16, filters()).prop_map(|(id, filters)| Step::Unsubscribe { id, filters }),
        1 => Just(Step::Ping),
        1 => (0..40_u8).prop_map(Step::End),
        8 => (any::<Index>(), any::<u8>()).prop_map(|(which, outcome)| Step::Answer { which, outcome }),
        8 => qos().prop_map(Step::Deliver),
        2 => (0..3_000_u64).prop_map(Step::Sleep),
    ]
}

fn reasons(count: usize, outcome: u8) -> Vec<ReasonCode> {
    // Now and then one too few.
    let count = if outcome == 3 { count - 1 } else { count };
    let reason = if outcome.is_multiple_of(5) {
        ReasonCode::NotAuthorized
    } else {
        ReasonCode::Success
    };
    vec![reason; count]
}

fn answer_of(question: Question, outcome: u8) -> Answer {
    match question {
        Question::Publish(_) if outcome == 0 => Answer::PublishUnknown,
        Question::Publish(_) if outcome < 10 => Answer::Published(Err(ReasonCode::QuotaExceeded)),
        Question::Publish(_) => Answer::Published(Ok(ReasonCode::Success)),
        Question::Release => Answer::Released,
        Question::Bind(_) => Answer::Bound,
        Question::Received(_) => Answer::ReceivedStored,
        Question::Subscribe(count) => Answer::Subscribed(reasons(count, outcome)),
        Question::Unsubscribe(count) => Answer::Unsubscribed(reasons(count, outcome)),
    }
}

fn packet_of(step: &Step, watch: &mut Watch) -> Option<Packet> {
    const FILTERS: [&str; 4] = ["a/b", "a/+", "#", "$share/g/a/b"];
    let filter = |at: &usize| TopicFilter::from_static(FILTERS[*at]);
    let v5 = watch.version == ProtocolVersion::V5;
    Some(match step {
        Step::Publish {
            qos,
            id,
            dup,
            alias,
            named,
        } => {
            let topic_alias = NonZeroU16::new(*alias).filter(|_| v5);
            Packet::Publish(Publish {
                dup: *dup && *qos > QoS::AtMostOnce,
                topic_alias,
                topic: (*named || topic_alias.is_none()).then(|| TopicName::from_static("a/b")),
                ..publish_of(*qos, *id)
            })
        }
        Step::PubRel(id) => Packet::PubRel(super::ack(*id)),
        Step::Acknowledge(index) => {
            let ids: Vec<u16> = watch.client.keys().copied().collect();
            if ids.is_empty() {
                return None;
            }
            let id = *index.get(&ids);
            match watch.client[&id] {
                (QoS::ExactlyOnce, Sent::Published) => {
                    watch.client.insert(id, (QoS::ExactlyOnce, Sent::Received));
                    Packet::PubRec(super::ack(id))
                }
                (QoS::ExactlyOnce, Sent::Received) => return None,
                (QoS::ExactlyOnce, Sent::Released) => {
                    watch.client.remove(&id);
                    Packet::PubComp(super::ack(id))
                }
                _ => {
                    watch.client.remove(&id);
                    Packet::PubAck(super::ack(id))
                }
            }
        }
        Step::Ack { kind, id, error } => {
            let error = *error && v5;
            let ack = ack_with(
                *id,
                if error {
                    ReasonCode::UnspecifiedError
                } else {
                    ReasonCode::Success
                },
            );
            let (kind, state) = (*kind, watch.client.get(id).copied());
            match (kind, state) {
                (1, Some((QoS::ExactlyOnce, Sent::Published))) if !error => {
                    watch.client.insert(*id, (QoS::ExactlyOnce, Sent::Received));
                }
                (0, Some((QoS::AtLeastOnce, _)))
                | (1, Some((QoS::ExactlyOnce, Sent::Published)))
                | (2, Some((_, Sent::Released))) => {
                    watch.client.remove(id);
                }
                (1, Some((QoS::ExactlyOnce, Sent::Released))) if error => {
                    watch.client.remove(id);
                }
                _ => {}
            }
            [Packet::PubAck, Packet::PubRec, Packet::PubComp][usize::from(kind)](ack)
        }
        Step::Subscribe {
            id: number,
            filters,
        } => Packet::Subscribe(Subscribe {
            packet_id: id(*number),
            subscription_id: None,
            user_properties: Vec::new(),
            filters: filters
                .iter()
                .map(|at| (filter(at), SubscriptionOptions::default()))
                .collect(),
        }),
        Step::Unsubscribe {
            id: number,
            filters,
        } => Packet::Unsubscribe(Unsubscribe {
            packet_id: id(*number),
            user_properties: Vec::new(),
            filters: filters.iter().map(filter).collect(),
        }),
        Step::Ping => Packet::PingReq,
        Step::End(0) => Packet::Disconnect(Disconnect::default()),
        Step::End(1) => Packet::Connect(Box::new(connect(watch.version))),
        Step::End(2) => Packet::PingResp,
        Step::End(3) => Packet::Auth(Auth {
            reason: ReasonCode::ReAuthenticate,
            properties: None,
        }),
        Step::End(_) | Step::Answer { .. } | Step::Deliver(_) | Step::Sleep(_) => return None,
    })
}

fn take(driver: &mut Driver, watch: &mut Watch, step: &Step) -> Vec<Output> {
    match step {
        Step::Answer { which, outcome } if !watch.open.is_empty() => {
            let (ticket, question) = watch.open.swap_remove(which.index(watch.open.len()));
            watch.answer(ticket);
            match (question, *outcome) {
                (Question::Publish(Some(id)), 10..) => {
                    watch.taken.insert(id);
                }
                (Question::Bind(id), _) => {
                    watch.unbound.insert(id, true);
                }
                (Question::Received(id), _) => {
                    watch.stored.insert(id);
                }
                _ => {}
            }
            driver.answer(ticket, answer_of(question, *outcome))
        }
        Step::Deliver(qos) if driver.connection.can_accept(*qos) => {
            let token = watch.next_token;
            watch.next_token += 1;
            if *qos > QoS::AtMostOnce {
                watch.tokens.insert(token);
            }
            let mut delivery = delivery(*qos, token);
            std::sync::Arc::make_mut(&mut delivery.message).payload = token.to_string().into();
            driver.connection.handle_delivery(delivery, driver.now());
            driver.drain()
        }
        Step::Sleep(ms) => driver.sleep(*ms),
        Step::End(4) => {
            driver.connection.handle_disconnected(driver.now());
            driver.drain()
        }
        Step::End(5) => {
            driver
                .connection
                .handle_close(Eviction::TakenOver, driver.now());
            driver.drain()
        }
        _ if !driver.connection.wants_packets() => Vec::new(),
        step => {
            let Some(packet) = packet_of(step, watch) else {
                return Vec::new();
            };
            let outputs = driver.packet(packet.clone());
            if driver.connection.is_connected() {
                watch.expect(&packet, &outputs);
            }
            outputs
        }
    }
}

fn check(version: ProtocolVersion, durable: bool, steps: &[Step]) {
    let limits = Limits {
        receive_maximum: RECEIVE_MAXIMUM,
        session_expiry_s_max: if durable { 100 } else { 0 },
        subscribes_pending_max: 2,
        subscriptions_max: 2,
        topic_aliases_in_max: 3,
        ..Limits::default()
    };
    let mut connect = match version {
        ProtocolVersion::V5 => connect_v5(ConnectProperties {
            receive_maximum: NonZeroU16::new(WINDOW),
            session_expiry_interval_s: 100,
            topic_alias_maximum: 2,
            ..ConnectProperties::default()
        }),
        _ => connect(version),
    };
    connect.clean_start = !durable;
    connect.keep_alive_s = 30;
    let limits = Limits {
        inflight_max: WINDOW,
        ..limits
    };
    let mut driver = Driver::connected_with(limits, connect);
    let mut watch = Watch::new(version, durable);
    for step in steps {
        let outputs = take(&mut driver, &mut watch, step);
        watch.see(&outputs);
        assert_eq!(watch.closed, !driver.connection.is_connected());
        if watch.closed {
            continue;
        }
        let inflight_len = driver.connection.session().unwrap().inflight_len();
        assert_eq!(inflight_len, watch.client.len() + watch.unbound.len());
        assert_eq!(inflight_len, watch.tokens.len());
        assert!(watch.publishes.len() <= usize::from(RECEIVE_MAXIMUM) + 1);
        assert!(driver.connection.session().unwrap().subscriptions().len() <= 2);
        // Everything that is open has a deadline, so that it ends one way or the other.
        assert!(watch.open.is_empty() || driver.timeout_ms().unwrap() <= driver.now_ms + 10_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_version_5_connection_holds_its_invariants(steps in prop::collection::vec(step(), 1..120)) {
        check(ProtocolVersion::V5, false, &steps);
    }

    #[test]
    fn a_version_5_connection_with_a_session_holds_them(steps in prop::collection::vec(step(), 1..120)) {
        check(ProtocolVersion::V5, true, &steps);
    }

    #[test]
    fn a_version_3_1_1_connection_holds_them(steps in prop::collection::vec(step(), 1..120), durable: bool) {
        check(ProtocolVersion::V3_1_1, durable, &steps);
    }
}
