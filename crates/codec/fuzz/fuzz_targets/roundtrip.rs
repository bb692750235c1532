//! What was decoded can be encoded, and decodes to the same again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use magpie_codec::{Decoder, Limits, ProtocolVersion, encode};

fuzz_target!(|input: (u8, &[u8])| {
    let (end, bytes) = input;
    let mut decoder = match end % 4 {
        0 => Decoder::client(ProtocolVersion::V3_1, Limits::default()),
        1 => Decoder::client(ProtocolVersion::V3_1_1, Limits::default()),
        2 => Decoder::client(ProtocolVersion::V5, Limits::default()),
        _ => Decoder::server(Limits::default()),
    };
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(packet)) = decoder.decode(&mut buf) {
        let version = decoder.version().expect("a packet was decoded");
        let mut again = BytesMut::new();
        encode(version, &packet, None, &mut again).expect("what was decoded can be encoded");
        let decoded = decoder
            .clone()
            .decode(&mut again)
            .expect("what was encoded can be decoded");
        assert_eq!(decoded, Some(packet));
        assert!(again.is_empty());
    }
});
