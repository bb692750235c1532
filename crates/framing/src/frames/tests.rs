#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let (head, length) = header(Sent::Binary, payload.len() as u64, Some(MASK));
    let mut bytes = head[..length].to_vec();
    bytes[0] = first;
    let mut payload = payload.to_vec();
    apply_mask(MASK, 0, &mut payload);
    bytes.extend_from_slice(&payload);
    bytes
}

fn deframer() -> Deframer {
    Deframer::new(From::Client, 1 << 20)
}

/// Takes bytes in pieces of so many.
fn take(deframer: &mut Deframer, bytes: &[u8], piece: usize) -> Result<Vec<u8>, Violation> {
    let mut payload = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let length = deframer.take(&mut piece)?;
        payload.extend_from_slice(&piece[..length]);
    }
    Ok(payload)
}

/// [MQTT-6.0.0-2] [MQTT-6.0.0-2 v3.1.1]
#[test]
fn payloads_are_one_stream_however_they_are_cut() {
    let mut bytes = frame(0x02, b"\x10\x0c\x00");
    bytes.extend(frame(0x89, b"are you there?"));
    bytes.extend(frame(0x00, b""));
    bytes.extend(frame(0x00, b"\x04MQ"));
    bytes.extend(frame(0x8a, b"by the way"));
    bytes.extend(frame(0x80, b"TT"));
    bytes.extend(frame(0x82, &[b'x'; 300]));
    bytes.extend(frame(0x82, &[b'y'; 70_000]));
    let mut expected = b"\x10\x0c\x00\x04MQTT".to_vec();
    expected.extend([b'x'; 300]);
    expected.extend([b'y'; 70_000]);
    for piece in [1, 2, 3, 5, 7, 64, 4096, bytes.len()] {
        let mut deframer = deframer();
        assert_eq!(
            take(&mut deframer, &bytes, piece).unwrap(),
            expected,
            "{piece}"
        );
        let Some(Control::Ping(ping)) = deframer.heard() else {
            panic!("a Ping was sent");
        };
        assert_eq!(ping.bytes(), b"are you there?");
        assert_eq!(deframer.heard(), None);
    }
}

#[test]
fn the_last_of_several_pings_is_the_one_that_counts() {
    let mut deframer = deframer();
    let bytes = [frame(0x89, b"1"), frame(0x89, b"2")].concat();
    assert_eq!(take(&mut deframer, &bytes, 100).unwrap(), b"");
    assert!(matches!(deframer.heard(), Some(Control::Ping(it)) if it.bytes() == b"2"));
}

#[test]
fn nothing_is_taken_after_a_close() {
    let mut deframer = deframer();
    let bytes = [
        frame(0x82, b"a"),
        frame(0x88, b"\x03\xe8bye"),
        frame(0x82, b"b"),
    ]
    .concat();
    assert_eq!(take(&mut deframer, &bytes, 100).unwrap(), b"a");
    assert_eq!(deframer.heard(), Some(Control::Close(Some(1000))));
    assert_eq!(take(&mut deframer, &frame(0x82, b"c"), 1).unwrap(), b"");
    assert_eq!(deframer.heard(), Some(Control::Close(Some(1000))));
}

/// [MQTT-6.0.0-1] [MQTT-6.0.0-1 v3.1.1]
#[test]
fn text_is_refused() {
    for first in [0x01, 0x81] {
        let refused = take(&mut deframer(), &frame(first, b"\x10\x0c"), 100);
        assert_eq!(refused, Err(Violation::Text));
    }
}

#[test]
fn what_breaks_the_protocol_is_refused() {
    let unmasked = b"\x82\x01a".to_vec();
    for (what, bytes) in [
        ("an extension", frame(0xc2, b"a")),
        ("not masked", unmasked),
        ("an unknown opcode", frame(0x83, b"a")),
        ("an unknown control opcode", frame(0x8b, b"a")),
        ("a continuation of nothing", frame(0x80, b"a")),
        (
            "a message in a message",
            [frame(0x02, b"a"), frame(0x82, b"a")].concat(),
        ),
        ("a Ping in fragments", frame(0x09, b"a")),
        ("a long Ping", frame(0x89, &[0; 126])),
        ("half a close code", frame(0x88, b"\x03")),
        (
            "a negative length",
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec(),
        ),
    ] {
        let refused = take(&mut deframer(), &bytes, 100);
        assert_eq!(refused, Err(Violation::Protocol), "{what}");
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_at_its_header() {
    let (head, length) = header(Sent::Binary, (1 << 20) + 1, Some(MASK));
    let refused = take(&mut deframer(), &head[..length], 100);
    assert_eq!(refused, Err(Violation::TooLong));
}

#[test]
fn a_server_does_not_mask() {
    let mut deframer = Deframer::new(From::Server, 1 << 20);
    assert_eq!(take(&mut deframer, b"\x82\x01a", 1).unwrap(), b"a");
    assert_eq!(
        take(&mut deframer, &frame(0x82, b"a"), 100),
        Err(Violation::Protocol)
    );
}

proptest! {
    #[test]
    fn no_input_is_taken_for_more_than_it_is(mut bytes: Vec<u8>, cut in 0_usize..64) {
        let whole = take(&mut deframer(), &bytes, bytes.len().max(1));
        let pieces = take(&mut deframer(), &bytes, cut.max(1));
        prop_assert_eq!(whole, pieces);
        if let Ok(length) = deframer().take(&mut bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}
