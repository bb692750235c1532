//! Strategies for arbitrary packets, for the property tests of this crate and, by the feature `arbitrary`, of others.
//!
//! Every packet that comes out can be sent in the version that was asked for and comes back from a decoder equal:
//! no properties before version 5, and never a box of properties that are all default.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::property::boxed;
use crate::{
    Ack, AckProperties, Auth, AuthProperties, ConnAck, ConnAckProperties, Connect,
    ConnectProperties, Disconnect, DisconnectProperties, Message, MessageProperties, Packet,
    PacketId, PacketType, PayloadFormat, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling,
    Role, SubAck, Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, UnsubAck,
    Unsubscribe, UserProperties, VARIABLE_INT_MAX, Will,
};

/// Any version.
pub fn protocol_version() -> impl Strategy<Value = ProtocolVersion> {
    prop_oneof![
        Just(ProtocolVersion::V3_1),
        Just(ProtocolVersion::V3_1_1),
        Just(ProtocolVersion::V5)
    ]
}

/// Any level.
pub fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

/// Any Packet Identifier.
pub fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|number| PacketId::new(number).expect("the range starts at 1"))
}

/// Short texts, some beyond ASCII, some empty.
pub fn text() -> impl Strategy<Value = Text> {
    "[ -~äß漢🦀]{0,12}"
        .prop_map(|text| Text::try_from(text).expect("the pattern has no null character"))
}

/// Topic Names of few levels from a small alphabet, so that filters have a chance to match; some start with `$`.
pub fn topic_name() -> impl Strategy<Value = TopicName> {
    "(\\$|/)?[a-cä](/[a-c]{0,2}){0,4}"
        .prop_map(|topic| TopicName::try_from(topic).expect("the pattern has no wildcard"))
}

/// Topic Filters with and without wildcards and share names.
pub fn topic_filter() -> impl Strategy<Value = TopicFilter> {
    "(\\$share/[a-c]{1,2}/)?(\\$|/)?([a-c]|\\+)(/([a-c]{0,2}|\\+)){0,3}(/#)?".prop_map(|filter| {
        // `$+` is the one way in which the pattern can go wrong.
        TopicFilter::try_from(filter.replace("$+", "$a"))
            .expect("the pattern places wildcards well")
    })
}

/// Binary data, some of it empty.
pub fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..24).prop_map(Bytes::from)
}

/// Few user properties, with names that may be repeated.
pub fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

/// Properties of a message; `None` about as often as not.
pub fn message_properties() -> impl Strategy<Value = Option<Box<MessageProperties>>> {
    let properties = (
        option::of(any::<bool>().prop_map(PayloadFormat::new)),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(topic_name()),
        option::of(binary()),
        user_properties(),
    )
        .prop_map(
            |(format, expiry, content_type, response_topic, correlation_data, user_properties)| {
                MessageProperties {
                    payload_format: format,
                    expiry_interval_s: expiry,
                    content_type,
                    response_topic,
                    correlation_data,
                    user_properties,
                }
            },
        );
    boxed_or_none(properties)
}

/// Messages as they are routed.
pub fn message() -> impl Strategy<Value = Message> {
    (topic_name(), binary(), message_properties()).prop_map(|(topic, payload, properties)| {
        Message {
            topic,
            payload,
            properties,
        }
    })
}

