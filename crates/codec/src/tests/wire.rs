//! Packets against the bytes that the specification demands.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;
use smallvec::smallvec;

use super::{decode, encode};
use crate::{
    Ack, AckProperties, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Decoder,
    Disconnect, EncodeError, Limits, Message, MessageProperties, Packet, PacketId, PayloadFormat,
    ProtocolVersion, Publish, PublishHeader, QoS, ReasonCode, RetainHandling, Role, SubAck,
    Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, UnsubAck, Will,
};

use ProtocolVersion::{V3_1, V3_1_1, V5};

pub(super) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// The packet is written as these bytes, and these bytes are read as the packet.
fn check(version: ProtocolVersion, role: Role, packet: Packet, bytes: &[u8]) {
    assert_eq!(&encode(version, &packet)[..], bytes, "{packet:?}");
    let is_connect = matches!(packet, Packet::Connect(_));
    if is_connect {
        let mut decoder = Decoder::server(Limits::default());
        assert_eq!(decoder.decode(&mut BytesMut::from(bytes)), Ok(Some(packet)));
        assert_eq!(decoder.version(), Some(version));
    } else {
        assert_eq!(decode(version, role, bytes), Ok(packet));
    }
}

/// [MQTT-3.1.2-17], [MQTT-3.1.2-19], [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.2-19 v3.1.1], [MQTT-3.1.2-21 v3.1.1],
/// [MQTT-3.1.3-1 v3.1.1], [MQTT-3.1.3-3 v3.1.1]
#[test]
fn connect_of_each_version() {
    let connect = |version| Connect {
        version,
        client_id: Text::from_static("c"),
        clean_start: true,
        keep_alive_s: 60,
        username: Some(Text::from_static("u")),
        password: Some("p".into()),
        will: Some(Box::new(Will {
            topic: TopicName::from_static("w"),
            payload: "x".into(),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_interval_s: 0,
            properties: None,
        })),
        properties: None,
    };
    let packet = |version| Packet::Connect(Box::new(connect(version)));
    let v3_1 = b"\x10\x1b\0\x06MQIsdp\x03\xf6\0\x3c\0\x01c\0\x01w\0\x01x\0\x01u\0\x01p";
    check(V3_1, Role::Server, packet(V3_1), v3_1);
    let v3_1_1 = b"\x10\x19\0\x04MQTT\x04\xf6\0\x3c\0\x01c\0\x01w\0\x01x\0\x01u\0\x01p";
    check(V3_1_1, Role::Server, packet(V3_1_1), v3_1_1);
    let v5 = b"\x10\x1b\0\x04MQTT\x05\xf6\0\x3c\0\0\x01c\0\0\x01w\0\x01x\0\x01u\0\x01p";
    check(V5, Role::Server, packet(V5), v5);

    let mut connect = connect(V5);
    connect.properties = Some(Box::new(ConnectProperties {
        session_expiry_interval_s: 1,
        receive_maximum: NonZeroU16::new(2),
        maximum_packet_size: NonZeroU32::new(3),
        topic_alias_maximum: 4,
        request_response_information: true,
        request_problem_information: false,
        user_properties: vec![(Text::from_static("k"), Text::from_static("v"))],
        authentication_method: Some(Text::from_static("m")),
        authentication_data: Some("d".into()),
    }));
    connect.username = None;
    let will = connect.will.as_mut().unwrap();
    will.delay_interval_s = 5;
    will.properties = Some(Box::new(MessageProperties {
        payload_format: Some(PayloadFormat::Utf8),
        ..MessageProperties::default()
    }));
    let mut bytes = b"\x10\x45\0\x04MQTT\x05\x76\0\x3c".to_vec();
    bytes.extend_from_slice(
        b"\x26\x11\0\0\0\x01\x21\0\x02\x27\0\0\0\x03\x22\0\x04\x19\x01\x17\0\x26\0\x01k\0\x01v",
    );
    bytes.extend_from_slice(
        b"\x15\0\x01m\x16\0\x01d\0\x01c\x07\x18\0\0\0\x05\x01\x01\0\x01w\0\x01x\0\x01p",
    );
    let remaining = bytes.len() - 2;
    bytes[1] = remaining as u8;
    let block = bytes
        .windows(4)
        .position(|window| window == b"\0\x01c\x07")
        .unwrap()
        - 13;
    bytes[12] = block as u8;
    check(V5, Role::Server, Packet::Connect(Box::new(connect)), &bytes);
}

/// 3.1 allows the user name and password flags where the fields are missing.
#[test]
fn connect_of_3_1_may_lack_what_its_flags_say() {
    let bytes = b"\x10\x0f\0\x06MQIsdp\x03\xc2\0\x3c\0\x01c";
    let packet = Decoder::server(Limits::default())
        .decode(&mut BytesMut::from(&bytes[..]))
        .unwrap()
        .unwrap();
    let Packet::Connect(connect) = packet else {
        panic!("{packet:?}")
    };
    assert_eq!((connect.username, connect.password), (None, None));
}

