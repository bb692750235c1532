//! DISCONNECT, evictions, and what becomes of the Will.

use bytes::Bytes;
use magpie_codec::{
    Auth, Connect, ConnectProperties, DecodeError, Disconnect, DisconnectProperties, Packet,
    PacketType, ProtocolVersion, QoS, ReasonCode, Text, TopicName, Will,
};

use super::{
    Driver, assert_closed_silently, assert_closed_with, connack, connect, connect_v5, delivery,
    published, ticket_of,
};
use crate::{CloseCause, Eviction, Limits, Output};

fn with_will(version: ProtocolVersion) -> Driver {
    let will = Will {
        topic: TopicName::from_static("will"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_s: 0,
        properties: None,
    };
    Driver::connected_with(
        Limits::default(),
        Connect {
            will: Some(Box::new(will)),
            ..connect(version)
        },
    )
}

fn disconnect(reason: ReasonCode, session_expiry_interval_s: Option<u32>) -> Packet {
    let properties = DisconnectProperties {
        session_expiry_interval_s,
        ..DisconnectProperties::default()
    };
    Packet::Disconnect(Disconnect {
        reason,
        properties: Some(Box::new(properties)),
    })
}

fn leaves_will(outputs: &[Output]) -> bool {
    let Some(Output::Close { will_discarded, .. }) = outputs.last() else {
        panic!("{outputs:?}")
    };
    !will_discarded
}

/// [MQTT-3.14.4-3]
/// [MQTT-3.1.2-10 v3.1.1], [MQTT-3.14.4-3 v3.1.1]
#[test]
fn a_normal_disconnection_discards_the_will() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = with_will(version);
        let outputs = driver.packet(disconnect(ReasonCode::Success, None));
        let cause = CloseCause::ByClient(ReasonCode::Success);
        let close = Output::Close {
            cause,
            will_discarded: true,
            session_expiry_s: 0,
            session_expiry_changed: false,
        };
        assert_eq!(outputs, [close]);
    }
}

/// [MQTT-3.1.2-8]
#[test]
fn every_other_end_publishes_the_will() {
    let ends: [fn(&mut Driver) -> Vec<Output>; 6] = [
        |driver| driver.packet(disconnect(ReasonCode::DisconnectWithWill, None)),
        |driver| driver.packet(disconnect(ReasonCode::UnspecifiedError, None)),
        |driver| {
            driver.connection.handle_disconnected(driver.now());
            driver.drain()
        },
        |driver| {
            driver
                .connection
                .handle_close(Eviction::TakenOver, driver.now());
            driver.drain()
        },
        |driver| driver.packet(Packet::PingResp),
        |driver| {
            driver.publish(QoS::AtLeastOnce, 1);
            driver.sleep(10_000)
        },
    ];
    for end in ends {
        assert!(leaves_will(&end(&mut with_will(ProtocolVersion::V5))));
    }
}

/// [MQTT-3.1.4-3], [MQTT-3.14.4-2], [MQTT-4.13.2-1], [MQTT-3.1.4-2 v3.1.1]
#[test]
fn an_eviction_is_told_to_version_5() {
    let reasons = [
        (Eviction::TakenOver, 0x8e),
        (Eviction::ShuttingDown, 0x8b),
        (Eviction::Kicked, 0x98),
        (Eviction::QuotaExceeded, 0x97),
        (Eviction::Busy, 0x89),
    ];
    for (why, code) in reasons {
        let mut driver = Driver::connected(ProtocolVersion::V5);
        driver.connection.handle_close(why, driver.now());
        assert_closed_with(&driver.drain(), ReasonCode::from_u8(code).unwrap());
        assert_eq!(
            driver.connection.close_cause(),
            Some(CloseCause::Evicted(why))
        );

        let mut driver = Driver::connected(ProtocolVersion::V3_1_1);
        driver.connection.handle_close(why, driver.now());
        assert_closed_silently(&driver.drain());
    }
}

