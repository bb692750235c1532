//! Messages to the client.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magpie_codec::{
    ConnectProperties, Message, Packet, ProtocolVersion, Publish, PublishHeader, QoS, ReasonCode,
    SubscriptionOptions, TopicName, publish_bytes,
};

use super::{
    Driver, ack, ack_with, assert_closed_with, connect, connect_v5, delivered_ids, delivery,
    message, publish_of, published, sent, ticket_of, token,
};
use crate::{Answer, Delivery, Limits, Note, Outcome, Output};

const QOS0: QoS = QoS::AtMostOnce;
const QOS1: QoS = QoS::AtLeastOnce;
const QOS2: QoS = QoS::ExactlyOnce;

fn done(position: u64) -> Output {
    Output::Delivered {
        token: token(position),
        outcome: Outcome::Acknowledged,
    }
}

/// [MQTT-4.3.1-1], [MQTT-4.3.1-1 v3.1.1]
#[test]
fn qos_0_is_sent_and_forgotten() {
    let mut driver = Driver::connected(ProtocolVersion::V3_1_1);
    let outputs = driver.deliver(QOS0, 1);
    assert!(
        matches!(&outputs[..], [Output::Deliver { header, .. }] if header.packet_id.is_none() && !header.dup)
    );
    assert_eq!(driver.connection.session().unwrap().inflight_len(), 0);
}

/// [MQTT-4.3.2-1], [MQTT-4.3.2-2], [MQTT-4.3.2-3], [MQTT-4.3.2-1 v3.1.1], [MQTT-2.3.1-4 v3.1.1]
#[test]
fn qos_1_is_done_with_puback() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        assert_eq!(delivered_ids(&driver.deliver(QOS1, 77)), [1]);
        assert_eq!(delivered_ids(&driver.deliver(QOS1, 78)), [2]);
        assert_eq!(driver.packet(Packet::PubAck(ack(2))), [done(78)]);
        assert_eq!(driver.packet(Packet::PubAck(ack(1))), [done(77)]);
        assert_eq!(
            driver.packet(Packet::PubAck(ack(1))),
            [Output::Note(Note::UnknownPacketId)]
        );
    }
}

/// [MQTT-4.3.3-1], [MQTT-4.3.3-2], [MQTT-4.3.3-3], [MQTT-4.3.3-4], [MQTT-4.3.3-5], [MQTT-4.3.3-6], [MQTT-4.3.3-1 v3.1.1]
#[test]
fn qos_2_is_done_with_pubcomp() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        assert_eq!(delivered_ids(&driver.deliver(QOS2, 77)), [1]);
        assert_eq!(
            driver.packet(Packet::PubRec(ack(1))),
            sent([Packet::PubRel(ack(1))])
        );
        assert_eq!(
            driver.packet(Packet::PubRec(ack(1))),
            sent([Packet::PubRel(ack(1))])
        );
        assert_eq!(driver.packet(Packet::PubComp(ack(1))), [done(77)]);
        let unknown = Packet::PubRel(ack_with(1, ReasonCode::PacketIdentifierNotFound));
        let expected = [Output::Note(Note::UnknownPacketId), Output::Send(unknown)];
        assert_eq!(driver.packet(Packet::PubRec(ack(1))), expected);
    }
}

/// [MQTT-4.3.3-4], [MQTT-4.4.0-2]
#[test]
fn an_error_of_the_client_ends_a_delivery() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    driver.deliver(QOS1, 1);
    driver.deliver(QOS2, 2);
    let reason = ReasonCode::QuotaExceeded;
    let refused = |position| Output::Delivered {
        token: token(position),
        outcome: Outcome::Refused(reason),
    };
    assert_eq!(
        driver.packet(Packet::PubAck(ack_with(1, reason))),
        [refused(1)]
    );
    assert_eq!(
        driver.packet(Packet::PubRec(ack_with(2, reason))),
        [refused(2)]
    );
}

#[test]
fn the_wrong_acknowledgement_is_a_protocol_error() {
    let wrong = [
        (QOS1, Packet::PubRec(ack(1))),
        (QOS2, Packet::PubAck(ack(1))),
        (QOS2, Packet::PubComp(ack(1))),
    ];
    for (qos, packet) in wrong {
        let mut driver = Driver::connected(ProtocolVersion::V5);
        driver.deliver(qos, 1);
        assert_closed_with(&driver.packet(packet), ReasonCode::ProtocolError);
    }
}