/// [MQTT-2.2.2-1], [MQTT-3.2.2-1], [MQTT-3.2.2-4 v3.1.1]
#[test]
fn connack_of_each_version() {
    let connack = |session_present, reason| {
        Packet::ConnAck(ConnAck {
            session_present,
            reason,
            properties: None,
        })
    };
    check(
        V3_1,
        Role::Client,
        connack(false, ReasonCode::Success),
        b"\x20\x02\0\0",
    );
    check(
        V3_1_1,
        Role::Client,
        connack(true, ReasonCode::Success),
        b"\x20\x02\x01\0",
    );
    check(
        V5,
        Role::Client,
        connack(true, ReasonCode::Success),
        b"\x20\x03\x01\0\0",
    );
    for (code, reason) in [
        (1, ReasonCode::UnsupportedProtocolVersion),
        (2, ReasonCode::ClientIdentifierNotValid),
        (3, ReasonCode::ServerUnavailable),
        (4, ReasonCode::BadUserNameOrPassword),
        (5, ReasonCode::NotAuthorized),
    ] {
        check(
            V3_1_1,
            Role::Client,
            connack(false, reason),
            &[0x20, 2, 0, code],
        );
        check(
            V5,
            Role::Client,
            connack(false, reason),
            &[0x20, 3, 0, reason.into(), 0],
        );
    }
    // Not in 3.1.1: the nearest.
    assert_eq!(
        &encode(V3_1_1, &connack(false, ReasonCode::Banned))[..],
        b"\x20\x02\0\x05"
    );
    assert_eq!(
        &encode(V3_1_1, &connack(false, ReasonCode::ServerBusy))[..],
        b"\x20\x02\0\x03"
    );
    // [MQTT-3.2.2-6]
    assert_eq!(
        &encode(V5, &connack(true, ReasonCode::ServerBusy))[..],
        b"\x20\x03\0\x89\0"
    );

    let properties = ConnAckProperties {
        maximum_qos: QoS::AtLeastOnce,
        retain_available: false,
        server_keep_alive_s: Some(30),
        ..ConnAckProperties::default()
    };
    let packet = ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: Some(Box::new(properties)),
    };
    check(
        V5,
        Role::Client,
        Packet::ConnAck(packet),
        b"\x20\x0a\0\0\x07\x24\x01\x25\0\x13\0\x1e",
    );
}

/// [MQTT-2.2.2-1], [MQTT-3.3.2-1], [MQTT-3.3.2-1 v3.1.1]
#[test]
fn publish_of_each_version() {
    let publish = Publish {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        packet_id: Some(id(7)),
        topic: Some(TopicName::from_static("t")),
        topic_alias: None,
        subscription_ids: smallvec![],
        properties: None,
        payload: "abc".into(),
    };
    check(
        V3_1,
        Role::Server,
        Packet::Publish(publish.clone()),
        b"\x3b\x08\0\x01t\0\x07abc",
    );
    check(
        V3_1_1,
        Role::Server,
        Packet::Publish(publish.clone()),
        b"\x3b\x08\0\x01t\0\x07abc",
    );
    check(
        V5,
        Role::Server,
        Packet::Publish(publish.clone()),
        b"\x3b\x09\0\x01t\0\x07\0abc",
    );
    let publish = Publish {
        topic: None,
        topic_alias: NonZeroU16::new(9),
        subscription_ids: smallvec![1, 128],
        properties: Some(Box::new(MessageProperties {
            expiry_interval_s: Some(2),
            ..MessageProperties::default()
        })),
        ..publish
    };
    let bytes = b"\x3b\x15\0\0\0\x07\x0d\x23\0\x09\x02\0\0\0\x02\x0b\x01\x0b\x80\x01abc";
    check(V5, Role::Client, Packet::Publish(publish), bytes);
}

#[test]
fn a_delivery_uses_its_alias_and_expiry() {
    let message = Message {
        topic: TopicName::from_static("t"),
        payload: "abc".into(),
        properties: Some(Box::new(MessageProperties {
            expiry_interval_s: Some(100),
            ..MessageProperties::default()
        })),
    };
    let alias = NonZeroU16::new(1).unwrap();
    let header = PublishHeader {
        topic_alias: Some((alias, false)),
        expiry_interval_s: Some(90),
        ..PublishHeader::default()
    };
    let mut buf = BytesMut::new();
    crate::encode_publish(V5, &header, &message, &mut buf).unwrap();
    assert_eq!(&buf[..], b"\x30\x0e\0\0\x08\x23\0\x01\x02\0\0\0\x5aabc");
}