/// [MQTT-3.1.2-29], [MQTT-3.14.2-2], [MQTT-4.13.1-1], [MQTT-4.8.0-1 v3.1.1]
#[test]
fn malformed_bytes_are_told_to_version_5() {
    let error = DecodeError {
        reason: ReasonCode::MalformedPacket,
        packet: Some(PacketType::Publish),
        rule: "a test",
        what: "both QoS bits are set",
        answer_in: Some(ProtocolVersion::V5),
    };
    let close = |version, problem_information| {
        let properties = ConnectProperties {
            request_problem_information: problem_information,
            ..ConnectProperties::default()
        };
        let connect = Connect {
            properties: Some(Box::new(properties)),
            ..connect(version)
        };
        let mut driver = Driver::connected_with(Limits::default(), connect);
        driver.connection.handle_decode_error(error, driver.now());
        driver.drain()
    };
    let outputs = close(ProtocolVersion::V5, true);
    assert_closed_with(&outputs, ReasonCode::MalformedPacket);
    assert!(matches!(
        &outputs[0],
        Output::Send(Packet::Disconnect(Disconnect { properties: Some(properties), .. }))
            if properties.session_expiry_interval_s.is_none()
    ));
    let reason_string = |outputs: &[Output]| {
        let Output::Send(Packet::Disconnect(disconnect)) = &outputs[0] else {
            panic!("{outputs:?}")
        };
        disconnect
            .properties
            .as_ref()
            .and_then(|properties| properties.reason_string.clone())
    };
    assert_eq!(reason_string(&outputs).unwrap(), "both QoS bits are set");
    assert_eq!(reason_string(&close(ProtocolVersion::V5, false)), None);
    assert_closed_silently(&close(ProtocolVersion::V3_1_1, true));
}

/// Section 3.14.2.2.2
#[test]
fn disconnect_cannot_raise_a_session_expiry_of_0() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    assert_closed_with(
        &driver.packet(disconnect(ReasonCode::Success, Some(1))),
        ReasonCode::ProtocolError,
    );

    let mut driver = Driver::connected(ProtocolVersion::V5);
    assert_eq!(
        driver
            .packet(disconnect(ReasonCode::Success, Some(0)))
            .len(),
        1
    );

    let limits = Limits {
        session_expiry_s_max: 100,
        ..Limits::default()
    };
    let asked = ConnectProperties {
        session_expiry_interval_s: 10,
        ..ConnectProperties::default()
    };
    for (said, expiry_s) in [(None, 10), (Some(10), 10), (Some(1000), 100), (Some(0), 0)] {
        let mut driver = Driver::connected_with(limits.clone(), connect_v5(asked.clone()));
        let reason = ReasonCode::DisconnectWithWill;
        let close = Output::Close {
            cause: CloseCause::ByClient(reason),
            will_discarded: false,
            session_expiry_s: expiry_s,
            session_expiry_changed: expiry_s != 10,
        };
        assert_eq!(driver.packet(disconnect(reason, said)), [close]);
        let session = driver.connection.into_session().unwrap();
        assert_eq!(session.expiry_s(), expiry_s);
    }
}

/// [MQTT-4.13.1-1]
#[test]
fn packets_of_a_server_and_auth_are_protocol_errors() {
    let auth = Auth {
        reason: ReasonCode::ReAuthenticate,
        properties: None,
    };
    for packet in [Packet::PingResp, Packet::Auth(auth)] {
        let mut driver = Driver::connected(ProtocolVersion::V5);
        assert_closed_with(&driver.packet(packet), ReasonCode::ProtocolError);
    }
}

/// [MQTT-3.14.4-1]
#[test]
fn after_the_close_nothing_is_heard() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let ticket = ticket_of(&driver.publish(QoS::AtLeastOnce, 1));
    driver.connection.handle_disconnected(driver.now());
    assert_eq!(driver.drain().len(), 1);
    assert!(!driver.connection.wants_packets());
    assert!(!driver.connection.can_accept(QoS::AtMostOnce));
    assert_eq!(driver.timeout_ms(), None);
    driver
        .connection
        .handle_delivery(delivery(QoS::AtMostOnce, 1), driver.now());
    driver
        .connection
        .handle_close(Eviction::Kicked, driver.now());
    driver.connection.handle_disconnected(driver.now());
    assert_eq!(driver.answer(ticket, published()), []);
    assert_eq!(driver.publish(QoS::AtLeastOnce, 2), []);
    assert_eq!(driver.sleep(1_000_000), []);
    assert_eq!(driver.connection.close_cause(), Some(CloseCause::Lost));
}

