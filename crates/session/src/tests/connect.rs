//! CONNECT and CONNACK.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};
use magpie_codec::{
    ConnAckProperties, Connect, ConnectProperties, DecodeError, Packet, PacketType,
    ProtocolVersion, QoS, ReasonCode, Text, TopicName, Will,
};

use super::{Driver, connack, connack_properties, connect, connect_v5, publish, ticket_of};
use crate::{Answer, Attach, CloseCause, Eviction, Limits, Note, Output};

const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V3_1,
    ProtocolVersion::V3_1_1,
    ProtocolVersion::V5,
];

fn feed(driver: &mut Driver, connect: Connect) -> Vec<Output> {
    driver.packet(Packet::Connect(Box::new(connect)))
}

/// CONNECT and both answers; gives CONNACK and what follows.
fn let_in(limits: Limits, connect: Connect) -> (Driver, Vec<Output>) {
    let mut driver = Driver::new(limits);
    let ticket = ticket_of(&feed(&mut driver, connect));
    let ticket = ticket_of(&driver.answer(ticket, Answer::Authenticated(Ok(None))));
    let outputs = driver.answer(
        ticket,
        Answer::Attached {
            epoch: 7,
            session: None,
        },
    );
    (driver, outputs)
}

/// The reason in CONNACK of a CONNECT that is refused before the node is asked.
#[track_caller]
fn refusal(limits: Limits, connect: Connect) -> ReasonCode {
    let mut driver = Driver::new(limits);
    let outputs = feed(&mut driver, connect);
    let [
        Output::Send(Packet::ConnAck(connack)),
        Output::Close { cause, .. },
    ] = &outputs[..]
    else {
        panic!("{outputs:?}");
    };
    assert_eq!(*cause, CloseCause::Refused(connack.reason));
    assert!(!connack.session_present);
    connack.reason
}

