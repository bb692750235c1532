//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;

use bytes::BytesMut;
use magpie_codec::{
    ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode, SubAck, Subscribe,
    SubscriptionOptions, TopicFilter, UnsubAck, Unsubscribe,
};

use super::{
    Driver, ack, assert_closed_with, connect, connect_v5, id, published, sent, ticket_of, token,
};
use crate::{Answer, Limits, Outcome, Output};

const QOS2: QoS = QoS::ExactlyOnce;

pub(super) fn subscribe(packet_id: u16, filters: &[(&str, SubscriptionOptions)]) -> Packet {
    let filter =
        |(filter, options): &(&str, _)| (TopicFilter::try_from(*filter).unwrap(), *options);
    Packet::Subscribe(Subscribe {
        packet_id: id(packet_id),
        subscription_id: None,
        user_properties: Vec::new(),
        filters: filters.iter().map(filter).collect(),
    })
}

fn plain(packet_id: u16, filters: &[&str]) -> Packet {
    let options = SubscriptionOptions {
        qos: QOS2,
        ..SubscriptionOptions::default()
    };
    subscribe(
        packet_id,
        &filters
            .iter()
            .map(|filter| (*filter, options))
            .collect::<Vec<_>>(),
    )
}

fn unsubscribe(packet_id: u16, filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(packet_id),
        user_properties: Vec::new(),
        filters: filters
            .iter()
            .map(|filter| TopicFilter::try_from(*filter).unwrap())
            .collect(),
    })
}

fn suback(packet_id: u16, reasons: &[ReasonCode]) -> Packet {
    Packet::SubAck(SubAck {
        packet_id: id(packet_id),
        reasons: reasons.to_vec(),
        properties: None,
    })
}

fn unsuback(packet_id: u16, reasons: &[ReasonCode]) -> Packet {
    Packet::UnsubAck(UnsubAck {
        packet_id: id(packet_id),
        reasons: reasons.to_vec(),
        properties: None,
    })
}

/// What the node was asked: each filter, and whether it replaces a subscription.
fn asked(outputs: &[Output]) -> Vec<(String, bool)> {
    let [Output::Subscribe { subscriptions, .. }] = outputs else {
        panic!("{outputs:?}")
    };
    subscriptions
        .iter()
        .map(|subscription| (subscription.filter.to_string(), subscription.replaces))
        .collect()
}

/// A packet that is refused without asking the node; gives the reasons.
fn refused(limits: Limits, packet: Packet) -> Vec<ReasonCode> {
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let outputs = driver.packet(packet);
    let [Output::Send(Packet::SubAck(suback))] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    suback.reasons.clone()
}

/// [MQTT-2.2.1-6], [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.8.4-7], [MQTT-3.9.3-1],
/// [MQTT-2.3.1-7 v3.1.1], [MQTT-3.8.4-1 v3.1.1], [MQTT-3.8.4-2 v3.1.1], [MQTT-3.8.4-4 v3.1.1], [MQTT-3.8.4-5 v3.1.1],
/// [MQTT-3.9.3-1 v3.1.1]
#[test]
fn suback_follows_the_answer() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let outputs = driver.packet(plain(3, &["a", "b/+"]));
        assert_eq!(
            asked(&outputs),
            [("a".to_owned(), false), ("b/+".to_owned(), false)]
        );
        let granted = vec![ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized];
        let outputs = driver.answer(ticket_of(&outputs), Answer::Subscribed(granted.clone()));
        assert_eq!(outputs, sent([suback(3, &granted)]));
        let session = driver.connection.session().unwrap();
        let subscriptions: Vec<_> = session.subscriptions().collect();
        assert_eq!(subscriptions.len(), 1);
        assert_eq!(subscriptions[0].1.options.qos, QoS::AtLeastOnce);
    }
}

