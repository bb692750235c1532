//! Messages from the client.

use std::num::NonZeroU16;
use std::sync::Arc;

use magpie_codec::{
    MessageProperties, Packet, PayloadFormat, ProtocolVersion, Publish, QoS, ReasonCode, TopicName,
};

use super::{
    Driver, ack, ack_with, assert_closed_silently, assert_closed_with, connect, id, message,
    publish, publish_of, published, sent, ticket_of,
};
use crate::{Answer, CloseCause, Limits, Note, Output};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

/// [MQTT-3.3.4-1], [MQTT-3.3.4-1 v3.1.1]
#[test]
fn qos_0_asks_for_no_answer() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let message = Arc::new(message());
        let expected = Output::Publish {
            ticket: None,
            qos: QOS0,
            retain: false,
            packet_id: None,
            message,
        };
        assert_eq!(driver.publish(QOS0, 0), [expected]);
    }
}

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.2-4], [MQTT-2.3.1-6 v3.1.1], [MQTT-3.3.4-1 v3.1.1], [MQTT-4.3.2-2 v3.1.1]
#[test]
fn qos_1_is_acknowledged_after_the_answer() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let outputs = driver.publish(QOS1, 5);
        assert!(matches!(
            outputs[..],
            [Output::Publish {
                packet_id: None,
                ..
            }]
        ));
        let ticket = ticket_of(&outputs);
        assert_eq!(
            driver.answer(ticket, published()),
            sent([Packet::PubAck(ack(5))])
        );
        // A repeated answer changes nothing.
        assert_eq!(driver.answer(ticket, published()), []);
    }
}

/// [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.3-8], [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12], [MQTT-2.3.1-6 v3.1.1],
/// [MQTT-4.3.3-2 v3.1.1]
#[test]
fn qos_2_is_passed_on_once_until_it_is_released() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let outputs = driver.publish(QOS2, 5);
        assert!(
            matches!(outputs[..], [Output::Publish { packet_id: Some(used), .. }] if used == id(5))
        );
        let ticket = ticket_of(&outputs);
        // Repeated while the first is under way, and after it.
        assert_eq!(driver.publish(QOS2, 5), []);
        assert_eq!(
            driver.answer(ticket, published()),
            sent([Packet::PubRec(ack(5))])
        );
        assert_eq!(driver.publish(QOS2, 5), sent([Packet::PubRec(ack(5))]));
        assert_eq!(
            driver.packet(Packet::PubRel(ack(5))),
            sent([Packet::PubComp(ack(5))])
        );
        // The id stands for a new message now.
        ticket_of(&driver.publish(QOS2, 5));
    }
}

#[test]
fn an_unknown_pubrel_is_completed_with_a_reason() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let expected = ack_with(9, ReasonCode::PacketIdentifierNotFound);
    let outputs = driver.packet(Packet::PubRel(ack(9)));
    assert_eq!(
        outputs,
        [
            Output::Note(Note::UnknownPacketId),
            Output::Send(Packet::PubComp(expected))
        ]
    );
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.6.0-2 v3.1.1] and [MQTT-4.6.0-3 v3.1.1]
#[test]
fn acknowledgements_keep_the_order_of_the_publishes() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let first = ticket_of(&driver.publish(QOS1, 1));
        let second = ticket_of(&driver.publish(QOS2, 2));
        let third = ticket_of(&driver.publish(QOS1, 3));
        assert_eq!(driver.answer(third, published()), []);
        assert_eq!(driver.answer(second, published()), []);
        let acks = [
            Packet::PubAck(ack(1)),
            Packet::PubRec(ack(2)),
            Packet::PubAck(ack(3)),
        ];
        assert_eq!(driver.answer(first, published()), sent(acks));
    }
}