fn will(retain: bool) -> Box<Will> {
    Box::new(Will {
        topic: TopicName::from_static("will"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain,
        delay_interval_s: 0,
        properties: None,
    })
}

/// [MQTT-3.1.4-5], [MQTT-3.2.0-1], [MQTT-3.2.0-2], [MQTT-3.1.4-4 v3.1.1], [MQTT-3.2.0-1 v3.1.1],
/// [MQTT-3.2.2-1 v3.1.1]
#[test]
fn the_node_is_asked_twice_before_connack() {
    for version in VERSIONS {
        let mut driver = Driver::new(Limits::default());
        let outputs = feed(
            &mut driver,
            Connect {
                username: Some(Text::from_static("me")),
                ..connect(version)
            },
        );
        let [
            Output::Authenticate {
                ticket,
                credentials,
            },
        ] = &outputs[..]
        else {
            panic!("{outputs:?}")
        };
        assert_eq!(credentials.username, Some(Text::from_static("me")));
        assert_eq!(driver.connection.version(), version);
        assert!(!driver.connection.wants_packets());

        let outputs = driver.answer(*ticket, Answer::Authenticated(Ok(None)));
        let [Output::Attach { ticket, attach }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        let client_id = Text::from_static("client");
        let expected = Attach {
            client_id,
            assigned: false,
            clean_start: true,
            session_expiry_s: 0,
            will: None,
        };
        assert_eq!(**attach, expected);
        assert!(!driver.connection.wants_packets());

        let outputs = driver.answer(
            *ticket,
            Answer::Attached {
                epoch: 7,
                session: None,
            },
        );
        assert_eq!(connack(&outputs).reason, ReasonCode::Success);
        assert!(!connack(&outputs).session_present);
        assert_eq!(
            connack(&outputs).properties.is_some(),
            version == ProtocolVersion::V5
        );
        assert!(driver.connection.wants_packets());
        assert!(driver.connection.can_accept(QoS::ExactlyOnce));
        assert_eq!(driver.connection.epoch(), Some(7));
    }
}

/// [MQTT-3.1.2-28], [MQTT-4.12.0-6]
#[test]
fn connack_tells_what_is_granted() {
    let asked = ConnectProperties {
        session_expiry_interval_s: 3600,
        ..ConnectProperties::default()
    };
    let (_, outputs) = let_in(Limits::default(), connect_v5(asked));
    let expected = ConnAckProperties {
        session_expiry_interval_s: Some(0),
        receive_maximum: std::num::NonZeroU16::new(256),
        retain_available: false,
        maximum_packet_size: NonZeroU32::new(1024 * 1024),
        topic_alias_maximum: 32,
        ..ConnAckProperties::default()
    };
    assert_eq!(*connack_properties(&outputs), expected);
}

/// Section 3.2.2.3.2, [MQTT-3.1.2-4 v3.1.1], [MQTT-3.1.2-6 v3.1.1] and [MQTT-3.1.2-7]
#[test]
fn the_session_is_kept_as_long_as_the_limit_allows() {
    let asking = |session_expiry_interval_s| Connect {
        clean_start: false,
        will: Some(will(true)),
        ..connect_v5(ConnectProperties {
            session_expiry_interval_s,
            ..ConnectProperties::default()
        })
    };
    let lasting = Connect {
        clean_start: false,
        will: Some(will(true)),
        ..connect(ProtocolVersion::V3_1_1)
    };
    let clean = Connect {
        clean_start: true,
        ..lasting.clone()
    };
    let cases = [
        (100, asking(0), 0, None),
        (100, asking(99), 99, None),
        (100, asking(101), 100, Some(100)),
        (100, asking(u32::MAX), 100, Some(100)),
        (u32::MAX, asking(u32::MAX), u32::MAX, None),
        (100, lasting.clone(), 100, None),
        (u32::MAX, lasting, u32::MAX, None),
        (100, clean, 0, None),
    ];
    for (session_expiry_s_max, connect, granted, told) in cases {
        let limits = Limits {
            session_expiry_s_max,
            retain_available: true,
            ..Limits::default()
        };
        let version = connect.version;
        let mut driver = Driver::new(limits);
        let ticket = ticket_of(&feed(&mut driver, connect));
        let outputs = driver.answer(ticket, Answer::Authenticated(Ok(None)));
        let [Output::Attach { ticket, attach }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(attach.session_expiry_s, granted);
        assert_eq!(attach.will, Some(will(true)));
        let attached = Answer::Attached {
            epoch: 7,
            session: None,
        };
        let outputs = driver.answer(*ticket, attached);
        if version == ProtocolVersion::V5 {
            assert_eq!(connack_properties(&outputs).session_expiry_interval_s, told);
        }
        assert_eq!(driver.connection.session().unwrap().expiry_s(), granted);
    }
}

/// [MQTT-3.1.3-6] and [MQTT-3.1.3-7]
/// [MQTT-3.2.2-16]
#[test]
fn an_empty_client_id_gets_one_assigned() {
    for clean_start in [true, false] {
        let anonymous = Connect {
            client_id: Text::default(),
            clean_start,
            ..connect(ProtocolVersion::V5)
        };
        let (driver, outputs) = let_in(Limits::default(), anonymous);
        let assigned = connack_properties(&outputs)
            .assigned_client_identifier
            .as_ref()
            .unwrap();
        assert_eq!(*assigned, "magpie-00000000000000000000000000000abc");
        assert_eq!(driver.connection.client_id(), Some(assigned));
    }
}

/// [MQTT-3.1.3-7 v3.1.1] and [MQTT-3.1.3-8 v3.1.1]
/// [MQTT-3.1.3-6 v3.1.1]
#[test]
fn before_version_5_an_empty_client_id_needs_a_clean_session() {
    let anonymous = |version, clean_start| Connect {
        client_id: Text::default(),
        clean_start,
        ..connect(version)
    };
    let (_, outputs) = let_in(Limits::default(), anonymous(ProtocolVersion::V3_1_1, true));
    assert_eq!(connack(&outputs).reason, ReasonCode::Success);
    let reason = refusal(Limits::default(), anonymous(ProtocolVersion::V3_1_1, false));
    assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
    let reason = refusal(Limits::default(), anonymous(ProtocolVersion::V3_1, true));
    assert_eq!(reason, ReasonCode::ClientIdentifierNotValid);
}

/// [MQTT-3.1.3-8], [MQTT-3.1.3-9 v3.1.1]
#[test]
fn a_client_id_of_3_1_may_be_longer_than_23_but_not_than_the_limit() {
    let named = |length| Connect {
        client_id: Text::try_from("x".repeat(length)).unwrap(),
        ..connect(ProtocolVersion::V3_1)
    };
    let (_, outputs) = let_in(Limits::default(), named(1024));
    assert_eq!(connack(&outputs).reason, ReasonCode::Success);
    assert_eq!(
        refusal(Limits::default(), named(1025)),
        ReasonCode::ClientIdentifierNotValid
    );
}

/// [MQTT-3.2.2-12] and [MQTT-3.2.2-13]
#[test]
fn a_will_that_is_not_offered_is_refused() {
    let with_will = |version, retain| Connect {
        will: Some(will(retain)),
        ..connect(version)
    };
    assert_eq!(
        refusal(Limits::default(), with_will(ProtocolVersion::V5, true)),
        ReasonCode::RetainNotSupported
    );
    let limits = Limits {
        qos_max: QoS::AtMostOnce,
        ..Limits::default()
    };
    assert_eq!(
        refusal(limits, with_will(ProtocolVersion::V5, false)),
        ReasonCode::QoSNotSupported
    );

    // Version 3.1.1 could not know.
    let mut driver = Driver::new(Limits::default());
    let outputs = feed(&mut driver, with_will(ProtocolVersion::V3_1_1, true));
    assert_eq!(outputs[0], Output::Note(Note::WillRetainIgnored));
    assert!(matches!(outputs[1], Output::Authenticate { .. }));
}

/// [MQTT-3.1.0-1], [MQTT-3.14.0-1] and [MQTT-3.1.0-1 v3.1.1]
#[test]
fn the_first_packet_must_be_connect() {
    for packet in [publish(QoS::AtMostOnce, 0), Packet::PingReq] {
        let mut driver = Driver::new(Limits::default());
        let outputs = driver.packet(packet);
        assert!(matches!(
            super::assert_closed_silently(&outputs),
            CloseCause::Violation { .. }
        ));
    }
}

/// [MQTT-3.1.0-2]
/// [MQTT-3.1.0-2 v3.1.1]
#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let outputs = feed(&mut driver, connect(ProtocolVersion::V5));
    super::assert_closed_with(&outputs, ReasonCode::ProtocolError);
    let mut driver = Driver::connected(ProtocolVersion::V3_1_1);
    let outputs = feed(&mut driver, connect(ProtocolVersion::V3_1_1));
    super::assert_closed_silently(&outputs);
}

/// [MQTT-3.1.4-2], [MQTT-3.2.2-7], [MQTT-3.2.2-5 v3.1.1]
#[test]
fn a_refusal_of_the_node_goes_into_connack() {
    let mut driver = Driver::new(Limits::default());
    let ticket = ticket_of(&feed(&mut driver, connect(ProtocolVersion::V5)));
    let outputs = driver.answer(
        ticket,
        Answer::Authenticated(Err(ReasonCode::BadUserNameOrPassword)),
    );
    assert_eq!(connack(&outputs).reason, ReasonCode::BadUserNameOrPassword);
    assert_eq!(
        driver.connection.close_cause(),
        Some(CloseCause::Refused(ReasonCode::BadUserNameOrPassword))
    );

    let mut driver = Driver::new(Limits::default());
    let ticket = ticket_of(&feed(&mut driver, connect(ProtocolVersion::V5)));
    let ticket = ticket_of(&driver.answer(ticket, Answer::Authenticated(Ok(None))));
    let outputs = driver.answer(ticket, Answer::AttachRefused(ReasonCode::ServerUnavailable));
    assert_eq!(connack(&outputs).reason, ReasonCode::ServerUnavailable);
    assert!(matches!(
        outputs[1],
        Output::Close {
            will_discarded: false,
            ..
        }
    ));
    // A late answer changes nothing.
    assert_eq!(
        driver.answer(
            ticket,
            Answer::Attached {
                epoch: 7,
                session: None
            }
        ),
        []
    );
}

/// [MQTT-3.14.0-1]
#[test]
fn an_eviction_before_connack_refuses() {
    let mut driver = Driver::new(Limits::default());
    feed(&mut driver, connect(ProtocolVersion::V5));
    driver
        .connection
        .handle_close(Eviction::ShuttingDown, driver.now());
    assert_eq!(
        connack(&driver.drain()).reason,
        ReasonCode::ServerUnavailable
    );

    let mut driver = Driver::new(Limits::default());
    driver
        .connection
        .handle_close(Eviction::ShuttingDown, driver.now());
    super::assert_closed_silently(&driver.drain());
}

/// [MQTT-3.1.2-2], [MQTT-3.1.4-1], [MQTT-3.1.2-2 v3.1.1], [MQTT-3.1.4-1 v3.1.1], [MQTT-3.2.2-6 v3.1.1]
#[test]
fn a_connect_that_cannot_be_read_is_answered_if_the_version_can() {
    let error = |reason, answer_in| DecodeError {
        reason,
        packet: Some(PacketType::Connect),
        rule: "a test",
        what: "a test",
        answer_in,
    };
    let refuse = |error| {
        let mut driver = Driver::new(Limits::default());
        driver.connection.handle_decode_error(error, driver.now());
        driver.drain()
    };
    let v3 = Some(ProtocolVersion::V3_1_1);
    let v5 = Some(ProtocolVersion::V5);
    let outputs = refuse(error(ReasonCode::UnsupportedProtocolVersion, v3));
    assert_eq!(
        connack(&outputs).reason,
        ReasonCode::UnsupportedProtocolVersion
    );
    let outputs = refuse(error(ReasonCode::MalformedPacket, v5));
    assert_eq!(connack(&outputs).reason, ReasonCode::MalformedPacket);
    assert!(matches!(outputs[1], Output::Close { .. }));
    super::assert_closed_silently(&refuse(error(ReasonCode::MalformedPacket, v3)));
    super::assert_closed_silently(&refuse(error(ReasonCode::MalformedPacket, None)));
}

#[test]
fn credentials_do_not_show_the_password() {
    let mut driver = Driver::new(Limits::default());
    let secret = Some(Bytes::from_static(b"hunter2"));
    let outputs = feed(
        &mut driver,
        Connect {
            password: secret,
            ..connect(ProtocolVersion::V5)
        },
    );
    let shown = format!("{outputs:?}");
    assert!(
        shown.contains("has_password: true")
            && !shown.contains("hunter2")
            && !shown.contains("104, 117")
    );
}

/// [MQTT-3.1.3-5], [MQTT-3.1.3-5 v3.1.1]
#[test]
fn ids_of_letters_and_digits_are_taken() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for version in VERSIONS {
        for client_id in ["0", &letters[..23], &letters[23..46], &letters[39..]] {
            let named = Connect {
                client_id: Text::try_from(client_id).unwrap(),
                ..connect(version)
            };
            let (driver, outputs) = let_in(Limits::default(), named);
            assert_eq!(connack(&outputs).reason, ReasonCode::Success);
            assert_eq!(driver.connection.client_id().unwrap(), client_id);
        }
    }
}

/// [MQTT-3.2.2-9]
#[test]
fn a_lower_maximum_qos_is_told() {
    for qos_max in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let limits = Limits {
            qos_max,
            ..Limits::default()
        };
        let (_, outputs) = let_in(limits, connect(ProtocolVersion::V5));
        assert_eq!(connack_properties(&outputs).maximum_qos, qos_max);
    }
}

