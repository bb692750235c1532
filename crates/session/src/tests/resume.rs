//! A session that goes on with a new connection.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use magpie_codec::{Connect, ConnectProperties, Packet, ProtocolVersion, QoS, SubscriptionOptions};

use super::{
    Driver, ack, connack, connect, connect_v5, delivered_ids, delivery, published, sent, ticket_of,
    token,
};
use crate::{Answer, Delivery, Limits, Outcome, Output, Session};

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn limits() -> Limits {
    Limits {
        session_expiry_s_max: 3600,
        ..Limits::default()
    }
}

fn returning() -> ConnectProperties {
    ConnectProperties {
        session_expiry_interval_s: 600,
        ..ConnectProperties::default()
    }
}

fn returning_connect(properties: ConnectProperties) -> Connect {
    Connect {
        clean_start: false,
        ..connect_v5(properties)
    }
}

/// The session of a client whose socket broke.
fn lost(mut driver: Driver) -> Box<Session> {
    driver.connection.handle_disconnected(driver.now());
    driver.drain();
    driver.connection.into_session().unwrap()
}

fn first() -> Driver {
    Driver::connected_with(limits(), returning_connect(returning()))
}

fn again(session: Box<Session>, properties: ConnectProperties) -> (Driver, Vec<Output>) {
    let mut driver = Driver::new(limits());
    let outputs = driver.attach(returning_connect(properties), Some(session));
    (driver, outputs)
}

/// [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-4.6.0-1]
#[test]
fn unacknowledged_packets_are_sent_again_with_their_ids_and_in_their_order() {
    let mut driver = first();
    for (token, qos) in [(1, QOS1), (2, QOS2), (3, QOS2), (4, QOS1), (5, QOS1)] {
        let outputs = driver.deliver(qos, token);
        driver.settle(outputs);
    }
    driver.packet(Packet::PubAck(ack(4)));
    let outputs = driver.packet(Packet::PubRec(ack(3)));
    driver.settle(outputs);
    let session = lost(driver);
    assert_eq!(session.inflight_len(), 4);

    let (mut driver, outputs) = again(session, returning());
    assert_eq!(delivered_ids(&outputs), [1, 2, 5]);
    let is_dup = |output: &Output| matches!(output, Output::Deliver { header, .. } if header.dup);
    assert_eq!(outputs.iter().filter(|output| is_dup(output)).count(), 3);
    assert!(outputs.contains(&Output::Send(Packet::PubRel(ack(3)))));
    // A new message takes an id that is not in use.
    assert_eq!(delivered_ids(&driver.deliver(QOS1, 6)), [6]);

    let done = |position| Output::Delivered {
        token: token(position),
        outcome: Outcome::Acknowledged,
    };
    assert_eq!(driver.packet(Packet::PubAck(ack(1))), [done(1)]);
    let outputs = driver.packet(Packet::PubRec(ack(2)));
    assert_eq!(driver.settle(outputs), sent([Packet::PubRel(ack(2))]));
    assert_eq!(driver.packet(Packet::PubComp(ack(2))), [done(2)]);
    assert_eq!(driver.packet(Packet::PubComp(ack(3))), [done(3)]);
}

/// [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.2.2-2], [MQTT-3.2.2-3]
#[test]
fn session_present_is_true_to_the_facts() {
    let session = lost(first());
    for (session, present) in [(Some(session), true), (None, false)] {
        let mut driver = Driver::new(limits());
        let ticket =
            ticket_of(&driver.packet(Packet::Connect(Box::new(returning_connect(returning())))));
        let ticket = ticket_of(&driver.answer(ticket, Answer::Authenticated(Ok(None))));
        let outputs = driver.answer(ticket, Answer::Attached { epoch: 8, session });
        assert_eq!(connack(&outputs).session_present, present);
    }
}

#[test]
fn a_smaller_window_lets_the_rest_follow_by_and_by() {
    let mut driver = first();
    for token in 1..=4 {
        driver.deliver(QOS1, token);
    }
    let narrow = ConnectProperties {
        receive_maximum: NonZeroU16::new(2),
        ..returning()
    };
    let (mut driver, outputs) = again(lost(driver), narrow);
    assert_eq!(delivered_ids(&outputs), [1, 2]);
    assert!(!driver.connection.can_accept(QOS1));
    assert_eq!(delivered_ids(&driver.packet(Packet::PubAck(ack(2)))), [3]);
    assert!(!driver.connection.can_accept(QOS1));
    assert_eq!(delivered_ids(&driver.packet(Packet::PubAck(ack(1)))), [4]);
    assert!(!driver.connection.can_accept(QOS1));
    driver.packet(Packet::PubAck(ack(3)));
    assert!(driver.connection.can_accept(QOS1));
}