#[test]
fn what_breaks_a_limit_is_refused_and_the_rest_is_asked() {
    let limits = Limits {
        topic_levels_max: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let outputs = driver.packet(plain(3, &["a/b/c", "a/b", "a/b/#"]));
    assert_eq!(asked(&outputs), [("a/b".to_owned(), false)]);
    let outputs = driver.answer(
        ticket_of(&outputs),
        Answer::Subscribed(vec![ReasonCode::GrantedQoS2]),
    );
    let invalid = ReasonCode::TopicFilterInvalid;
    assert_eq!(
        outputs,
        sent([suback(3, &[invalid, ReasonCode::GrantedQoS2, invalid])])
    );
}

/// [MQTT-3.8.3-2 v3.1.1]
#[test]
fn what_is_not_offered_is_refused() {
    let limits = Limits {
        wildcards_available: false,
        ..Limits::default()
    };
    assert_eq!(
        refused(limits, plain(1, &["a/+"])),
        [ReasonCode::WildcardSubscriptionsNotSupported]
    );
    let limits = Limits {
        shared_available: false,
        ..Limits::default()
    };
    assert_eq!(
        refused(limits, plain(1, &["$share/g/a"])),
        [ReasonCode::SharedSubscriptionsNotSupported]
    );
    let limits = Limits {
        subscription_ids_available: false,
        ..Limits::default()
    };
    let Packet::Subscribe(packet) = plain(1, &["a"]) else {
        unreachable!()
    };
    let packet = Packet::Subscribe(Subscribe {
        subscription_id: Some(1),
        ..packet
    });
    assert_eq!(
        refused(limits, packet),
        [ReasonCode::SubscriptionIdentifiersNotSupported]
    );
    let limits = Limits {
        subscriptions_max: 0,
        ..Limits::default()
    };
    assert_eq!(
        refused(limits, plain(1, &["a"])),
        [ReasonCode::QuotaExceeded]
    );
    let limits = Limits {
        filters_per_packet_max: 0,
        ..Limits::default()
    };
    assert_eq!(
        refused(limits, plain(1, &["a"])),
        [ReasonCode::QuotaExceeded]
    );
}

/// [MQTT-3.2.2-10]
#[test]
fn options_are_cut_to_what_is_offered() {
    let limits = Limits {
        qos_max: QoS::AtLeastOnce,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let outputs = driver.packet(plain(1, &["a"]));
    let [Output::Subscribe { subscriptions, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(subscriptions[0].options.qos, QoS::AtLeastOnce);
}

/// [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let options = SubscriptionOptions {
        no_local: true,
        ..SubscriptionOptions::default()
    };
    let outputs = driver.packet(subscribe(1, &[("$share/g/a", options)]));
    assert_closed_with(&outputs, ReasonCode::ProtocolError);
}

#[test]
fn the_limit_of_subscriptions_counts_what_is_under_way() {
    let limits = Limits {
        subscriptions_max: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let first = ticket_of(&driver.packet(plain(1, &["a", "b"])));
    assert_eq!(driver.packet(plain(2, &["c"])), []);
    let granted = [ReasonCode::GrantedQoS2, ReasonCode::UnspecifiedError];
    let outputs = driver.answer(first, Answer::Subscribed(granted.to_vec()));
    assert_eq!(
        outputs,
        sent([suback(1, &granted), suback(2, &[ReasonCode::QuotaExceeded])])
    );
    // One was refused, so there is room; and what exists may always be replaced.
    let outputs = driver.packet(plain(3, &["a", "c"]));
    assert_eq!(
        asked(&outputs),
        [("a".to_owned(), true), ("c".to_owned(), false)]
    );
}

#[test]
fn a_replacement_is_known_even_while_the_first_is_under_way() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    assert_eq!(
        asked(&driver.packet(plain(1, &["a", "a"])))[1],
        ("a".to_owned(), true)
    );
    assert_eq!(
        asked(&driver.packet(plain(2, &["a"]))),
        [("a".to_owned(), true)]
    );
    driver.packet(unsubscribe(3, &["a"]));
    assert_eq!(
        asked(&driver.packet(plain(4, &["a"]))),
        [("a".to_owned(), false)]
    );
}

/// The last word on a filter is the client's last word, whatever the order of the answers.
#[test]
fn acknowledgements_keep_the_order_of_the_packets() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let made = ticket_of(&driver.packet(plain(1, &["a"])));
    let ended = ticket_of(&driver.packet(unsubscribe(2, &["a"])));
    assert_eq!(
        driver.answer(ended, Answer::Unsubscribed(vec![ReasonCode::Success])),
        []
    );
    let outputs = driver.answer(made, Answer::Subscribed(vec![ReasonCode::GrantedQoS2]));
    assert_eq!(
        outputs,
        sent([
            suback(1, &[ReasonCode::GrantedQoS2]),
            unsuback(2, &[ReasonCode::Success])
        ])
    );
    assert_eq!(
        driver.connection.session().unwrap().subscriptions().len(),
        0
    );
}

/// [MQTT-2.2.1-6], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.10.4-6], [MQTT-3.11.3-1], [MQTT-2.3.1-7 v3.1.1],
/// [MQTT-3.10.4-4 v3.1.1], [MQTT-3.10.4-5 v3.1.1], [MQTT-3.10.4-6 v3.1.1]
#[test]
fn unsuback_follows_the_answer() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let ticket = ticket_of(&driver.packet(unsubscribe(1, &["a", "b"])));
        // An answer of the wrong kind is none.
        assert_eq!(driver.answer(ticket, Answer::Subscribed(vec![])), []);
        let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        let outputs = driver.answer(ticket, Answer::Unsubscribed(reasons.to_vec()));
        assert_eq!(outputs, sent([unsuback(1, &reasons)]));
    }
}

#[test]
fn the_client_is_not_read_while_too_many_are_under_way() {
    let limits = Limits {
        subscribes_pending_max: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let first = ticket_of(&driver.packet(plain(1, &["a"])));
    assert!(driver.connection.wants_packets());
    driver.packet(unsubscribe(2, &["a"]));
    assert!(!driver.connection.wants_packets());
    driver.answer(first, Answer::Subscribed(vec![ReasonCode::GrantedQoS2]));
    assert!(driver.connection.wants_packets());
}

/// [MQTT-2.2.1-3]
#[test]
fn a_packet_id_of_a_publish_is_in_use() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let ticket = ticket_of(&driver.publish(QOS2, 5));
    let in_use = sent([suback(5, &[ReasonCode::PacketIdentifierInUse])]);
    assert_eq!(driver.packet(plain(5, &["a"])), in_use);
    driver.answer(ticket, published());
    assert_eq!(driver.packet(plain(5, &["a"])), in_use);
    let in_use = sent([unsuback(5, &[ReasonCode::PacketIdentifierInUse; 2])]);
    assert_eq!(driver.packet(unsubscribe(5, &["a", "b"])), in_use);
    assert!(driver.connection.is_connected());
}

