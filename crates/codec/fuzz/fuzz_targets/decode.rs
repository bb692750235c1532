//! No bytes of a peer panic, at either end, in any version, however the reads split them.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use magpie_codec::{Decoder, Limits, ProtocolVersion};

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (end, split, bytes) = input;
    let limits = Limits {
        packet_bytes_max: 4096,
        connect_bytes_max: 2048,
        topic_levels_max: 8,
        user_properties_max: 4,
        filters_max: 4,
    };
    let mut decoder = match end % 4 {
        0 => Decoder::client(ProtocolVersion::V3_1, limits),
        1 => Decoder::client(ProtocolVersion::V3_1_1, limits),
        2 => Decoder::client(ProtocolVersion::V5, limits),
        _ => Decoder::server(limits),
    };
    let (first, second) = bytes.split_at(usize::from(split).min(bytes.len()));
    let mut buf = BytesMut::new();
    for part in [first, second] {
        buf.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(packet)) => drop(packet),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