/// Any packet of a version that the other end of `role` may send.
pub fn packet(version: ProtocolVersion, role: Role) -> BoxedStrategy<Packet> {
    let both = prop_oneof![
        4 => publish(version, role).prop_map(Packet::Publish),
        1 => ack(version, PacketType::PubAck).prop_map(Packet::PubAck),
        1 => ack(version, PacketType::PubRec).prop_map(Packet::PubRec),
        1 => ack(version, PacketType::PubRel).prop_map(Packet::PubRel),
        1 => ack(version, PacketType::PubComp).prop_map(Packet::PubComp),
    ];
    let own = match role {
        Role::Server => prop_oneof![
            connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
            subscribe(version).prop_map(Packet::Subscribe),
            unsubscribe(version).prop_map(Packet::Unsubscribe),
            Just(Packet::PingReq),
            disconnect(version, role).prop_map(Packet::Disconnect),
        ]
        .boxed(),
        Role::Client => prop_oneof![
            connack(version).prop_map(Packet::ConnAck),
            suback(version).prop_map(Packet::SubAck),
            unsuback(version).prop_map(Packet::UnsubAck),
            Just(Packet::PingResp),
        ]
        .boxed(),
    };
    let common = prop_oneof![both, own];
    match (version, role) {
        (ProtocolVersion::V5, Role::Server) => {
            prop_oneof![8 => common, 1 => auth(role).prop_map(Packet::Auth)].boxed()
        }
        (ProtocolVersion::V5, Role::Client) => prop_oneof![
            8 => common,
            1 => auth(role).prop_map(Packet::Auth),
            1 => disconnect(version, role).prop_map(Packet::Disconnect),
        ]
        .boxed(),
        _ => common.boxed(),
    }
}

/// CONNECT.
pub fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let v5 = version.has_properties();
    (
        text(),
        any::<bool>(),
        any::<u16>(),
        option::of(text()),
        option::of(binary()),
        option::of(will(version)),
        connect_properties(),
    )
        .prop_map(
            move |(client_id, clean_start, keep_alive_s, username, password, will, properties)| {
                Connect {
                    version,
                    client_id,
                    clean_start,
                    keep_alive_s,
                    password: if v5 || username.is_some() {
                        password
                    } else {
                        None
                    },
                    username,
                    will: will.map(Box::new),
                    properties: properties.filter(|_| v5),
                }
            },
        )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will> {
    let v5 = version.has_properties();
    (message(), qos(), any::<bool>(), any::<u32>()).prop_map(
        move |(message, qos, retain, delay)| Will {
            topic: message.topic,
            payload: message.payload,
            qos,
            retain,
            delay_interval_s: if v5 { delay } else { 0 },
            properties: message.properties.filter(|_| v5),
        },
    )
}

fn connect_properties() -> impl Strategy<Value = Option<Box<ConnectProperties>>> {
    let properties = (
        prop_oneof![Just(0), any::<u32>()],
        option::of(non_zero_u16()),
        option::of(non_zero_u32()),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(expiry, receive, size, alias, response, problem, user_properties, (method, data))| {
                ConnectProperties {
                    session_expiry_interval_s: expiry,
                    receive_maximum: receive,
                    maximum_packet_size: size,
                    topic_alias_maximum: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user_properties,
                    authentication_method: method,
                    authentication_data: data,
                }
            },
        );
    boxed_or_none(properties)
}

/// CONNACK.
pub fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck> {
    let v5 = version.has_properties();
    (
        any::<bool>(),
        reason(version, PacketType::ConnAck),
        connack_properties(),
    )
        .prop_map(move |(session_present, reason, properties)| ConnAck {
            session_present: session_present
                && !reason.is_error()
                && version > ProtocolVersion::V3_1,
            reason,
            properties: properties.filter(|_| v5),
        })
}

fn connack_properties() -> impl Strategy<Value = Option<Box<ConnAckProperties>>> {
    let limits = (
        option::of(any::<u32>()),
        option::of(non_zero_u16()),
        qos(),
        option::of(non_zero_u32()),
        any::<u16>(),
    );
    let available = any::<[bool; 4]>();
    let texts = vec(option::of(text()), 4);
    let properties = (
        limits,
        available,
        texts,
        option::of(any::<u16>()),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(limits, available, mut texts, keep_alive, user_properties, (method, data))| {
                let (expiry, receive, maximum_qos, size, alias) = limits;
                let mut text = || texts.pop().flatten();
                ConnAckProperties {
                    session_expiry_interval_s: expiry,
                    receive_maximum: receive,
                    maximum_qos,
                    retain_available: available[0],
                    maximum_packet_size: size,
                    assigned_client_identifier: text(),
                    topic_alias_maximum: alias,
                    reason_string: text(),
                    user_properties,
                    wildcard_subscription_available: available[1],
                    subscription_identifiers_available: available[2],
                    shared_subscription_available: available[3],
                    server_keep_alive_s: keep_alive,
                    response_information: text(),
                    server_reference: text(),
                    authentication_method: method,
                    authentication_data: data,
                }
            },
        );
    boxed_or_none(properties)
}

