//! decode(encode(p)) = p for every packet, version and direction.

use bytes::BytesMut;
use proptest::prelude::*;
use smallvec::smallvec;

use super::{decode, decoder, encode};
use crate::{
    Decoder, Limits, Message, Packet, ProtocolVersion, Publish, PublishHeader, QoS, Role, arbitrary,
};

fn version_role_packet() -> impl Strategy<Value = (ProtocolVersion, Role, Packet)> {
    (
        arbitrary::protocol_version(),
        prop_oneof![Just(Role::Server), Just(Role::Client)],
    )
        .prop_flat_map(|(version, role)| {
            (Just(version), Just(role), arbitrary::packet(version, role))
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_packet_comes_back_as_it_went((version, role, packet) in version_role_packet()) {
        let bytes = encode(version, &packet);
        prop_assert_eq!(decode(version, role, &bytes).unwrap(), packet);
    }

    /// What is cut off at any byte is either waited for or refused, never misread or panicked over.
    #[test]
    fn a_changed_byte_never_panics((version, role, packet) in version_role_packet(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encode(version, &packet);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decoder(version, role).decode(&mut bytes);
    }

    #[test]
    fn random_bytes_never_panic(
        version in prop::option::of(arbitrary::protocol_version()),
        bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        for role in [Role::Server, Role::Client] {
            let mut decoder = match version {
                Some(version) => decoder(version, role),
                None => Decoder::server(Limits::default()),
            };
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(packet)) = decoder.decode(&mut buf) {
                let version = decoder.version().unwrap();
                prop_assert_eq!(decode(version, role, &encode(version, &packet)).unwrap(), packet);
            }
        }
    }

    /// A delivery by reference writes what the packet built from it would.
    #[test]
    fn a_delivery_is_the_packet_it_stands_for(
        version in arbitrary::protocol_version(),
        message in arbitrary::message(),
        publish in arbitrary::publish(ProtocolVersion::V5, Role::Client),
        sends_topic: bool,
        expiry_interval_s: Option<u32>,
    ) {
        let v5 = version.has_properties();
        let header = PublishHeader {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            topic_alias: publish.topic_alias.filter(|_| v5).map(|alias| (alias, sends_topic)),
            subscription_ids: publish.subscription_ids.clone(),
            expiry_interval_s,
        };
        let expected = expected(&header, &message, v5);
        let mut buf = BytesMut::new();
        crate::encode_publish(version, &header, &message, &mut buf).unwrap();
        prop_assert_eq!(crate::publish_bytes(version, &header, &message).unwrap(), buf.len());

        let mut head = BytesMut::new();
        crate::encode_publish_head(version, &header, &message, &mut head).unwrap();
        head.extend_from_slice(&message.payload);
        prop_assert_eq!(&head, &buf);
        prop_assert_eq!(decode(version, Role::Client, &buf).unwrap(), Packet::Publish(expected));
    }
}

/// The PUBLISH that a client of version 5 or of an older one sees.
fn expected(header: &PublishHeader, message: &Message, v5: bool) -> Publish {
    let mut properties = message.properties.clone().unwrap_or_default();
    properties.expiry_interval_s = header.expiry_interval_s.or(properties.expiry_interval_s);
    Publish {
        dup: header.dup,
        qos: header.qos,
        retain: header.retain,
        packet_id: header.packet_id,
        topic: header
            .topic_alias
            .is_none_or(|(_, sends_topic)| sends_topic)
            .then(|| message.topic.clone()),
        topic_alias: header.topic_alias.map(|(alias, _)| alias),
        subscription_ids: if v5 {
            header.subscription_ids.clone()
        } else {
            smallvec![]
        },
        properties: if v5 {
            crate::property::boxed(*properties)
        } else {
            None
        },
        payload: message.payload.clone(),
    }
}

#[test]
fn a_large_payload_is_not_copied() {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some("t".try_into().unwrap()),
        topic_alias: None,
        subscription_ids: smallvec![],
        properties: None,
        payload: vec![7; 70_000].into(),
    };
    let mut bytes = encode(ProtocolVersion::V3_1_1, &Packet::Publish(publish.clone()));
    let addresses = bytes.as_ptr_range();
    let decoded = decoder(ProtocolVersion::V3_1_1, Role::Server)
        .decode(&mut bytes)
        .unwrap()
        .unwrap();
    let Packet::Publish(decoded) = decoded else {
        panic!("{decoded:?}")
    };
    assert!(addresses.contains(&decoded.payload.as_ptr()));
    assert_eq!(decoded, publish);
}