/// Found by random steps: an answer that refuses must not let a later packet in uncounted.
#[test]
fn the_limit_holds_whatever_the_node_answers() {
    let limits = Limits {
        subscriptions_max: 2,
        ..Limits::default()
    };
    let mut driver = Driver::connected_with(limits, connect(ProtocolVersion::V5));
    let granted = |count| Answer::Subscribed(vec![ReasonCode::GrantedQoS2; count]);
    let ticket = ticket_of(&driver.packet(plain(1, &["a", "b"])));
    driver.answer(ticket, granted(2));
    // A filter that is only unsubscribed from is no subscription under way.
    let ended = ticket_of(&driver.packet(unsubscribe(2, &["a", "c"])));
    assert_eq!(driver.packet(plain(3, &["c"])), []);
    let again = ticket_of(&driver.packet(plain(4, &["a"])));
    driver.answer(ended, Answer::Unsubscribed(vec![ReasonCode::Success; 2]));
    // `a` is asked for again, so that there is no room for another.
    assert_eq!(driver.packet(plain(5, &["d"])), []);
    driver.answer(again, granted(1));
    assert_eq!(
        driver.connection.session().unwrap().subscriptions().len(),
        2
    );
}

/// [MQTT-3.9.3-2], [MQTT-3.11.3-2]
#[test]
fn an_answer_says_what_its_packet_can_say() {
    let mut driver = Driver::connected(ProtocolVersion::V5);
    let outputs = driver.packet(plain(1, &["a", "b"]));
    let answered = vec![ReasonCode::ServerBusy, ReasonCode::QuotaExceeded];
    let said = [ReasonCode::UnspecifiedError, ReasonCode::QuotaExceeded];
    let outputs = driver.answer(ticket_of(&outputs), Answer::Subscribed(answered.clone()));
    assert_eq!(outputs, sent([suback(1, &said)]));
    let outputs = driver.packet(unsubscribe(2, &["a", "b"]));
    let outputs = driver.answer(ticket_of(&outputs), Answer::Unsubscribed(answered));
    assert_eq!(
        outputs,
        sent([unsuback(2, &[ReasonCode::UnspecifiedError; 2])])
    );
}

/// [MQTT-3.10.4-3], [MQTT-3.10.4-3 v3.1.1]
#[test]
fn what_is_in_flight_is_brought_to_its_end_after_an_unsubscribe() {
    for version in [ProtocolVersion::V3_1_1, ProtocolVersion::V5] {
        let mut driver = Driver::connected(version);
        let ticket = ticket_of(&driver.packet(plain(1, &["a/#"])));
        driver.answer(ticket, Answer::Subscribed(vec![ReasonCode::GrantedQoS2]));
        driver.deliver(QoS::AtLeastOnce, 1);
        driver.deliver(QOS2, 2);
        let ticket = ticket_of(&driver.packet(unsubscribe(2, &["a/#"])));
        driver.answer(ticket, Answer::Unsubscribed(vec![ReasonCode::Success]));
        let done = |position| Output::Delivered {
            token: token(position),
            outcome: Outcome::Acknowledged,
        };
        assert_eq!(driver.packet(Packet::PubAck(ack(1))), [done(1)]);
        assert_eq!(
            driver.packet(Packet::PubRec(ack(2))),
            sent([Packet::PubRel(ack(2))])
        );
        assert_eq!(driver.packet(Packet::PubComp(ack(2))), [done(2)]);
    }
}

/// [MQTT-3.1.2-24], [MQTT-3.8.4-1], [MQTT-3.10.4-4]
#[test]
fn who_cannot_be_answered_is_told_so() {
    for bytes_max in [100, 130, 131, 132] {
        let asked = ConnectProperties {
            maximum_packet_size: NonZeroU32::new(bytes_max),
            ..ConnectProperties::default()
        };
        for filters in 90..130 {
            let filters = vec!["a"; filters];
            let codes = vec![ReasonCode::Success; filters.len()];
            for (asking, answer) in [
                (plain(1, &filters), suback(1, &codes)),
                (unsubscribe(1, &filters), unsuback(1, &codes)),
            ] {
                let mut driver =
                    Driver::connected_with(Limits::default(), connect_v5(asked.clone()));
                let outputs = driver.packet(asking);
                let mut bytes = BytesMut::new();
                magpie_codec::encode(ProtocolVersion::V5, &answer, None, &mut bytes).unwrap();
                if bytes.len() <= bytes_max as usize {
                    ticket_of(&outputs);
                } else {
                    assert_closed_with(&outputs, ReasonCode::PacketTooLarge);
                }
            }
        }
    }
}
