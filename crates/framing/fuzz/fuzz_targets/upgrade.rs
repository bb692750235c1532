//! Requests for an upgrade, and answers to one: whatever comes, a decision is made within the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magpie_framing::upgrade::{HEAD_BYTES_MAX, Rules, accepted, answer};

fuzz_target!(|bytes: &[u8]| {
    let origins = ["https://app.example".to_owned()];
    let rules = Rules {
        path: "/mqtt",
        origins: &origins,
        is_loopback: bytes.len() % 2 == 0,
    };
    match answer(bytes, rules) {
        None => assert!(bytes.len() < HEAD_BYTES_MAX),
        Some(verdict) => {
            assert!(verdict.length <= bytes.len());
            assert!(verdict.response.starts_with("HTTP/1.1 "));
        }
    }
    let _ = accepted(bytes, [0; 16]);
});
