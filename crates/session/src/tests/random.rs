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

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::num::NonZeroU16;

use magpie_codec::{
    Auth, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish, QoS,
    ReasonCode, Subscribe, SubscriptionOptions, TopicFilter, TopicName, Unsubscribe,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Driver, ack_with, connect, connect_v5, delivery, id, publish_of, ticket_in};
use crate::{Answer, Eviction, Limits, Outcome, Output, Ticket};

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

/// A QoS 1 or 2 PUBLISH, a SUBSCRIBE or an UNSUBSCRIBE that the client waits for.
#[derive(Debug)]
struct Waiting {
    id: u16,
    is_qos_2: bool,
    /// `None`: needs no answer.
    ticket: Option<Ticket>,
    answered: bool,
}

/// What the outside world knows.
struct Watch {
    version: ProtocolVersion,
    tickets: HashSet<Ticket>,
    open: Vec<(Ticket, Question)>,
    publishes: VecDeque<Waiting>,
    subscribes: VecDeque<Waiting>,
    /// What was sent to the client and not acknowledged by it.
    client: BTreeMap<u16, (QoS, Sent)>,
    /// QoS 2 deliveries that were not sent yet, by packet id, and whether they may be.
    unbound: BTreeMap<u16, bool>,
    /// PUBRECs that are safe.
    stored: HashSet<u16>,
    is_durable: bool,
    /// QoS 2 messages of the client that the node took and the client did not release.
    taken: HashSet<u16>,
    next_token: u64,
    tokens: HashSet<u64>,
    /// By QoS.
    last_payload: [Option<u64>; 3],
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Question {
    /// At QoS 2 its packet id.
    Publish(Option<u16>),
    Release,
    Subscribe(usize),
    Unsubscribe(usize),
    Bind(u16),
    Received(u16),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sent {
    Published,
    /// The client answered PUBREC.
    Received,
    /// We answered PUBREL.
    Released,
}

impl Watch {
    fn see(&mut self, outputs: &[Output]) {
        for output in outputs {
            assert!(!self.closed, "{output:?} after Close");
            if let Some(ticket) = ticket_in(output) {
                assert!(self.tickets.insert(ticket), "{ticket:?} twice");
                self.open.push((ticket, question_of(output)));
            }
            match output {
                Output::Deliver { header, message } => {
                    let sequence = std::str::from_utf8(&message.payload)
                        .unwrap()
                        .parse()
                        .unwrap();
                    let last =
                        self.last_payload[usize::from(u8::from(header.qos))].replace(sequence);
                    assert!(last.is_none_or(|last| last < sequence), "out of order");
                    if let Some(id) = header.packet_id {
                        self.delivered(id.number(), header.qos);
                    }
                }
                Output::Delivered { token, outcome } => {
                    assert!(
                        self.tokens.remove(&token.position),
                        "{token:?} done twice, or never begun"
                    );
                    assert!(matches!(
                        outcome,
                        Outcome::Acknowledged | Outcome::Refused(_)
                    ));
                }
                Output::Send(Packet::PubAck(ack) | Packet::PubRec(ack)) => {
                    self.acknowledged(ack.packet_id.number())
                }
                Output::Send(Packet::SubAck(ack)) => self.subscribed(ack.packet_id.number()),
                Output::Send(Packet::UnsubAck(ack)) => self.subscribed(ack.packet_id.number()),
                Output::Publish {
                    packet_id: Some(id),
                    ..
                } => {
                    assert!(
                        !self.taken.contains(&id.number()),
                        "QoS 2 message passed on twice"
                    );
                }
                Output::Send(Packet::PubComp(ack)) if ack.reason == ReasonCode::Success => {
                    assert!(
                        self.taken.remove(&ack.packet_id.number()),
                        "PUBCOMP for nothing"
                    );
                }
                Output::Close { .. } => self.closed = true,
                Output::Bind { packet_id, .. } => {
                    let id = packet_id.number();
                    assert!(
                        self.is_durable && !self.client.contains_key(&id),
                        "packet id {id} is in use"
                    );
                    assert_eq!(
                        self.unbound.insert(id, false),
                        None,
                        "packet id {id} is in use"
                    );
                }
                Output::Send(Packet::PubRel(ack)) if !ack.reason.is_error() => {
                    self.released(ack.packet_id.number());
                }
                Output::Send(Packet::PubRel(_) | Packet::PubComp(_) | Packet::PingResp)
                | Output::Note(_) => {}
                Output::Send(Packet::Disconnect(_)) => {
                    assert_eq!(self.version, ProtocolVersion::V5)
                }
                Output::Publish { .. }
                | Output::Release { .. }
                | Output::Received { .. }
                | Output::Subscribe { .. }
                | Output::Unsubscribe { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn delivered(&mut self, id: u16, qos: QoS) {
        assert!(
            self.client.insert(id, (qos, Sent::Published)).is_none(),
            "packet id {id} is in use"
        );
        if qos == QoS::ExactlyOnce && self.is_durable {
            assert_eq!(
                self.unbound.remove(&id),
                Some(true),
                "sent before the answer"
            );
        }
        let under_way = self.client.len() + self.unbound.len();
        assert!(under_way <= usize::from(WINDOW), "window passed");
    }

    fn released(&mut self, id: u16) {
        let (_, sent) = self
            .client
            .get_mut(&id)
            .expect("PUBREL of what was never sent");
        if std::mem::replace(sent, Sent::Released) != Sent::Released {
            assert!(
                !self.is_durable || self.stored.remove(&id),
                "PUBREL before the answer"
            );
        }
    }

    fn acknowledged(&mut self, id: u16) {
        let waiting = self
            .publishes
            .pop_front()
            .expect("an acknowledgement that nobody waits for");
        assert_eq!(waiting.id, id, "acknowledgement out of order");
        assert!(waiting.answered, "acknowledgement before the answer");
    }

    fn subscribed(&mut self, id: u16) {
        let waiting = self
            .subscribes
            .pop_front()
            .expect("an acknowledgement that nobody waits for");
        assert_eq!(waiting.id, id, "acknowledgement out of order");
        assert!(waiting.answered, "acknowledgement before the answer");
    }

    /// Notes that the client waits for an answer to this packet, which makes the node be asked or not.
    fn expect(&mut self, packet: &Packet, outputs: &[Output]) {
        let ticket = outputs.iter().find_map(ticket_in);
        let waiting = |id, is_qos_2| Waiting {
            id,
            is_qos_2,
            ticket,
            answered: ticket.is_none(),
        };
        match packet {
            Packet::Publish(Publish {
                packet_id: Some(packet_id),
                qos,
                ..
            }) => {
                let number = packet_id.number();
                let is_qos_2 = *qos == QoS::ExactlyOnce;
                // A repeat of what is under way is answered by the first one's PUBREC.
                let is_same =
                    |first: &Waiting| first.id == number && first.is_qos_2 && !first.answered;
                if ticket.is_some() || !is_qos_2 || !self.publishes.iter().any(is_same) {
                    self.publishes.push_back(waiting(number, is_qos_2));
                }
            }
            Packet::Subscribe(Subscribe { packet_id, .. })
            | Packet::Unsubscribe(Unsubscribe { packet_id, .. }) => {
                self.subscribes
                    .push_back(waiting(packet_id.number(), false));
            }
            _ => {}
        }
    }

    /// Marks an answer that the node gives.
    fn answer(&mut self, ticket: Ticket) {
        for waiting in self.publishes.iter_mut().chain(&mut self.subscribes) {
            waiting.answered |= waiting.ticket == Some(ticket);
        }
    }
}

fn question_of(output: &Output) -> Question {
    match output {
        Output::Publish { packet_id, .. } => Question::Publish(packet_id.map(PacketId::number)),
        Output::Release { .. } => Question::Release,
        Output::Bind { packet_id, .. } => Question::Bind(packet_id.number()),
        Output::Received { packet_id, .. } => Question::Received(packet_id.number()),
        Output::Subscribe { subscriptions, .. } => Question::Subscribe(subscriptions.len()),
        Output::Unsubscribe { filters, .. } => Question::Unsubscribe(filters.len()),
        other => panic!("{other:?}"),
    }
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
    let mut watch = Watch {
        version,
        tickets: HashSet::new(),
        open: Vec::new(),
        publishes: VecDeque::new(),
        subscribes: VecDeque::new(),
        client: BTreeMap::new(),
        unbound: BTreeMap::new(),
        stored: HashSet::new(),
        is_durable: durable,
        taken: HashSet::new(),
        next_token: 0,
        tokens: HashSet::new(),
        last_payload: [None; 3],
        closed: false,
    };
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