/// PUBLISH; from a client without Subscription Identifiers.
pub fn publish(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Publish> {
    let v5 = version.has_properties();
    let ids = if role == Role::Client && v5 { 3 } else { 1 };
    (
        (any::<bool>(), qos(), any::<bool>(), packet_id()),
        option::weighted(0.8, topic_name()),
        option::of(non_zero_u16()),
        vec(1..=VARIABLE_INT_MAX, 0..ids),
        message_properties(),
        binary(),
    )
        .prop_map(
            move |((dup, qos, retain, packet_id), topic, alias, ids, properties, payload)| {
                let topic_alias = alias.filter(|_| v5);
                Publish {
                    dup: dup && qos > QoS::AtMostOnce,
                    qos,
                    retain,
                    packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
                    topic: if topic_alias.is_none() {
                        Some(topic.unwrap_or_else(|| TopicName::from_static("t")))
                    } else {
                        topic
                    },
                    topic_alias,
                    subscription_ids: ids.into_iter().collect(),
                    properties: properties.filter(|_| v5),
                    payload,
                }
            },
        )
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn ack(version: ProtocolVersion, packet: PacketType) -> impl Strategy<Value = Ack> {
    let v5 = version.has_properties();
    (packet_id(), reason(version, packet), ack_properties()).prop_map(
        move |(packet_id, reason, properties)| Ack {
            packet_id,
            reason,
            properties: properties.filter(|_| v5),
        },
    )
}

fn ack_properties() -> impl Strategy<Value = Option<Box<AckProperties>>> {
    let properties =
        (option::of(text()), user_properties()).prop_map(|(reason_string, user_properties)| {
            AckProperties {
                reason_string,
                user_properties,
            }
        });
    boxed_or_none(properties)
}

/// SUBSCRIBE.
pub fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let v5 = version.has_properties();
    let filters = vec((topic_filter(), subscription_options(version)), 1..4);
    (
        packet_id(),
        option::of(1..=VARIABLE_INT_MAX),
        user_properties(),
        filters,
    )
        .prop_map(move |(packet_id, id, user_properties, mut filters)| {
            for (filter, options) in &mut filters {
                options.no_local &= !filter.is_shared();
            }
            Subscribe {
                packet_id,
                subscription_id: id.filter(|_| v5),
                user_properties: if v5 { user_properties } else { Vec::new() },
                filters,
            }
        })
}

/// Options of one subscription; No Local may be set.
pub fn subscription_options(
    version: ProtocolVersion,
) -> impl Strategy<Value = SubscriptionOptions> {
    let v5 = version.has_properties();
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(qos, no_local, retain_as_published, handling)| {
            if v5 {
                SubscriptionOptions {
                    qos,
                    no_local,
                    retain_as_published,
                    retain_handling: handling,
                }
            } else {
                SubscriptionOptions {
                    qos,
                    ..SubscriptionOptions::default()
                }
            }
        },
    )
}

/// SUBACK.
pub fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck> {
    let v5 = version.has_properties();
    (
        packet_id(),
        vec(reason(version, PacketType::SubAck), 1..4),
        ack_properties(),
    )
        .prop_map(move |(packet_id, reasons, properties)| SubAck {
            packet_id,
            reasons,
            properties: properties.filter(|_| v5),
        })
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    let v5 = version.has_properties();
    (packet_id(), user_properties(), vec(topic_filter(), 1..4)).prop_map(
        move |(packet_id, user_properties, filters)| Unsubscribe {
            packet_id,
            user_properties: if v5 { user_properties } else { Vec::new() },
            filters,
        },
    )
}

