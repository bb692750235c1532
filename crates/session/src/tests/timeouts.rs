//! What time does to a connection.

use magpie_codec::{Connect, Packet, ProtocolVersion, QoS, ReasonCode};

use super::{
    Driver, assert_closed_silently, assert_closed_with, connack, connack_properties, connect,
    published, sent, ticket_of,
};
use crate::{Answer, CloseCause, Limits, Output};

fn keeping_alive(version: ProtocolVersion, keep_alive_s: u16) -> Connect {
    Connect {
        keep_alive_s,
        ..connect(version)
    }
}

#[test]
fn a_socket_without_a_connect_is_closed() {
    let mut driver = Driver::new(Limits::default());
    assert_eq!(driver.timeout_ms(), Some(10_000));
    assert_eq!(driver.sleep(9_999), []);
    assert_eq!(
        assert_closed_silently(&driver.sleep(1)),
        CloseCause::ConnectTimeout
    );
}

/// [MQTT-3.1.2-22], [MQTT-3.12.4-1], [MQTT-3.1.2-24 v3.1.1], [MQTT-3.12.4-1 v3.1.1]
#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let mut driver =
        Driver::connected_with(Limits::default(), keeping_alive(ProtocolVersion::V5, 10));
    assert_eq!(driver.timeout_ms(), Some(15_000));
    assert_eq!(driver.sleep(14_000), []);
    assert_eq!(driver.packet(Packet::PingReq), sent([Packet::PingResp]));
    assert_eq!(driver.timeout_ms(), Some(29_000));
    // What we send does not count.
    driver.deliver(QoS::AtMostOnce, 0);
    assert_eq!(driver.sleep(14_999), []);
    assert_closed_with(&driver.sleep(1), ReasonCode::KeepAliveTimeout);

    let mut driver = Driver::connected_with(
        Limits::default(),
        keeping_alive(ProtocolVersion::V3_1_1, 10),
    );
    assert_eq!(
        assert_closed_silently(&driver.sleep(15_000)),
        CloseCause::KeepAliveTimeout
    );
}

#[test]
fn a_driver_that_does_not_read_blames_nobody() {
    let connect = || keeping_alive(ProtocolVersion::V5, 10);
    let mut driver = Driver::connected_with(Limits::default(), connect());
    driver.connection.set_reading_paused(true, driver.now());
    assert_eq!(driver.timeout_ms(), None);
    assert_eq!(driver.sleep(100_000), []);
    // Another input does not end the pause.
    driver.deliver(QoS::AtMostOnce, 0);
    assert_eq!(driver.timeout_ms(), None);
    driver.connection.set_reading_paused(false, driver.now());
    assert_eq!(driver.timeout_ms(), Some(115_000));
    // Saying so again grants nothing.
    driver.now_ms += 1_000;
    driver.connection.set_reading_paused(false, driver.now());
    assert_eq!(driver.timeout_ms(), Some(115_000));

    // It may begin before the client is let in.
    let mut driver = Driver::new(Limits::default());
    driver.connection.set_reading_paused(true, driver.now());
    driver.attach(connect(), None);
    assert_eq!(driver.timeout_ms(), None);
}

#[test]
fn without_keep_alive_a_client_may_be_silent() {
    let driver = Driver::connected(ProtocolVersion::V5);
    assert_eq!(driver.timeout_ms(), None);
}

/// [MQTT-3.1.2-21], [MQTT-3.2.2-22]
#[test]
fn the_servers_keep_alive_replaces_a_longer_one() {
    for (asked, told, deadline_ms) in [
        (0, Some(60), 90_000),
        (61, Some(60), 90_000),
        (60, None, 90_000),
        (5, None, 7_500),
    ] {
        let mut driver = Driver::new(Limits {
            keep_alive_s_max: 60,
            ..Limits::default()
        });
        let connect = Packet::Connect(Box::new(keeping_alive(ProtocolVersion::V5, asked)));
        let ticket = ticket_of(&driver.packet(connect));
        let ticket = ticket_of(&driver.answer(ticket, Answer::Authenticated(Ok(None))));
        let outputs = driver.answer(
            ticket,
            Answer::Attached {
                epoch: 1,
                session: None,
            },
        );
        assert_eq!(connack_properties(&outputs).server_keep_alive_s, told);
        assert_eq!(driver.timeout_ms(), Some(deadline_ms));
    }
}

#[test]
fn a_node_that_does_not_answer_a_connect_refuses_it() {
    let mut driver = Driver::new(Limits::default());
    let connect = Packet::Connect(Box::new(connect(ProtocolVersion::V5)));
    let ticket = ticket_of(&driver.packet(connect));
    driver.sleep(9_999);
    driver.answer(ticket, Answer::Authenticated(Ok(None)));
    assert_eq!(driver.sleep(9_999), []);
    let outputs = driver.sleep(1);
    assert_eq!(connack(&outputs).reason, ReasonCode::ServerUnavailable);
    assert!(matches!(
        outputs[1],
        Output::Close {
            cause: CloseCause::Unanswered,
            ..
        }
    ));
}

/// [MQTT-4.8.0-2 v3.1.1]
#[test]
fn the_oldest_open_question_sets_the_deadline() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let first = ticket_of(&driver.publish(QoS::AtLeastOnce, 1));
    driver.sleep(4_000);
    let second = ticket_of(&driver.publish(QoS::AtLeastOnce, 2));
    assert_eq!(driver.timeout_ms(), Some(10_000));
    driver.answer(second, published());
    assert_eq!(driver.timeout_ms(), Some(10_000));
    driver.answer(first, published());
    assert_eq!(driver.timeout_ms(), None);

    driver.publish(QoS::AtLeastOnce, 3);
    let outputs = driver.sleep(10_000);
    assert_closed_with(&outputs, ReasonCode::ServerBusy);
    assert_eq!(
        driver.connection.close_cause(),
        Some(CloseCause::Unanswered)
    );
}

#[test]
fn a_client_that_we_do_not_read_is_not_silent() {
    let limits = Limits {
        receive_maximum: 1,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, keeping_alive(ProtocolVersion::V3_1_1, 2));
    let ticket = ticket_of(&driver.publish(QoS::AtLeastOnce, 1));
    assert!(!driver.connection.wants_packets());
    assert_eq!(driver.timeout_ms(), Some(10_000));
    assert_eq!(driver.sleep(9_000), []);
    driver.answer(ticket, published());
    assert_eq!(driver.timeout_ms(), Some(12_000));
}

#[test]
fn a_timeout_beyond_all_time_is_none() {
    let never = std::time::Duration::MAX;
    let limits = Limits {
        connect_timeout: never,
        answer_timeout: never,
        ..Limits::default()
    };
    let mut driver = Driver::new(limits);
    assert_eq!(driver.timeout_ms(), None);
    driver.attach(connect(ProtocolVersion::V5), None);
    driver.publish(QoS::AtLeastOnce, 1);
    assert_eq!(driver.timeout_ms(), None);
}
