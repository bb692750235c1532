//! The beginning of TLS, as it comes: whatever is decided of it stays so when more comes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magpie_framing::client_hello::{HELLO_BYTES_MAX, is_complete};

fuzz_target!(|input: (u16, &[u8])| {
    let (end, bytes) = input;
    let first = &bytes[..usize::from(end).min(bytes.len())];
    match (is_complete(first), is_complete(bytes)) {
        (Ok(false), Ok(false)) => assert!(bytes.len() < HELLO_BYTES_MAX),
        (Ok(false), _) => {}
        (decided, later) => assert_eq!(decided, later),
    }
});