/// [MQTT-4.3.3-9]
#[test]
fn an_error_is_told_in_version_5_and_frees_the_id() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    for _ in 0..1000 {
        for qos in [QOS1, QOS2] {
            let ticket = ticket_of(&driver.publish(qos, 5));
            let outputs = driver.answer(ticket, Answer::Published(Err(ReasonCode::NotAuthorized)));
            let nack = ack_with(5, ReasonCode::NotAuthorized);
            let expected = if qos == QOS1 {
                Packet::PubAck(nack)
            } else {
                Packet::PubRec(nack)
            };
            assert_eq!(outputs, sent([expected]));
        }
    }
}

/// [MQTT-3.3.5-2 v3.1.1]: no acknowledgement that would be taken for a success.
#[test]
fn an_error_closes_an_older_connection() {
    for qos in [QOS1, QOS2] {
        let mut driver = Driver::connected(ProtocolVersion::V3_1_1);
        let ticket = ticket_of(&driver.publish(qos, 5));
        let outputs = driver.answer(ticket, Answer::Published(Err(ReasonCode::QuotaExceeded)));
        let cause = assert_closed_silently(&outputs);
        assert_eq!(cause, CloseCause::PublishRefused(ReasonCode::QuotaExceeded));
    }
}

#[test]
fn an_unknown_outcome_closes_without_acknowledgement() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let ticket = ticket_of(&driver.publish(QOS1, 5));
    let outputs = driver.answer(ticket, Answer::PublishUnknown);
    assert_closed_with(&outputs, ReasonCode::ServerBusy);
    assert_eq!(outputs.len(), 2);
}

#[test]
fn a_code_below_0x80_is_passed_on() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let ticket = ticket_of(&driver.publish(QOS1, 5));
    let outputs = driver.answer(
        ticket,
        Answer::Published(Ok(ReasonCode::NoMatchingSubscribers)),
    );
    assert_eq!(
        outputs,
        sent([Packet::PubAck(ack_with(
            5,
            ReasonCode::NoMatchingSubscribers
        ))])
    );
}