/// [MQTT-3.3.4-9], [MQTT-4.9.0-1], [MQTT-4.9.0-2]
#[test]
fn no_more_are_under_way_than_the_client_takes() {
    let asked = ConnectProperties {
        receive_maximum: NonZeroU16::new(2),
        ..ConnectProperties::default()
    };
    let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
    driver.deliver(QOS1, 1);
    driver.deliver(QOS2, 2);
    assert!(!driver.connection.can_accept(QOS1));
    assert!(driver.connection.can_accept(QOS0));
    driver.packet(Packet::PubRec(ack(2)));
    assert!(!driver.connection.can_accept(QOS1));
    driver.packet(Packet::PubComp(ack(2)));
    assert!(driver.connection.can_accept(QOS1));
    driver.deliver(QOS1, 3);
    driver
        .connection
        .handle_delivery(delivery(QOS1, 4), driver.now());
    assert_closed_with(&driver.drain(), ReasonCode::QuotaExceeded);
}

/// [MQTT-4.9.0-1]
#[test]
fn our_own_window_holds_too() {
    let limits = Limits {
        inflight_max: 3,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V3_1_1));
    for token in 0..3 {
        driver.deliver(QOS1, token);
    }
    assert!(!driver.connection.can_accept(QOS1));
}

/// [MQTT-3.1.2-24] and [MQTT-3.1.2-25]
#[test]
fn a_packet_that_the_client_does_not_take_counts_as_delivered() {
    let asked = ConnectProperties {
        maximum_packet_size: NonZeroU32::new(100),
        ..ConnectProperties::default()
    };
    let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
    assert_eq!(driver.connection.packet_bytes_max(), Some(100));
    let big = |qos| Delivery {
        message: Arc::new(Message {
            payload: Bytes::from_static(&[0; 100]),
            ..message()
        }),
        ..delivery(qos, 9)
    };
    driver.connection.handle_delivery(big(QOS1), driver.now());
    assert_eq!(
        driver.drain(),
        [Output::Delivered {
            token: token(9),
            outcome: Outcome::TooLarge
        }]
    );
    driver.connection.handle_delivery(big(QOS0), driver.now());
    assert_eq!(driver.drain(), [Output::Note(Note::QoS0TooLarge)]);
    assert_eq!(driver.connection.session().unwrap().inflight_len(), 0);
    assert_eq!(driver.deliver(QOS1, 10).len(), 1);
}

/// The bound is exact: an alias is not set where it would break it.
#[test]
fn a_packet_of_just_the_maximum_is_sent() {
    let header = PublishHeader::default();
    let message = Message {
        topic: TopicName::from_static("some/topic"),
        ..message()
    };
    let bytes = publish_bytes(ProtocolVersion::V5, &header, &message).unwrap();
    let deliver = |bytes_max: usize| {
        let asked = ConnectProperties {
            maximum_packet_size: NonZeroU32::new(u32::try_from(bytes_max).unwrap()),
            topic_alias_maximum: 1,
            ..ConnectProperties::default()
        };
        let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
        let delivery = Delivery {
            message: Arc::new(message.clone()),
            ..delivery(QOS0, 0)
        };
        driver.connection.handle_delivery(delivery, driver.now());
        driver.drain().remove(0)
    };
    assert_eq!(deliver(bytes - 1), Output::Note(Note::QoS0TooLarge));
    for (bytes_max, has_alias) in [(bytes, false), (bytes + 3, true)] {
        let output = deliver(bytes_max);
        let Output::Deliver { header, .. } = output else {
            panic!("{output:?}")
        };
        assert_eq!(header.topic_alias.is_some(), has_alias);
    }
}

