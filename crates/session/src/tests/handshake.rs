//! QoS 2 to and from a client whose session outlives its connection.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use magpie_codec::{
    Connect, ConnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode, TopicFilter,
};

use super::{
    Driver, ack, ack_with, assert_closed_with, connect, connect_v5, delivered_ids, delivery, id,
    message, publish_of, published, sent, ticket_of, token,
};
use crate::{
    Answer, CloseCause, Delivery, Limits, Note, Outcome, Output, Published, Restored,
    RestoredStage, Session, Stage, SubscriptionState, Unacknowledged,
};

const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn limits() -> Limits {
    Limits {
        session_expiry_s_max: 3600,
        ..Limits::default()
    }
}

fn durable(receive_maximum: u16) -> Connect {
    let properties = ConnectProperties {
        session_expiry_interval_s: 600,
        receive_maximum: NonZeroU16::new(receive_maximum),
        ..ConnectProperties::default()
    };
    Connect {
        clean_start: false,
        ..connect_v5(properties)
    }
}

fn first() -> Driver {
    Driver::connected_with(limits(), durable(10))
}

fn resumed(receive_maximum: u16, inflight: Vec<Restored>) -> (Driver, Vec<Output>) {
    let mut driver = Driver::new(limits());
    let session = Session::restore(600, [], inflight);
    let outputs = driver.attach(durable(receive_maximum), Some(Box::new(session)));
    (driver, outputs)
}

fn restored(number: u16, qos: QoS) -> Restored {
    let published = Published {
        message: Arc::new(message()),
        qos,
        retain: false,
        subscription_ids: [7].into_iter().collect(),
        expires_at: None,
    };
    Restored {
        packet_id: id(number),
        token: token(u64::from(number) * 100),
        stage: RestoredStage::Published(published),
    }
}

fn released(number: u16) -> Restored {
    Restored {
        stage: RestoredStage::Released,
        ..restored(number, QOS2)
    }
}

fn done(position: u64) -> Output {
    Output::Delivered {
        token: token(position),
        outcome: Outcome::Acknowledged,
    }
}

fn pubrel(number: u16) -> Vec<Output> {
    sent([Packet::PubRel(ack(number))])
}

/// [MQTT-4.3.3-2], [MQTT-4.3.3-3], [MQTT-4.3.3-4], [MQTT-4.3.3-5], [MQTT-4.3.3-6]
#[test]
fn each_step_is_made_safe_before_the_client_sees_it() {
    let mut driver = first();
    let outputs = driver.deliver(QOS2, 77);
    let bind = ticket_of(&outputs);
    let expected = Output::Bind {
        ticket: bind,
        packet_id: id(1),
        token: token(77),
    };
    assert_eq!(outputs, [expected]);
    let outputs = driver.answer(bind, Answer::Bound);
    assert_eq!(delivered_ids(&outputs), [1]);
    assert!(matches!(&outputs[..], [Output::Deliver { header, .. }] if !header.dup));
    assert_eq!(driver.answer(bind, Answer::Bound), []);

    let outputs = driver.packet(Packet::PubRec(ack(1)));
    let received = ticket_of(&outputs);
    let expected = Output::Received {
        ticket: received,
        packet_id: id(1),
    };
    assert_eq!(outputs, [expected]);
    // A repeat while it is open is answered by the same PUBREL.
    assert_eq!(driver.packet(Packet::PubRec(ack(1))), []);
    let error = ack_with(1, ReasonCode::QuotaExceeded);
    assert_eq!(driver.packet(Packet::PubRec(error)), []);
    assert_eq!(driver.answer(received, Answer::ReceivedStored), pubrel(1));
    assert_eq!(driver.answer(received, Answer::ReceivedStored), []);
    assert_eq!(driver.packet(Packet::PubRec(ack(1))), pubrel(1));
    assert_eq!(driver.packet(Packet::PubComp(ack(1))), [done(77)]);
}