/// [MQTT-4.3.3-7], [MQTT-4.4.0-1]: what was sent is sent again, also if it has expired meanwhile. [MQTT-3.1.2-25]: but not
/// if it is too large now.
#[test]
fn what_was_sent_comes_again_unless_the_client_no_longer_takes_it() {
    let mut driver = first();
    driver.deliver(QOS1, 1);
    let expires_at = Some(driver.now() + Duration::from_secs(1));
    for (qos, token) in [(QOS1, 2), (QOS2, 3)] {
        driver.connection.handle_delivery(
            Delivery {
                expires_at,
                ..delivery(qos, token)
            },
            driver.now(),
        );
    }
    let outputs = driver.drain();
    driver.settle(outputs);
    let session = lost(driver);
    let mut driver = Driver::new(limits());
    driver.now_ms = 10_000;
    let outputs = driver.attach(returning_connect(returning()), Some(session));
    assert_eq!(delivered_ids(&outputs), [1, 2, 3]);
    let left = |output: &Output| match output {
        Output::Deliver { header, .. } => header.expiry_interval_s,
        _ => None,
    };
    assert_eq!(outputs.iter().filter_map(left).collect::<Vec<_>>(), [1, 1]);

    let tiny = ConnectProperties {
        maximum_packet_size: NonZeroU32::new(14),
        ..returning()
    };
    // Whose CONNACK has nothing to say, and is small enough.
    let mut limits = limits();
    limits.receive_maximum = u16::MAX;
    limits.packet_bytes_max = 0;
    limits.topic_aliases_in_max = 0;
    limits.retain_available = true;
    let session = lost(driver);
    let mut driver = Driver::new(limits);
    let outputs = driver.attach(returning_connect(tiny), Some(session));
    let given_up = |position| Output::Delivered {
        token: token(position),
        outcome: Outcome::TooLarge,
    };
    assert_eq!(outputs, [given_up(1), given_up(2), given_up(3)]);
    assert!(driver.connection.can_accept(QOS1));
}

/// [MQTT-4.3.3-10]
#[test]
fn a_qos_2_message_is_not_passed_on_again() {
    let mut driver = first();
    let ticket = ticket_of(&driver.publish(QOS2, 5));
    // The answer comes, PUBREC is lost with the connection.
    driver.answer(ticket, published());
    let (mut driver, _) = again(lost(driver), returning());
    assert_eq!(driver.publish(QOS2, 5), sent([Packet::PubRec(ack(5))]));
    let ticket = ticket_of(&driver.packet(Packet::PubRel(ack(5))));
    assert_eq!(
        driver.answer(ticket, Answer::Released),
        sent([Packet::PubComp(ack(5))])
    );
}

#[test]
fn a_qos_2_message_without_an_answer_is_asked_again() {
    let mut driver = first();
    let lost_ticket = ticket_of(&driver.publish(QOS2, 5));
    let (mut driver, _) = again(lost(driver), returning());
    let ticket = ticket_of(&driver.publish(QOS2, 5));
    assert_eq!(
        driver.answer(ticket, published()),
        sent([Packet::PubRec(ack(5))])
    );
    assert_eq!(driver.answer(lost_ticket, published()), []);
}

#[test]
fn subscriptions_stay() {
    let mut driver = first();
    let subscribe = || super::subscribe::subscribe(1, &[("a/#", SubscriptionOptions::default())]);
    let ticket = ticket_of(&driver.packet(subscribe()));
    driver.answer(
        ticket,
        Answer::Subscribed(vec![magpie_codec::ReasonCode::Success]),
    );
    let (mut driver, _) = again(lost(driver), returning());
    assert_eq!(
        driver.connection.session().unwrap().subscriptions().len(),
        1
    );
    let outputs = driver.packet(subscribe());
    assert!(
        matches!(&outputs[..], [Output::Subscribe { subscriptions, .. }] if subscriptions[0].replaces)
    );
}

/// [MQTT-3.1.2-4 v3.1.1], [MQTT-3.3.1-1 v3.1.1], [MQTT-4.4.0-1 v3.1.1], [MQTT-4.6.0-1 v3.1.1], [MQTT-4.6.0-4 v3.1.1]
#[test]
fn an_older_client_goes_on_too() {
    let old = || Connect {
        clean_start: false,
        ..connect(ProtocolVersion::V3_1_1)
    };
    let mut released = Vec::new();
    let mut driver = Driver::connected_with(limits(), old());
    for (token, qos) in [(1, QOS1), (2, QOS2), (3, QOS2), (4, QOS2), (5, QOS1)] {
        let outputs = driver.deliver(qos, token);
        driver.settle(outputs);
    }
    for packet_id in [4, 3] {
        let outputs = driver.packet(Packet::PubRec(ack(packet_id)));
        driver.settle(outputs);
    }
    let session = lost(driver);
    assert_eq!(session.expiry_s(), 3600);
    let mut driver = Driver::new(limits());
    let outputs = driver.attach(old(), Some(session));
    assert_eq!(delivered_ids(&outputs), [1, 2, 5]);
    for output in outputs {
        match output {
            Output::Deliver { header, .. } => assert!(header.dup),
            Output::Send(packet) => released.push(packet),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(released, [4, 3].map(|number| Packet::PubRel(ack(number))));
}

/// [MQTT-4.6.0-4]
#[test]
fn pubrels_keep_the_order_of_the_pubrecs() {
    let mut driver = first();
    for token in 1..=3 {
        let outputs = driver.deliver(QOS2, token);
        driver.settle(outputs);
    }
    for packet_id in [2, 3, 1, 2] {
        let outputs = driver.packet(Packet::PubRec(ack(packet_id)));
        driver.settle(outputs);
    }
    let (_, outputs) = again(lost(driver), returning());
    assert_eq!(
        outputs,
        sent([2, 3, 1].map(|packet_id| Packet::PubRel(ack(packet_id))))
    );
}

/// The partitions know the packet ids of the session, whatever becomes of it after this connection.
#[test]
fn ids_are_released_on_the_last_connection_of_a_session_too() {
    let (mut driver, _) = again(lost(first()), ConnectProperties::default());
    let outputs = driver.publish(QOS2, 7);
    driver.answer(ticket_of(&outputs), published());
    let outputs = driver.packet(Packet::PubRel(ack(7)));
    let [Output::Release { known: true, .. }] = outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(
        driver.answer(ticket_of(&outputs), Answer::Released),
        sent([Packet::PubComp(ack(7))])
    );
    // Taken by an earlier connection.
    let outputs = driver.packet(Packet::PubRel(ack(8)));
    assert!(matches!(
        outputs[..],
        [Output::Release { known: false, .. }]
    ));
}
