//! Tests of whole packets: bytes against bytes, and packets that come back as they went.
#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod framing;
mod malformed;
mod roundtrip;
mod topic;
mod wire;

use bytes::BytesMut;

use crate::{DecodeError, Decoder, Limits, Packet, ProtocolVersion, Role};

/// A decoder of this end that knows the version, as after CONNECT.
fn decoder(version: ProtocolVersion, role: Role) -> Decoder {
    match role {
        Role::Client => Decoder::client(version, Limits::default()),
        Role::Server => {
            let mut decoder = Decoder::server(Limits::default());
            let connect: &[u8] = match version {
                ProtocolVersion::V3_1 => b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00",
                ProtocolVersion::V3_1_1 => b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
                ProtocolVersion::V5 => b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00",
            };
            decoder
                .decode(&mut BytesMut::from(connect))
                .unwrap()
                .unwrap();
            decoder
        }
    }
}

/// Decodes the one packet that the bytes are.
fn decode(version: ProtocolVersion, role: Role, bytes: &[u8]) -> Result<Packet, DecodeError> {
    let mut buf = BytesMut::from(bytes);
    let packet = decoder(version, role)
        .decode(&mut buf)?
        .expect("the packet is complete");
    assert!(buf.is_empty(), "bytes are left over");
    Ok(packet)
}

/// The bytes of one packet.
fn encode(version: ProtocolVersion, packet: &Packet) -> BytesMut {
    let mut buf = BytesMut::new();
    crate::encode(version, packet, None, &mut buf).unwrap();
    buf
}
