//! Packets arrive in pieces and in heaps.

use bytes::BytesMut;

use super::{decoder, encode};
use crate::{Ack, Decoder, Limits, Packet, PacketId, ProtocolVersion, ReasonCode, Role};

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00";
const PUBLISH: &[u8] = b"\x32\x09\x00\x01t\x00\x07\x00abc";

#[test]
fn a_packet_is_found_wherever_the_reads_split_it() {
    let stream = [CONNECT, PUBLISH, b"\xc0\x00", b"\xe0\x00"].concat();
    for split in 0..stream.len() {
        let mut decoder = Decoder::server(Limits::default());
        let mut buf = BytesMut::new();
        let mut packets = Vec::new();
        for part in [&stream[..split], &stream[split..]] {
            buf.extend_from_slice(part);
            while let Some(packet) = decoder.decode(&mut buf).unwrap() {
                packets.push(packet.packet_type() as u8);
            }
        }
        assert_eq!(packets, [1, 3, 12, 14], "split at {split}");
        assert!(buf.is_empty());
    }
}

#[test]
fn a_packet_is_found_when_bytes_come_one_by_one() {
    let mut decoder = Decoder::server(Limits::default());
    let mut buf = BytesMut::new();
    for (at, byte) in CONNECT.iter().enumerate() {
        buf.extend_from_slice(&[*byte]);
        assert_eq!(
            decoder.decode(&mut buf).unwrap().is_some(),
            at + 1 == CONNECT.len()
        );
    }
}

/// [MQTT-3.2.2-15]: before the body is there, so that nothing is kept for it.
#[test]
fn a_packet_above_the_limit_is_refused_by_its_header() {
    let limits = Limits {
        packet_bytes_max: 130,
        ..Limits::default()
    };
    let mut decoder = Decoder::client(ProtocolVersion::V5, limits);
    // 2 bytes of remaining length, 127 of body: 130 in all.
    assert_eq!(
        decoder.decode(&mut BytesMut::from(&b"\x30\x7f"[..])),
        Ok(None)
    );
    let error = decoder
        .decode(&mut BytesMut::from(&b"\x30\x80\x01"[..]))
        .unwrap_err();
    assert_eq!(error.reason, ReasonCode::PacketTooLarge);
    assert_eq!(error.answer_in, Some(ProtocolVersion::V5));
}

#[test]
fn a_packet_of_the_largest_size_is_taken() {
    let limits = Limits {
        packet_bytes_max: PUBLISH.len(),
        ..Limits::default()
    };
    let mut decoder = Decoder::client(ProtocolVersion::V5, limits);
    assert!(
        decoder
            .decode(&mut BytesMut::from(PUBLISH))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_burst_leaves_the_last_incomplete_packet_in_the_buffer() {
    let mut decoder = decoder(ProtocolVersion::V5, Role::Server);
    let ack = |id| Packet::PubAck(Ack::new(PacketId::new(id).unwrap(), ReasonCode::Success));
    let mut buf = BytesMut::new();
    for id in 1..=100 {
        buf.extend_from_slice(&encode(ProtocolVersion::V5, &ack(id)));
    }
    buf.extend_from_slice(b"\x40\x02\x00");
    for id in 1..=100 {
        assert_eq!(decoder.decode(&mut buf), Ok(Some(ack(id))));
    }
    assert_eq!(decoder.decode(&mut buf), Ok(None));
    assert_eq!(&buf[..], b"\x40\x02\x00");
}