/// [MQTT-3.1.2-24]: the last packet is encoded after the connection closed.
#[test]
fn the_packet_limit_holds_to_the_end() {
    let asked = ConnectProperties {
        maximum_packet_size: std::num::NonZeroU32::new(30),
        ..ConnectProperties::default()
    };
    let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
    assert_closed_with(&driver.packet(Packet::PingResp), ReasonCode::ProtocolError);
    assert_eq!(driver.connection.packet_bytes_max(), Some(30));
}

/// [MQTT-3.1.0-2], [MQTT-3.14.2-1]: DISCONNECT has no 0x84.
#[test]
fn a_second_connect_of_whatever_version_is_a_protocol_error() {
    let error = DecodeError {
        reason: ReasonCode::UnsupportedProtocolVersion,
        packet: Some(PacketType::Connect),
        rule: "a test",
        what: "a test",
        answer_in: Some(ProtocolVersion::V3_1_1),
    };
    let mut driver = Driver::connected(ProtocolVersion::V5);
    driver.connection.handle_decode_error(error, driver.now());
    assert_closed_with(&driver.drain(), ReasonCode::ProtocolError);
}

/// Section 4.11: Server Redirection.
#[test]
fn a_client_that_is_sent_away_is_told_where_to() {
    let elsewhere = Text::from_static("mqtt.example.com:1883");
    let limits = Limits {
        server_reference: Some(elsewhere.clone()),
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits.clone(), connect(ProtocolVersion::V5));
    let now = driver.now();
    driver.connection.handle_close(Eviction::ShuttingDown, now);
    let outputs = driver.drain();
    let Some(Output::Send(Packet::Disconnect(disconnect))) = outputs.first() else {
        panic!("{outputs:?}")
    };
    assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
    let properties = disconnect.properties.as_ref().unwrap();
    assert_eq!(properties.server_reference, Some(elsewhere.clone()));

    // Not let in yet.
    let mut driver = Driver::new(limits.clone());
    let connect_packet = connect(ProtocolVersion::V5);
    driver.packet(Packet::Connect(Box::new(connect_packet)));
    driver.connection.handle_close(Eviction::ShuttingDown, now);
    let outputs = driver.drain();
    let connack = connack(&outputs);
    assert_eq!(connack.reason, ReasonCode::UseAnotherServer);
    let properties = connack.properties.as_ref().unwrap();
    assert_eq!(properties.server_reference, Some(elsewhere));

    // [MQTT-3.1.2-24]: without room for it, both leave it out.
    let asked = |bytes| {
        connect_v5(ConnectProperties {
            maximum_packet_size: std::num::NonZeroU32::new(bytes),
            ..ConnectProperties::default()
        })
    };
    let cases = [(29, true, true), (28, true, false), (27, false, false)];
    for (bytes, in_disconnect, in_connack) in cases {
        let mut driver = Driver::connected_with(limits.clone(), asked(bytes));
        driver.connection.handle_close(Eviction::ShuttingDown, now);
        let outputs = driver.drain();
        let Some(Output::Send(Packet::Disconnect(disconnect))) = outputs.first() else {
            panic!("{outputs:?}")
        };
        assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
        assert_eq!(disconnect.properties.is_some(), in_disconnect, "{bytes}");

        let mut driver = Driver::new(limits.clone());
        driver.packet(Packet::Connect(Box::new(asked(bytes))));
        driver.connection.handle_close(Eviction::ShuttingDown, now);
        let outputs = driver.drain();
        let refused = self::connack(&outputs);
        assert_eq!(refused.reason, ReasonCode::UseAnotherServer);
        assert_eq!(refused.properties.is_some(), in_connack, "{bytes}");
    }

    // Any other end says nothing of it.
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    driver.connection.handle_close(Eviction::Kicked, now);
    assert_closed_with(&driver.drain(), ReasonCode::AdministrativeAction);
}