/// [MQTT-3.3.2-5] and [MQTT-3.3.2-6]
#[test]
fn message_expiry_is_counted_down_when_it_is_sent() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let expires_at = Some(driver.now() + Duration::from_secs(10));
    driver.now_ms = 3_500;
    let expiring = |qos| Delivery {
        expires_at,
        ..delivery(qos, 9)
    };
    driver
        .connection
        .handle_delivery(expiring(QOS1), driver.now());
    let outputs = driver.drain();
    assert!(
        matches!(&outputs[..], [Output::Deliver { header, .. }] if header.expiry_interval_s == Some(7))
    );
    driver.now_ms = 10_000;
    driver
        .connection
        .handle_delivery(expiring(QOS1), driver.now());
    assert_eq!(
        driver.drain(),
        [Output::Delivered {
            token: token(9),
            outcome: Outcome::Expired
        }]
    );
    driver
        .connection
        .handle_delivery(expiring(QOS0), driver.now());
    assert_eq!(driver.drain(), [Output::Note(Note::QoS0Expired)]);
}

/// [MQTT-3.1.2-26], [MQTT-3.3.2-11]
#[test]
fn a_client_that_allows_topic_aliases_gets_them() {
    let asked = ConnectProperties {
        topic_alias_maximum: 1,
        ..ConnectProperties::default()
    };
    let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
    let mut alias_of = |topic: &str| {
        let message = Message {
            topic: topic.try_into().unwrap(),
            ..message()
        };
        let delivery = Delivery {
            message: Arc::new(message),
            ..delivery(QOS0, 0)
        };
        driver.connection.handle_delivery(delivery, driver.now());
        let outputs = driver.drain();
        let [Output::Deliver { header, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        header
            .topic_alias
            .map(|(alias, with_topic)| (alias.get(), with_topic))
    };
    assert_eq!(alias_of("some/topic"), Some((1, true)));
    assert_eq!(alias_of("some/topic"), Some((1, false)));
    assert_eq!(alias_of("another/topic"), None);
}

/// [MQTT-3.3.4-3]
#[test]
fn subscription_identifiers_and_retain_go_along() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let delivery = Delivery {
        retain: true,
        subscription_ids: [1, 2].into_iter().collect(),
        ..delivery(QOS1, 1)
    };
    driver.connection.handle_delivery(delivery, driver.now());
    let outputs = driver.drain();
    let [Output::Deliver { header, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(header.retain);
    assert_eq!(header.subscription_ids[..], [1, 2]);
}

/// [MQTT-3.3.1-3], [MQTT-3.3.1-3 v3.1.1]
#[test]
fn dup_is_not_passed_on() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut writer = Driver::connected(version);
        let repeated = Packet::Publish(Publish {
            dup: true,
            ..publish_of(QOS1, 1)
        });
        let outputs = writer.packet(repeated);
        let [Output::Publish { message, .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        for qos in [QOS0, QOS1, QOS2] {
            let mut reader = Driver::connected(version);
            let delivery = Delivery {
                message: Arc::clone(message),
                ..delivery(qos, 1)
            };
            reader.connection.handle_delivery(delivery, reader.now());
            let outputs = reader.drain();
            assert!(matches!(&outputs[..], [Output::Deliver { header, .. }] if !header.dup));
        }
    }
}

/// [MQTT-3.3.4-10], [MQTT-4.9.0-3]
#[test]
fn a_closed_window_holds_back_nothing_but_messages() {
    let asked = ConnectProperties {
        receive_maximum: NonZeroU16::new(1),
        ..ConnectProperties::default()
    };
    let mut driver = Driver::connected_with(Limits::default(), connect_v5(asked));
    driver.deliver(QOS2, 1);
    assert!(!driver.connection.can_accept(QOS1));
    assert!(driver.connection.wants_packets());
    assert_eq!(driver.packet(Packet::PingReq), sent([Packet::PingResp]));
    let ticket = ticket_of(&driver.publish(QOS2, 7));
    assert_eq!(
        driver.answer(ticket, published()),
        sent([Packet::PubRec(ack(7))])
    );
    assert_eq!(
        driver.packet(Packet::PubRel(ack(7))),
        sent([Packet::PubComp(ack(7))])
    );
    let options = SubscriptionOptions::default();
    let ticket = ticket_of(&driver.packet(super::subscribe::subscribe(8, &[("a", options)])));
    let outputs = driver.answer(ticket, Answer::Subscribed(vec![ReasonCode::Success]));
    assert!(matches!(&outputs[..], [Output::Send(Packet::SubAck(_))]));
    assert_eq!(
        driver.packet(Packet::PubRec(ack(1))),
        sent([Packet::PubRel(ack(1))])
    );
}