/// [MQTT-4.6.0-4] and [MQTT-4.6.0-5]
#[test]
fn answers_in_any_order_keep_the_order_of_the_packets() {
    let mut driver = first();
    let binds = [1, 2, 3].map(|position| ticket_of(&driver.deliver(QOS2, position)));
    assert_eq!(delivered_ids(&driver.deliver(QOS1, 4)), [4]);
    assert_eq!(driver.answer(binds[2], Answer::Bound), []);
    assert_eq!(delivered_ids(&driver.answer(binds[0], Answer::Bound)), [1]);
    assert_eq!(
        delivered_ids(&driver.answer(binds[1], Answer::Bound)),
        [2, 3]
    );

    let receives = [3, 1].map(|number| ticket_of(&driver.packet(Packet::PubRec(ack(number)))));
    assert_eq!(driver.answer(receives[1], Answer::ReceivedStored), []);
    assert_eq!(
        driver.answer(receives[0], Answer::ReceivedStored),
        sent([3, 1].map(|number| Packet::PubRel(ack(number))))
    );
}

#[test]
fn an_open_bind_takes_its_place_in_the_window() {
    let mut driver = Driver::connected_with(limits(), durable(2));
    driver.deliver(QOS2, 1);
    assert!(driver.connection.can_accept(QOS2));
    driver.deliver(QOS2, 2);
    assert!(!driver.connection.can_accept(QOS1));
}

#[test]
fn a_session_that_ends_with_its_connection_asks_nothing() {
    let connects = [
        connect(ProtocolVersion::V3_1_1),
        connect(ProtocolVersion::V5),
    ];
    for connect in connects {
        let mut driver = Driver::connected_with(limits(), connect);
        assert_eq!(delivered_ids(&driver.deliver(QOS2, 1)), [1]);
        assert_eq!(driver.packet(Packet::PubRec(ack(1))), pubrel(1));
    }
    // Nor if it is we who do not keep it.
    let mut driver = Driver::connected_with(Limits::default(), durable(10));
    assert_eq!(delivered_ids(&driver.deliver(QOS2, 1)), [1]);
}

#[test]
fn a_node_that_does_not_answer_ends_the_connection() {
    let mut driver = first();
    driver.now_ms = 5_000;
    let bind = ticket_of(&driver.deliver(QOS2, 1));
    assert_eq!(driver.timeout_ms(), Some(15_000));
    driver.answer(bind, Answer::Bound);
    assert_eq!(driver.timeout_ms(), None);
    driver.now_ms = 6_000;
    driver.packet(Packet::PubRec(ack(1)));
    assert_eq!(driver.timeout_ms(), Some(16_000));
    assert_eq!(driver.sleep(9_999), []);
    assert_closed_with(&driver.sleep(1), ReasonCode::ServerBusy);
    assert_eq!(
        driver.connection.close_cause(),
        Some(CloseCause::Unanswered)
    );
}

#[test]
fn an_id_whose_publish_never_left_is_unknown() {
    let mut driver = first();
    let bind = ticket_of(&driver.deliver(QOS2, 1));
    let unknown = || Output::Note(Note::UnknownPacketId);
    let not_found = Packet::PubRel(ack_with(1, ReasonCode::PacketIdentifierNotFound));
    assert_eq!(
        driver.packet(Packet::PubRec(ack(1))),
        [unknown(), Output::Send(not_found)]
    );
    assert_eq!(driver.packet(Packet::PubAck(ack(1))), [unknown()]);
    assert_eq!(driver.packet(Packet::PubComp(ack(1))), [unknown()]);
    assert_eq!(delivered_ids(&driver.answer(bind, Answer::Bound)), [1]);
}

#[test]
fn what_cannot_be_sent_any_more_is_done() {
    let mut driver = first();
    let expiring = Delivery {
        expires_at: Some(driver.now() + Duration::from_secs(2)),
        ..delivery(QOS2, 1)
    };
    driver.connection.handle_delivery(expiring, driver.now());
    let bind = ticket_of(&driver.drain());
    driver.now_ms = 2_000;
    let expired = Output::Delivered {
        token: token(1),
        outcome: Outcome::Expired,
    };
    assert_eq!(driver.answer(bind, Answer::Bound), [expired]);

    // Too large is known before anybody is asked.
    let mut connect = durable(10);
    connect.properties.as_mut().unwrap().maximum_packet_size = NonZeroU32::new(10);
    // Whose CONNACK has nothing to say, and is small enough.
    let mut limits = limits();
    limits.receive_maximum = u16::MAX;
    limits.packet_bytes_max = 0;
    limits.topic_aliases_in_max = 0;
    limits.retain_available = true;
    let mut driver = Driver::connected_with(limits, connect);
    let too_large = Output::Delivered {
        token: token(1),
        outcome: Outcome::TooLarge,
    };
    assert_eq!(driver.deliver(QOS2, 1), [too_large]);
}

