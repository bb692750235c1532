//! What answers may say: which reason codes, and explanations as long as there is room for them.

use std::num::NonZeroU32;

use bytes::BytesMut;

use super::wire::id;
use super::{decode, encode};
use crate::ProtocolVersion::V5;
use crate::{
    Ack, AckProperties, Auth, AuthProperties, ConnAck, ConnAckProperties, Disconnect,
    DisconnectProperties, EncodeError, Packet, ReasonCode, Role, SubAck, Text, UnsubAck,
};

/// [MQTT-3.2.2-19], [MQTT-3.2.2-20] and their like for PUBACK.
#[test]
fn explanations_give_way_to_the_receivers_maximum() {
    let properties = AckProperties {
        reason_string: Some(Text::from_static("why")),
        user_properties: vec![(Text::from_static("k"), Text::from_static("v"))],
    };
    let ack = Ack {
        properties: Some(Box::new(properties)),
        ..Ack::new(id(7), ReasonCode::QuotaExceeded)
    };
    let encode_within = |max| {
        let mut buf = BytesMut::from(&b"!"[..]);
        let result = crate::encode(
            V5,
            &Packet::PubAck(ack.clone()),
            NonZeroU32::new(max),
            &mut buf,
        );
        result.map(|()| buf.len() - 1)
    };
    assert_eq!(encode_within(0), Ok(19));
    assert_eq!(encode_within(19), Ok(19));
    assert_eq!(encode_within(18), Ok(12));
    assert_eq!(encode_within(12), Ok(12));
    assert_eq!(encode_within(11), Ok(5));
    assert_eq!(encode_within(5), Ok(5));
    assert_eq!(encode_within(4), Err(EncodeError::TooLarge));
}

/// One of each packet that can say why, with a reason string and a user property.
fn explained(reason: ReasonCode) -> Vec<Packet> {
    let reason_string = Some(Text::from_static("why"));
    let user_properties = vec![(Text::from_static("k"), Text::from_static("v"))];
    let properties = || {
        Some(Box::new(AckProperties {
            reason_string: reason_string.clone(),
            user_properties: user_properties.clone(),
        }))
    };
    let ack = || Ack {
        properties: properties(),
        ..Ack::new(id(7), reason)
    };
    let reasons = vec![reason];
    vec![
        Packet::ConnAck(ConnAck {
            session_present: false,
            reason,
            properties: Some(Box::new(ConnAckProperties {
                reason_string: reason_string.clone(),
                user_properties: user_properties.clone(),
                ..ConnAckProperties::default()
            })),
        }),
        Packet::PubAck(ack()),
        Packet::PubRec(ack()),
        Packet::PubRel(ack()),
        Packet::PubComp(ack()),
        Packet::SubAck(SubAck {
            packet_id: id(7),
            reasons: reasons.clone(),
            properties: properties(),
        }),
        Packet::UnsubAck(UnsubAck {
            packet_id: id(7),
            reasons,
            properties: properties(),
        }),
        Packet::Disconnect(Disconnect {
            reason,
            properties: Some(Box::new(DisconnectProperties {
                reason_string: reason_string.clone(),
                user_properties: user_properties.clone(),
                ..DisconnectProperties::default()
            })),
        }),
        Packet::Auth(Auth {
            reason,
            properties: Some(Box::new(AuthProperties {
                authentication_method: Text::from_static("m"),
                authentication_data: None,
                reason_string,
                user_properties,
            })),
        }),
    ]
}

/// [MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3], [MQTT-3.6.2-2],
/// [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1], [MQTT-3.9.2-2], [MQTT-3.11.2-1], [MQTT-3.11.2-2],
/// [MQTT-3.14.2-3], [MQTT-3.14.2-4], [MQTT-3.15.2-2], [MQTT-3.15.2-3]
#[test]
fn every_answer_goes_without_what_would_make_it_too_large() {
    let (reason_string, user_property) = (6, 7);
    for packet in explained(ReasonCode::Success) {
        let bytes_within = |max: usize| {
            let mut buf = BytesMut::new();
            let max = NonZeroU32::new(u32::try_from(max).unwrap());
            crate::encode(V5, &packet, max, &mut buf).map(|()| buf.len())
        };
        let all = encode(V5, &packet).len();
        assert_eq!(bytes_within(all), Ok(all), "{packet:?}");
        let without = all - user_property;
        assert_eq!(bytes_within(all - 1), Ok(without), "{packet:?}");
        assert_eq!(bytes_within(without), Ok(without), "{packet:?}");
        let bare = bytes_within(without - 1).unwrap();
        assert!(bare <= without - reason_string, "{packet:?}");
        assert_eq!(bytes_within(bare - 1), Err(EncodeError::TooLarge));
    }
}

/// [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2],
/// [MQTT-3.14.2-1], [MQTT-3.15.2-1]
#[test]
fn a_reason_code_of_another_packet_is_neither_sent_nor_taken() {
    for code in 0..=u8::MAX {
        for packet in explained(ReasonCode::from_u8(code).unwrap_or_default()) {
            let reason = ReasonCode::from_u8(code);
            let is_valid = reason.is_some_and(|reason| reason.is_valid_in(packet.packet_type()));
            if reason.is_some() {
                let result = crate::encode(V5, &packet, None, &mut BytesMut::new());
                assert_eq!(result.is_ok(), is_valid, "{packet:?}");
            }
            // The bytes of success, with another code.
            let mut bytes = encode(V5, &explained(ReasonCode::Success)[at(&packet)]);
            let code_at = match &packet {
                Packet::ConnAck(_) => 3,
                Packet::SubAck(_) | Packet::UnsubAck(_) => bytes.len() - 1,
                Packet::Disconnect(_) | Packet::Auth(_) => 2,
                _ => 4,
            };
            bytes[code_at] = code;
            // What only clients say.
            let role = match (&packet, code) {
                (Packet::Auth(_), 0x19) | (Packet::Disconnect(_), 0x04) => Role::Server,
                _ => Role::Client,
            };
            assert_eq!(
                decode(V5, role, &bytes).is_ok(),
                is_valid,
                "{packet:?} {code:#x}"
            );
        }
    }
}

/// Where in [`explained`] a packet of this type is.
fn at(packet: &Packet) -> usize {
    let of_type = |other: &Packet| other.packet_type() == packet.packet_type();
    explained(ReasonCode::Success)
        .iter()
        .position(of_type)
        .unwrap()
}