/// [MQTT-3.1.4-6], [MQTT-3.1.4-5 v3.1.1]
#[test]
fn after_a_refusal_nothing_is_processed() {
    for version in VERSIONS {
        let mut driver = Driver::new(Limits::default());
        let ticket = ticket_of(&feed(&mut driver, connect(version)));
        // Sent behind CONNECT, it waits in the socket.
        assert!(!driver.connection.wants_packets());
        let refused = Answer::Authenticated(Err(ReasonCode::NotAuthorized));
        assert_eq!(driver.answer(ticket, refused).len(), 2);
        assert!(!driver.connection.wants_packets());
        for packet in [publish(QoS::AtLeastOnce, 1), Packet::PingReq] {
            assert_eq!(driver.packet(packet), []);
        }
    }
}

/// [MQTT-3.2.2-8]
#[test]
fn a_refusal_says_what_connack_can_say() {
    for (answered, said) in [
        (ReasonCode::Banned, ReasonCode::Banned),
        (ReasonCode::SessionTakenOver, ReasonCode::UnspecifiedError),
    ] {
        let mut driver = Driver::new(Limits::default());
        let ticket = ticket_of(&feed(&mut driver, connect(ProtocolVersion::V5)));
        let outputs = driver.answer(ticket, Answer::Authenticated(Err(answered)));
        assert_eq!(connack(&outputs).reason, said);
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.1.4-5]: who does not take its CONNACK is refused by a smaller one.
#[test]
fn a_client_that_takes_no_packet_as_large_as_its_connack_is_refused() {
    let asking = |bytes_max: usize, client_id| Connect {
        client_id: Text::from_static(client_id),
        ..connect_v5(ConnectProperties {
            maximum_packet_size: NonZeroU32::new(u32::try_from(bytes_max).unwrap()),
            ..ConnectProperties::default()
        })
    };
    for client_id in ["client", ""] {
        let (_, outputs) = let_in(Limits::default(), asking(1000, client_id));
        let connack = Packet::ConnAck(connack(&outputs).clone());
        let mut bytes = BytesMut::new();
        magpie_codec::encode(ProtocolVersion::V5, &connack, None, &mut bytes).unwrap();
        let_in(Limits::default(), asking(bytes.len(), client_id));
        assert_eq!(
            refusal(Limits::default(), asking(bytes.len() - 1, client_id)),
            ReasonCode::ImplementationSpecificError
        );
    }
}

/// [MQTT-3.1.2-28]
#[test]
fn response_information_is_for_who_asks_and_cannot_reach_further() {
    let limits = Limits {
        response_information: Some(Text::from_static("reply/%c/")),
        ..Limits::default()
    };
    let told = |client_id: &'static str, asks: bool, packet_bytes_max: Option<u32>| {
        let connect = Connect {
            client_id: Text::from_static(client_id),
            ..connect_v5(ConnectProperties {
                request_response_information: asks,
                maximum_packet_size: packet_bytes_max.and_then(NonZeroU32::new),
                ..ConnectProperties::default()
            })
        };
        let (_, outputs) = let_in(limits.clone(), connect);
        connack_properties(&outputs).response_information.clone()
    };
    assert_eq!(
        told("phone", true, None),
        Some(Text::from_static("reply/phone/"))
    );
    assert_eq!(told("phone", false, None), None);
    assert_eq!(told("phone/#", true, None), None);
    assert_eq!(told("phone/other", true, None), None);
    // [MQTT-3.1.2-24]: told exactly if there is room, and let in without.
    let least = (20..200).find(|max| told("phone", true, Some(*max)).is_some());
    let connack = |asks| {
        let connect = connect_v5(ConnectProperties {
            request_response_information: asks,
            ..ConnectProperties::default()
        });
        let client_id = Text::from_static("phone");
        let (_, outputs) = let_in(
            limits.clone(),
            Connect {
                client_id,
                ..connect
            },
        );
        let connack = Packet::ConnAck(connack(&outputs).clone());
        let mut bytes = BytesMut::new();
        magpie_codec::encode(ProtocolVersion::V5, &connack, None, &mut bytes).unwrap();
        u32::try_from(bytes.len()).unwrap()
    };
    assert_eq!(least, Some(connack(true)));
    assert_eq!(told("phone", true, Some(connack(false))), None);
}
