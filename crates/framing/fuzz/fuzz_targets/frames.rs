//! Frames, whole and cut: the same payload, never more than came, and no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use magpie_framing::frames::{Deframer, From, Violation};

fn take(bytes: &[u8], piece: usize) -> Result<Vec<u8>, Violation> {
    let mut deframer = Deframer::new(From::Client, 1 << 16);
    let mut payload = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let length = deframer.take(&mut piece)?;
        payload.extend_from_slice(&piece[..length]);
        let _ = deframer.heard();
    }
    Ok(payload)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = take(bytes, bytes.len().max(1));
    assert_eq!(take(bytes, usize::from(piece).max(1)), whole);
    if let Ok(payload) = whole {
        assert!(payload.len() <= bytes.len());
    }
});