/// Sections 3.4.2.1 and 3.4.2.2: success and an empty block of properties are left out.
#[test]
fn acks_are_as_short_as_can_be() {
    let ack = Ack::new(id(7), ReasonCode::Success);
    for version in [V3_1, V3_1_1, V5] {
        check(
            version,
            Role::Server,
            Packet::PubAck(ack.clone()),
            b"\x40\x02\0\x07",
        );
        check(
            version,
            Role::Server,
            Packet::PubRec(ack.clone()),
            b"\x50\x02\0\x07",
        );
        check(
            version,
            Role::Server,
            Packet::PubRel(ack.clone()),
            b"\x62\x02\0\x07",
        );
        check(
            version,
            Role::Server,
            Packet::PubComp(ack.clone()),
            b"\x70\x02\0\x07",
        );
    }
    let ack = Ack::new(id(7), ReasonCode::NoMatchingSubscribers);
    check(
        V5,
        Role::Server,
        Packet::PubAck(ack.clone()),
        b"\x40\x03\0\x07\x10",
    );
    assert_eq!(
        decode(V5, Role::Server, b"\x40\x04\0\x07\x10\0"),
        Ok(Packet::PubAck(ack))
    );
    let properties = AckProperties {
        reason_string: Some(Text::from_static("r")),
        user_properties: vec![],
    };
    let ack = Ack {
        properties: Some(Box::new(properties)),
        ..Ack::new(id(7), ReasonCode::Success)
    };
    check(
        V5,
        Role::Server,
        Packet::PubAck(ack),
        b"\x40\x08\0\x07\0\x04\x1f\0\x01r",
    );
}

/// [MQTT-3.9.3-2 v3.1.1]
#[test]
fn subscribe_and_suback() {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let mut subscribe = Subscribe {
        packet_id: id(1),
        subscription_id: Some(5),
        user_properties: vec![],
        filters: vec![(TopicFilter::from_static("a/#"), options)],
    };
    let packet = Packet::Subscribe(subscribe.clone());
    check(
        V5,
        Role::Server,
        packet,
        b"\x82\x0b\0\x01\x02\x0b\x05\0\x03a/#\x2d",
    );
    subscribe.subscription_id = None;
    subscribe.filters[0].1 = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        ..SubscriptionOptions::default()
    };
    check(
        V3_1_1,
        Role::Server,
        Packet::Subscribe(subscribe),
        b"\x82\x08\0\x01\0\x03a/#\x01",
    );

    let reasons = vec![ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError];
    let suback = Packet::SubAck(SubAck {
        packet_id: id(1),
        reasons,
        properties: None,
    });
    check(
        V3_1_1,
        Role::Client,
        suback.clone(),
        b"\x90\x04\0\x01\x01\x80",
    );
    check(V5, Role::Client, suback, b"\x90\x05\0\x01\0\x01\x80");
    let reasons = vec![ReasonCode::NotAuthorized];
    let refused = Packet::SubAck(SubAck {
        packet_id: id(1),
        reasons: reasons.clone(),
        properties: None,
    });
    assert_eq!(&encode(V3_1_1, &refused)[..], b"\x90\x03\0\x01\x80");

    let unsuback = Packet::UnsubAck(UnsubAck {
        packet_id: id(1),
        reasons,
        properties: None,
    });
    check(V5, Role::Client, unsuback.clone(), b"\xb0\x04\0\x01\0\x87");
    assert_eq!(&encode(V3_1_1, &unsuback)[..], b"\xb0\x02\0\x01");
}

#[test]
fn disconnect_and_auth() {
    check(
        V3_1_1,
        Role::Server,
        Packet::Disconnect(Disconnect::default()),
        b"\xe0\0",
    );
    check(
        V5,
        Role::Server,
        Packet::Disconnect(Disconnect::default()),
        b"\xe0\0",
    );
    let disconnect = Disconnect {
        reason: ReasonCode::SessionTakenOver,
        properties: None,
    };
    check(
        V5,
        Role::Client,
        Packet::Disconnect(disconnect),
        b"\xe0\x01\x8e",
    );
    let auth = Packet::Auth(Auth {
        reason: ReasonCode::Success,
        properties: None,
    });
    check(V5, Role::Client, auth.clone(), b"\xf0\0");
    assert_eq!(
        crate::encode(V3_1_1, &auth, None, &mut BytesMut::new()),
        Err(EncodeError::NotInVersion)
    );
    let auth = Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        properties: None,
    });
    let error = crate::encode(V5, &auth, None, &mut BytesMut::new());
    assert!(matches!(error, Err(EncodeError::Invalid(_))), "{error:?}");
}