#[test]
fn the_end_tells_what_the_next_node_may_rely_on() {
    let mut driver = first();
    for position in 1..=4 {
        let bind = ticket_of(&driver.deliver(QOS2, position));
        driver.answer(bind, Answer::Bound);
    }
    driver.deliver(QOS1, 5);
    driver.deliver(QOS2, 6);
    for number in [3, 1] {
        let received = ticket_of(&driver.packet(Packet::PubRec(ack(number))));
        driver.answer(received, Answer::ReceivedStored);
    }
    driver.packet(Packet::PubRec(ack(2)));
    driver.connection.handle_disconnected(driver.now());
    let session = driver.connection.into_session().unwrap();
    let expected = [
        (2, QOS2, Stage::Published),
        (4, QOS2, Stage::Published),
        (5, QOS1, Stage::Published),
        (3, QOS2, Stage::Released),
        (1, QOS2, Stage::Released),
    ];
    let expected = expected.map(|(number, qos, stage)| Unacknowledged {
        packet_id: id(number),
        token: token(u64::from(number)),
        qos,
        stage,
    });
    assert_eq!(session.inflight().collect::<Vec<_>>(), expected);

    // The same session goes on: what was never sent is not in it, and what was not stored is sent again.
    let mut driver = Driver::new(limits());
    let outputs = driver.attach(durable(10), Some(session));
    assert_eq!(delivered_ids(&outputs), [2, 4, 5]);
    assert_eq!(
        outputs[..2],
        sent([3, 1].map(|number| Packet::PubRel(ack(number))))
    );
    assert!(matches!(
        driver.packet(Packet::PubRec(ack(2)))[..],
        [Output::Received { .. }]
    ));
}

/// [MQTT-4.4.0-1], [MQTT-3.3.1-1] and [MQTT-2.2.1-4]
#[test]
fn a_restored_session_goes_on_where_it_was() {
    let inflight = vec![released(9), restored(4, QOS2), restored(7, QOS1)];
    let (mut driver, outputs) = resumed(10, inflight);
    assert_eq!(outputs[..1], pubrel(9));
    assert_eq!(delivered_ids(&outputs), [4, 7]);
    for output in &outputs[1..] {
        assert!(
            matches!(output, Output::Deliver { header, .. } if header.dup && header.subscription_ids[..] == [7])
        );
    }
    // Without a second Bind.
    let received = ticket_of(&driver.packet(Packet::PubRec(ack(4))));
    assert_eq!(driver.answer(received, Answer::ReceivedStored), pubrel(4));
    for number in [4, 9] {
        let comp = ack_with(number, ReasonCode::PacketIdentifierNotFound);
        assert_eq!(
            driver.packet(Packet::PubComp(comp)),
            [done(u64::from(number) * 100)]
        );
    }
    assert_eq!(driver.packet(Packet::PubAck(ack(7))), [done(700)]);
    assert!(matches!(driver.deliver(QOS2, 1)[..], [Output::Bind { .. }]));
}

/// [MQTT-3.3.4-9]
#[test]
fn a_restored_session_keeps_to_a_smaller_window() {
    let inflight = vec![
        restored(1, QOS2),
        released(2),
        restored(3, QOS1),
        restored(4, QOS2),
    ];
    let (mut driver, outputs) = resumed(2, inflight);
    assert_eq!(outputs[..1], pubrel(2));
    assert_eq!(delivered_ids(&outputs), [1]);
    assert!(!driver.connection.can_accept(QOS1));
    // PUBREC does not open the window, PUBCOMP does.
    let received = ticket_of(&driver.packet(Packet::PubRec(ack(1))));
    assert_eq!(driver.answer(received, Answer::ReceivedStored), pubrel(1));
    let outputs = driver.packet(Packet::PubComp(ack(2)));
    assert_eq!(outputs[0], done(200));
    assert_eq!(delivered_ids(&outputs), [3]);
    assert_eq!(delivered_ids(&driver.packet(Packet::PubComp(ack(1)))), [4]);
    assert!(!driver.connection.can_accept(QOS1));
    driver.packet(Packet::PubAck(ack(3)));
    let ids = delivered_ids(&driver.deliver(QOS1, 9));
    assert!(![1, 2, 3, 4].contains(&ids[0]), "{ids:?}");
}