/// UNSUBACK.
pub fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck> {
    let v5 = version.has_properties();
    (
        packet_id(),
        vec(reason(version, PacketType::UnsubAck), 1..4),
        ack_properties(),
    )
        .prop_map(move |(packet_id, reasons, properties)| UnsubAck {
            packet_id,
            reasons: if v5 { reasons } else { Vec::new() },
            properties: properties.filter(|_| v5),
        })
}

/// DISCONNECT.
pub fn disconnect(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Disconnect> {
    let properties = (
        option::of(any::<u32>()),
        option::of(text()),
        user_properties(),
        option::of(text()),
    )
        .prop_map(
            move |(expiry, reason_string, user_properties, server_reference)| {
                DisconnectProperties {
                    session_expiry_interval_s: expiry.filter(|_| role == Role::Server),
                    reason_string,
                    user_properties,
                    server_reference,
                }
            },
        );
    let of_version = move |disconnect: Disconnect| {
        if version.has_properties() {
            disconnect
        } else {
            Disconnect::default()
        }
    };
    (
        reason(version, PacketType::Disconnect),
        boxed_or_none(properties),
    )
        .prop_map(move |(reason, properties)| of_version(Disconnect { reason, properties }))
        .prop_filter("a reason code of the other end", move |disconnect| {
            role.check(version, &Packet::Disconnect(disconnect.clone()))
                .is_ok()
        })
}

/// AUTH.
pub fn auth(role: Role) -> impl Strategy<Value = Auth> {
    let reason = match role {
        Role::Server => prop_oneof![
            Just(ReasonCode::ContinueAuthentication),
            Just(ReasonCode::ReAuthenticate)
        ],
        Role::Client => prop_oneof![
            Just(ReasonCode::ContinueAuthentication),
            Just(ReasonCode::Success)
        ],
    };
    (
        reason,
        text(),
        option::of(binary()),
        option::of(text()),
        user_properties(),
    )
        .prop_map(
            |(
                reason,
                authentication_method,
                authentication_data,
                reason_string,
                user_properties,
            )| Auth {
                reason,
                properties: Some(Box::new(AuthProperties {
                    authentication_method,
                    authentication_data,
                    reason_string,
                    user_properties,
                })),
            },
        )
}

/// A reason code that the packet may carry in this version.
pub fn reason(version: ProtocolVersion, packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let reasons: Vec<ReasonCode> = (0..=u8::MAX)
        .filter_map(ReasonCode::from_u8)
        .filter(|reason| reason.is_valid_in(packet))
        .filter(|reason| version.has_properties() || is_known_before_v5(*reason, packet))
        .collect();
    proptest::sample::select(reasons)
}

fn is_known_before_v5(reason: ReasonCode, packet: PacketType) -> bool {
    match packet {
        PacketType::ConnAck => matches!(u8::from(reason), 0x00 | 0x84..=0x88),
        PacketType::SubAck => matches!(u8::from(reason), 0x00..=0x02 | 0x80),
        _ => reason == ReasonCode::Success,
    }
}

/// An authentication method, and data only with it.
fn authentication() -> impl Strategy<Value = (Option<Text>, Option<Bytes>)> {
    (option::of(text()), option::of(binary()))
        .prop_map(|(method, data)| (method.clone(), data.filter(|_| method.is_some())))
}

fn non_zero_u16() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|number| NonZeroU16::new(number).expect("the range starts at 1"))
}

fn non_zero_u32() -> impl Strategy<Value = NonZeroU32> {
    (1..=u32::MAX).prop_map(|number| NonZeroU32::new(number).expect("the range starts at 1"))
}

fn boxed_or_none<P>(properties: impl Strategy<Value = P>) -> impl Strategy<Value = Option<Box<P>>>
where
    P: Default + PartialEq + std::fmt::Debug,
{
    option::of(properties).prop_map(|properties| properties.and_then(boxed))
}