#[test]
fn what_cannot_be_sent_leaves_the_buffer_alone() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::from_static("t")),
        topic_alias: None,
        subscription_ids: smallvec![],
        properties: None,
        payload: "abc".into(),
    };
    let properties = MessageProperties {
        correlation_data: Some(vec![0; 65_536].into()),
        ..MessageProperties::default()
    };
    let sent = Publish {
        packet_id: Some(id(1)),
        ..publish.clone()
    };
    for invalid in [
        publish,
        Publish {
            topic: None,
            ..sent.clone()
        },
        Publish {
            subscription_ids: smallvec![0],
            ..sent.clone()
        },
        Publish {
            subscription_ids: smallvec![268_435_456],
            ..sent.clone()
        },
        Publish {
            properties: Some(Box::new(properties)),
            ..sent.clone()
        },
    ] {
        let mut buf = BytesMut::from(&b"!"[..]);
        let error = crate::encode(V5, &Packet::Publish(invalid), None, &mut buf);
        assert!(matches!(error, Err(EncodeError::Invalid(_))), "{error:?}");
        assert_eq!(&buf[..], b"!");
    }
    // [MQTT-3.1.2-24]
    let mut buf = BytesMut::new();
    let error = crate::encode(V5, &Packet::Publish(sent), NonZeroU32::new(10), &mut buf);
    assert_eq!((error, buf.len()), (Err(EncodeError::TooLarge), 0));
}

#[test]
fn secrets_and_payloads_have_no_debug() {
    let connect = Connect {
        version: V5,
        client_id: Text::from_static("c"),
        clean_start: true,
        keep_alive_s: 60,
        username: None,
        password: Some("hunter2".into()),
        will: Some(Box::new(Will {
            topic: TopicName::from_static("w"),
            payload: "hunter2".into(),
            qos: QoS::AtMostOnce,
            retain: false,
            delay_interval_s: 0,
            properties: None,
        })),
        properties: Some(Box::new(ConnectProperties {
            authentication_data: Some("hunter2".into()),
            ..ConnectProperties::default()
        })),
    };
    assert!(!format!("{connect:?}").contains("hunter2"));
}

/// [MQTT-2.2.1-2], [MQTT-2.3.1-5 v3.1.1]
#[test]
fn qos_0_has_no_packet_identifier() {
    let message = Message {
        topic: TopicName::from_static("t"),
        payload: "abc".into(),
        properties: None,
    };
    let header = PublishHeader {
        packet_id: Some(id(7)),
        ..PublishHeader::default()
    };
    for (version, bytes) in [
        (V3_1_1, &b"\x30\x06\0\x01tabc"[..]),
        (V5, b"\x30\x07\0\x01t\0abc"),
    ] {
        let mut buf = BytesMut::new();
        crate::encode_publish(version, &header, &message, &mut buf).unwrap();
        assert_eq!(&buf[..], bytes);
    }
}

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.3.2-20]
#[test]
fn a_message_goes_on_as_it_came() {
    let properties = b"\x01\x01\x03\0\x04text\x08\0\x05reply\x09\0\x03\0\xff\x01\
        \x26\0\x01b\0\x012\x26\0\x01a\0\x011\x26\0\x01b\0\0\x26\0\x03\xef\xbb\xbf\0\x01x";
    let body = [
        b"\0\x01t",
        &[properties.len() as u8][..],
        properties,
        b"abc",
    ]
    .concat();
    let bytes = [&[0x30, body.len() as u8], &body[..]].concat();
    let Ok(Packet::Publish(publish)) = decode(V5, Role::Server, &bytes) else {
        panic!("not a PUBLISH");
    };
    let message = Message {
        topic: publish.topic.unwrap(),
        payload: publish.payload,
        properties: publish.properties,
    };
    for message in [message.compact(), message] {
        let mut buf = BytesMut::new();
        crate::encode_publish(V5, &PublishHeader::default(), &message, &mut buf).unwrap();
        assert_eq!(&buf[..], bytes);
    }
}

/// [MQTT-3.1.3-10]
#[test]
fn the_user_properties_of_a_will_keep_their_order() {
    let bytes = b"\x10\x2a\0\x04MQTT\x05\x06\0\0\0\0\x01c\x15\x26\0\x01b\0\x012\x26\0\x01a\0\x011\x26\0\x01b\0\x010\0\x01w\0\x01x";
    let packet = Decoder::server(Limits::default())
        .decode(&mut BytesMut::from(&bytes[..]))
        .unwrap()
        .unwrap();
    assert_eq!(&encode(V5, &packet)[..], bytes);
    let Packet::Connect(connect) = packet else {
        panic!("{packet:?}")
    };
    let properties = connect.will.unwrap().properties.unwrap();
    let names: Vec<_> = properties
        .user_properties
        .iter()
        .map(|(name, value)| format!("{name}{value}"))
        .collect();
    assert_eq!(names, ["b2", "a1", "b0"]);
}