/// [MQTT-3.3.4-7]
#[test]
fn a_version_5_client_must_keep_our_receive_maximum() {
    let limits = Limits {
        receive_maximum: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let first = ticket_of(&driver.publish(QOS1, 1));
    let second = ticket_of(&driver.publish(QOS2, 2));
    // It may still ping, and send QoS 0.
    assert!(driver.connection.wants_packets());
    assert_eq!(driver.packet(Packet::PingReq), sent([Packet::PingResp]));
    assert_eq!(driver.publish(QOS0, 0).len(), 1);

    driver.answer(first, published());
    ticket_of(&driver.publish(QOS1, 3));
    // QoS 2 keeps its place until PUBCOMP.
    driver.answer(second, published());
    let outputs = driver.publish(QOS1, 4);
    assert_closed_with(&outputs, ReasonCode::ReceiveMaximumExceeded);
}

#[test]
fn pubcomp_gives_the_place_back() {
    let limits = Limits {
        receive_maximum: 1,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    for packet_id in 1..100 {
        let ticket = ticket_of(&driver.publish(QOS2, packet_id));
        driver.answer(ticket, published());
        driver.packet(Packet::PubRel(ack(packet_id)));
    }
    assert!(driver.connection.is_connected());
}

#[test]
fn an_older_client_is_held_back_at_the_receive_maximum() {
    let limits = Limits {
        receive_maximum: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V3_1_1));
    let first = ticket_of(&driver.publish(QOS1, 1));
    assert!(driver.connection.wants_packets());
    driver.publish(QOS1, 2);
    assert!(!driver.connection.wants_packets());
    driver.answer(first, published());
    assert!(driver.connection.wants_packets());
    driver.publish(QOS1, 3);
    // A driver that does not ask ends the connection instead of filling memory.
    assert_closed_silently(&driver.publish(QOS1, 4));
}

/// [MQTT-3.2.2-14]
#[test]
fn retain_that_is_not_available_is_refused_or_ignored() {
    let retained = |qos| {
        Packet::Publish(Publish {
            retain: true,
            ..publish_of(qos, 1)
        })
    };
    let mut driver = Driver::connected(ProtocolVersion::V5);
    assert_closed_with(
        &driver.packet(retained(QOS0)),
        ReasonCode::RetainNotSupported,
    );

    let mut driver = Driver::connected(ProtocolVersion::V3_1_1);
    let outputs = driver.packet(retained(QOS1));
    assert!(matches!(
        outputs[..],
        [
            Output::Note(Note::RetainIgnored),
            Output::Publish { retain: false, .. }
        ]
    ));

    let limits = Limits {
        retain_available: true,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    assert!(matches!(
        driver.packet(retained(QOS1))[..],
        [Output::Publish { retain: true, .. }]
    ));
}

/// [MQTT-3.2.2-11]
#[test]
fn qos_above_the_maximum_is_a_violation() {
    let limits = Limits {
        qos_max: QOS1,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    assert_eq!(driver.publish(QOS1, 1).len(), 1);
    assert_closed_with(&driver.publish(QOS2, 2), ReasonCode::QoSNotSupported);
}

/// [MQTT-3.3.4-6]
#[test]
fn a_subscription_identifier_from_a_client_is_a_violation() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let publish = Publish {
        subscription_ids: [3].into_iter().collect(),
        ..publish_of(QOS0, 0)
    };
    assert_closed_with(
        &driver.packet(Packet::Publish(publish)),
        ReasonCode::ProtocolError,
    );
}

/// [MQTT-3.3.2-7], [MQTT-3.3.2-9], [MQTT-3.3.2-12], [MQTT-3.2.2-17]
#[test]
fn topic_aliases_stand_for_their_topics() {
    let aliased = |topic: Option<&'static str>, alias| {
        let topic = topic.map(TopicName::from_static);
        Packet::Publish(Publish {
            topic,
            topic_alias: NonZeroU16::new(alias),
            ..publish_of(QOS0, 0)
        })
    };
    let mut driver = Driver::connected(ProtocolVersion::V5);
    for packet in [aliased(Some("a/b"), 32), aliased(None, 32)] {
        let outputs = driver.packet(packet);
        assert!(
            matches!(&outputs[..], [Output::Publish { message, .. }] if message.topic.as_str() == "a/b")
        );
    }
    assert_closed_with(
        &driver.packet(aliased(Some("a/b"), 33)),
        ReasonCode::TopicAliasInvalid,
    );
    let mut driver = Driver::connected(ProtocolVersion::V5);
    assert_closed_with(&driver.packet(aliased(None, 1)), ReasonCode::ProtocolError);
}

#[test]
fn a_topic_may_not_be_deeper_than_the_limit() {
    let limits = Limits {
        topic_levels_max: 3,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let deep = |topic| {
        Packet::Publish(Publish {
            topic: Some(TopicName::from_static(topic)),
            ..publish_of(QOS0, 0)
        })
    };
    assert_eq!(driver.packet(deep("a/b/c")).len(), 1);
    assert_closed_with(&driver.packet(deep("a/b/c/")), ReasonCode::TopicNameInvalid);
}

#[test]
fn a_session_that_lasts_asks_the_node_to_release() {
    let limits = Limits {
        session_expiry_s_max: 60,
        ..Limits::default()
    };
    let mut connect = connect(ProtocolVersion::V3_1_1);
    connect.clean_start = false;
    let mut driver = Driver::connected_with(limits, connect);
    let ticket = ticket_of(&driver.publish(QOS2, 5));
    driver.answer(ticket, published());
    let outputs = driver.packet(Packet::PubRel(ack(5)));
    assert!(matches!(outputs[..], [Output::Release { packet_id, .. }] if packet_id == id(5)));
    let ticket = ticket_of(&outputs);
    // The client repeats itself meanwhile.
    assert_eq!(driver.packet(Packet::PubRel(ack(5))), []);
    assert_eq!(
        driver.packet(publish(QOS2, 5)),
        sent([Packet::PubRec(ack(5))])
    );
    assert_eq!(
        driver.answer(ticket, Answer::Released),
        sent([Packet::PubComp(ack(5))])
    );
    assert_eq!(driver.answer(ticket, Answer::Released), []);
}

/// [MQTT-4.3.2-5], [MQTT-4.3.2-2 v3.1.1]
#[test]
fn after_puback_the_id_is_that_of_a_new_message() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        for dup in [false, true, true] {
            let repeated = Packet::Publish(Publish {
                dup,
                ..publish_of(QOS1, 5)
            });
            let ticket = ticket_of(&driver.packet(repeated));
            let acknowledged = sent([Packet::PubAck(ack(5))]);
            assert_eq!(driver.answer(ticket, published()), acknowledged);
        }
    }
}