/// A client may acknowledge what it got from the earlier connection before it is sent again.
#[test]
fn an_acknowledgement_before_the_repeat_counts() {
    let inflight = vec![
        restored(1, QOS1),
        restored(2, QOS1),
        restored(3, QOS2),
        restored(4, QOS1),
    ];
    let (mut driver, outputs) = resumed(1, inflight);
    assert_eq!(delivered_ids(&outputs), [1]);
    assert_eq!(driver.packet(Packet::PubAck(ack(2))), [done(200)]);
    let received = ticket_of(&driver.packet(Packet::PubRec(ack(3))));
    assert_eq!(driver.answer(received, Answer::ReceivedStored), pubrel(3));
    assert_eq!(driver.packet(Packet::PubAck(ack(1))), [done(100)]);
    assert_eq!(delivered_ids(&driver.packet(Packet::PubComp(ack(3)))), [4]);
}

#[test]
fn subscriptions_are_restored() {
    let filter = TopicFilter::from_static("a/#");
    let state = SubscriptionState {
        options: magpie_codec::SubscriptionOptions::default(),
        id: Some(3),
    };
    let session = Session::restore(600, [(filter.clone(), state)], Vec::new());
    assert_eq!(session.expiry_s(), 600);
    assert_eq!(
        session.subscriptions().collect::<Vec<_>>(),
        [(&filter, &state)]
    );
}

/// [MQTT-4.3.3-11]
#[test]
fn an_id_of_an_earlier_connection_is_released_everywhere() {
    let (mut driver, _) = resumed(10, Vec::new());
    let outputs = driver.packet(Packet::PubRel(ack(5)));
    let ticket = ticket_of(&outputs);
    let release = Output::Release {
        ticket,
        packet_id: id(5),
        known: false,
    };
    assert_eq!(outputs, [release]);
    assert_eq!(driver.packet(Packet::PubRel(ack(5))), []);
    assert_eq!(
        driver.answer(ticket, Answer::Released),
        sent([Packet::PubComp(ack(5))])
    );
    // Once this connection has seen the PUBLISH, the id is known.
    let ticket = ticket_of(&driver.publish(QOS2, 5));
    driver.answer(ticket, published());
    let outputs = driver.packet(Packet::PubRel(ack(5)));
    assert!(matches!(outputs[..], [Output::Release { known: true, .. }]));

    // A session that begins here has no such ids.
    let not_found = Packet::PubComp(ack_with(5, ReasonCode::PacketIdentifierNotFound));
    assert_eq!(
        first().packet(Packet::PubRel(ack(5))),
        [Output::Note(Note::UnknownPacketId), Output::Send(not_found)]
    );
}

/// [MQTT-4.3.3-10]
#[test]
fn a_repeat_of_an_earlier_connections_publish_is_left_to_the_node() {
    let (mut driver, _) = resumed(10, Vec::new());
    let repeat = Publish {
        dup: true,
        ..publish_of(QOS2, 5)
    };
    let outputs = driver.packet(Packet::Publish(repeat));
    assert!(
        matches!(&outputs[..], [Output::Publish { packet_id, .. }] if *packet_id == Some(id(5)))
    );
    assert_eq!(
        driver.answer(ticket_of(&outputs), published()),
        sent([Packet::PubRec(ack(5))])
    );
}

/// A retained message is delivered as any other, and taken without a word.
#[test]
fn retained_messages_need_no_care() {
    let limits = Limits {
        retain_available: true,
        ..limits()
    };
    let mut driver = Driver::connected_with(limits, durable(10));
    let retained = Delivery {
        retain: true,
        ..delivery(QOS2, 1)
    };
    driver.connection.handle_delivery(retained, driver.now());
    let bind = ticket_of(&driver.drain());
    let outputs = driver.answer(bind, Answer::Bound);
    assert!(matches!(&outputs[..], [Output::Deliver { header, .. }] if header.retain));

    let publish = Publish {
        retain: true,
        ..publish_of(QOS1, 1)
    };
    let outputs = driver.packet(Packet::Publish(publish));
    assert!(matches!(
        &outputs[..],
        [Output::Publish { retain: true, .. }]
    ));
}
