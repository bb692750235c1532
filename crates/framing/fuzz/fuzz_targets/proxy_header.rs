//! PROXY headers: what is taken as one lies within the bytes and the limit, and does not depend on what follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magpie_framing::proxy_header::{HEADER_BYTES_MAX, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(header)) = parse(bytes) {
        assert!(header.length <= bytes.len() && header.length <= HEADER_BYTES_MAX);
        assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
    }
});