/// [MQTT-4.3.3-13]
#[test]
fn an_expired_message_is_acknowledged_to_the_end() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let properties = MessageProperties {
        expiry_interval_s: Some(1),
        ..MessageProperties::default()
    };
    let expiring = Packet::Publish(Publish {
        properties: Some(Box::new(properties)),
        ..publish_of(QOS2, 5)
    });
    let ticket = ticket_of(&driver.packet(expiring));
    assert_eq!(driver.sleep(5_000), []);
    assert_eq!(
        driver.answer(ticket, published()),
        sent([Packet::PubRec(ack(5))])
    );
    assert_eq!(
        driver.packet(Packet::PubRel(ack(5))),
        sent([Packet::PubComp(ack(5))])
    );
}

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1]
#[test]
fn an_acknowledgement_says_what_it_can_say() {
    for (answered, said) in [
        (Err(ReasonCode::NotAuthorized), ReasonCode::NotAuthorized),
        (Err(ReasonCode::ServerBusy), ReasonCode::UnspecifiedError),
        (Ok(ReasonCode::GrantedQoS2), ReasonCode::Success),
    ] {
        let mut driver = Driver::connected(ProtocolVersion::V5);
        let ticket = ticket_of(&driver.publish(QOS1, 5));
        let outputs = driver.answer(ticket, Answer::Published(answered));
        assert_eq!(outputs, sent([Packet::PubAck(ack_with(5, said))]));
        let ticket = ticket_of(&driver.publish(QOS2, 6));
        let outputs = driver.answer(ticket, Answer::Published(answered));
        assert_eq!(outputs, sent([Packet::PubRec(ack_with(6, said))]));
    }
}

fn claims_utf8(qos: QoS, payload: &'static [u8]) -> Packet {
    let properties = MessageProperties {
        payload_format: Some(PayloadFormat::Utf8),
        ..MessageProperties::default()
    };
    Packet::Publish(Publish {
        payload: payload.into(),
        properties: Some(Box::new(properties)),
        ..publish_of(qos, 5)
    })
}

/// [MQTT-3.3.2-4] leaves the check to who wants it.
#[test]
fn a_payload_that_is_not_what_it_claims_is_refused_where_that_is_checked() {
    let limits = Limits {
        payload_format_checked: true,
        ..Limits::default()
    };
    let connected = || Driver::connected_with(limits.clone(), connect(ProtocolVersion::V5));
    let invalid = ReasonCode::PayloadFormatInvalid;
    let mut driver = connected();
    let outputs = driver.packet(claims_utf8(QOS1, b"\xff"));
    assert_eq!(outputs, sent([Packet::PubAck(ack_with(5, invalid))]));
    let outputs = driver.packet(claims_utf8(QOS2, b"\xff"));
    assert_eq!(outputs, sent([Packet::PubRec(ack_with(5, invalid))]));
    // The id stands for nothing, and what is right is taken.
    let outputs = driver.packet(claims_utf8(QOS2, "ä".as_bytes()));
    assert!(matches!(outputs[..], [Output::Publish { .. }]));
    assert_closed_with(&connected().packet(claims_utf8(QOS0, b"\xff")), invalid);

    let mut unchecked = Driver::connected(ProtocolVersion::V5);
    let outputs = unchecked.packet(claims_utf8(QOS1, b"\xff"));
    assert!(matches!(outputs[..], [Output::Publish { .. }]));
}
