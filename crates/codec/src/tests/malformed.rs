//! Bytes that break one rule each, by the rule's id.

use bytes::BytesMut;

use super::decode;
use crate::{DecodeError, Decoder, Limits, PacketType, ProtocolVersion, ReasonCode, Role};

use ProtocolVersion::{V3_1, V3_1_1, V5};
use ReasonCode::{MalformedPacket, ProtocolError, TopicAliasInvalid, UnsupportedProtocolVersion};

/// A fixed header around a body, which must be short.
fn frame(first_byte: u8, body: &[u8]) -> Vec<u8> {
    [&[first_byte, u8::try_from(body.len()).unwrap()], body].concat()
}

fn check(
    version: ProtocolVersion,
    role: Role,
    bytes: &[u8],
    reason: ReasonCode,
    rule: &str,
) -> DecodeError {
    let error = decode(version, role, bytes).expect_err(rule);
    assert_eq!(
        (error.reason, error.rule),
        (reason, rule),
        "{bytes:02x?}: {error}"
    );
    assert_eq!(error.answer_in, (version == V5).then_some(V5), "{error}");
    error
}

/// From a client, version 5.
fn check_v5(first_byte: u8, body: &[u8], reason: ReasonCode, rule: &str) {
    check(V5, Role::Server, &frame(first_byte, body), reason, rule);
}

/// From a server, version 5.
fn check_v5_server(first_byte: u8, body: &[u8], reason: ReasonCode, rule: &str) {
    check(V5, Role::Client, &frame(first_byte, body), reason, rule);
}

fn check_v3_1_1(first_byte: u8, body: &[u8], reason: ReasonCode, rule: &str) {
    check(V3_1_1, Role::Server, &frame(first_byte, body), reason, rule);
}

/// A first CONNECT.
fn connect_error(body: &[u8]) -> DecodeError {
    let mut buf = BytesMut::from(&frame(0x10, body)[..]);
    Decoder::server(Limits::default())
        .decode(&mut buf)
        .unwrap_err()
}

fn check_connect(body: &[u8], reason: ReasonCode, rule: &str, answer_in: Option<ProtocolVersion>) {
    let error = connect_error(body);
    assert_eq!(
        (error.reason, error.rule, error.answer_in),
        (reason, rule, answer_in),
        "{body:02x?}: {error}"
    );
    assert_eq!(error.packet, Some(PacketType::Connect));
}

/// [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1], [MQTT-2.2.2-1 v3.1.1],
/// [MQTT-2.2.2-2 v3.1.1], [MQTT-3.6.1-1 v3.1.1], [MQTT-3.8.1-1 v3.1.1], [MQTT-3.10.1-1 v3.1.1],
/// [MQTT-3.14.1-1 v3.1.1]
#[test]
fn fixed_header() {
    check_v5(0x00, b"", MalformedPacket, "2.1.2");
    check_v3_1_1(0xf0, b"", MalformedPacket, "2.1.2");
    for first_byte in [
        0x11, 0x41, 0x52, 0x60, 0x63, 0x6a, 0x71, 0x80, 0x8a, 0xa0, 0xc1, 0xe1, 0xf1,
    ] {
        check_v5(first_byte, b"\0\x01", MalformedPacket, "MQTT-2.1.3-1");
        if first_byte < 0xf0 {
            check_v3_1_1(first_byte, b"\0\x01", MalformedPacket, "MQTT-2.1.3-1");
        }
    }
    check(
        V5,
        Role::Server,
        b"\x30\xff\xff\xff\xff",
        MalformedPacket,
        "2.1.4",
    );
    check(
        V5,
        Role::Server,
        b"\xc0\x80\0",
        MalformedPacket,
        "MQTT-1.5.5-1",
    );
    // Older versions do not ask for the shortest form.
    assert!(decode(V3_1_1, Role::Server, b"\xc0\x80\0").is_ok());
    // 3.1 repeats PUBREL, SUBSCRIBE and UNSUBSCRIBE with DUP.
    assert!(decode(V3_1, Role::Server, b"\x6a\x02\0\x01").is_ok());
    assert!(decode(V3_1, Role::Server, b"\x8a\x06\0\x01\0\x01a\0").is_ok());
    check(
        V3_1,
        Role::Server,
        b"\x60\x02\0\x01",
        MalformedPacket,
        "MQTT-2.1.3-1",
    );
}

/// [MQTT-3.1.0-1]
#[test]
fn connect_comes_first() {
    let error = Decoder::server(Limits::default())
        .decode(&mut BytesMut::from(&b"\x30"[..]))
        .unwrap_err();
    assert_eq!(
        (error.reason, error.rule, error.answer_in),
        (ProtocolError, "MQTT-3.1.0-1", None)
    );
}

/// [MQTT-3.1.2-1 v3.1.1], [MQTT-3.1.2-2 v3.1.1]
#[test]
fn connect_version() {
    let check = |name: &[u8], level: u8, rule, answer_in| {
        let body = [&[0, name.len() as u8], name, &[level, 2, 0, 0, 0, 0, 0]].concat();
        check_connect(&body, UnsupportedProtocolVersion, rule, answer_in);
    };
    check(b"HTTP", 4, "MQTT-3.1.2-1", None);
    check(b"mqtt", 5, "MQTT-3.1.2-1", None);
    check(b"MQTT", 6, "MQTT-3.1.2-2", Some(V5));
    check(b"MQTT", 3, "MQTT-3.1.2-2", Some(V3_1_1));
    check(b"MQTT", 0x84, "MQTT-3.1.2-2", Some(V3_1_1));
    check(b"MQIsdp", 4, "MQTT-3.1.2-2", Some(V3_1));
    check(b"MQIsdp", 0x83, "MQTT-3.1.2-2", Some(V3_1));
    check_connect(b"\0\x04MQ", MalformedPacket, "1.5", None);
    check_connect(b"", MalformedPacket, "1.5", None);
}

/// [MQTT-3.1.2-9], [MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.2-18], [MQTT-3.1.2-19], [MQTT-3.1.4-1],
/// [MQTT-3.1.2-3 v3.1.1], [MQTT-3.1.2-9 v3.1.1], [MQTT-3.1.2-11 v3.1.1], [MQTT-3.1.2-13 v3.1.1],
/// [MQTT-3.1.2-14 v3.1.1], [MQTT-3.1.2-15 v3.1.1], [MQTT-3.1.2-18 v3.1.1], [MQTT-3.1.2-19 v3.1.1],
/// [MQTT-3.1.2-20 v3.1.1], [MQTT-3.1.2-21 v3.1.1]
#[test]
fn connect_flags() {
    let v5 =
        |flags, rest: &[u8]| [b"\0\x04MQTT\x05", &[flags][..], b"\0\x3c\0\0\x01c", rest].concat();
    let v3 =
        |flags, rest: &[u8]| [b"\0\x04MQTT\x04", &[flags][..], b"\0\x3c\0\x01c", rest].concat();
    check_connect(&v5(0x03, b""), MalformedPacket, "MQTT-3.1.2-3", Some(V5));
    check_connect(&v3(0x03, b""), MalformedPacket, "MQTT-3.1.2-3", None);
    check_connect(&v5(0x0a, b""), MalformedPacket, "MQTT-3.1.2-11", Some(V5));
    check_connect(
        &v5(0x1e, b"\0\0\x01w\0\x01x"),
        MalformedPacket,
        "MQTT-3.1.2-12",
        Some(V5),
    );
    check_connect(&v5(0x22, b""), MalformedPacket, "MQTT-3.1.2-13", Some(V5));
    check_connect(
        &v3(0x42, b"\0\x01p"),
        MalformedPacket,
        "MQTT-3.1.2-22 v3.1.1",
        None,
    );
    // A flag without its field, a field without its flag.
    check_connect(&v5(0x82, b""), MalformedPacket, "1.5", Some(V5));
    check_connect(&v3(0x82, b""), MalformedPacket, "1.5", None);
    check_connect(&v5(0x02, b"\0\x01u"), MalformedPacket, "2.1.4", Some(V5));
    check_connect(&v5(0x42, b""), MalformedPacket, "1.5", Some(V5));
    check_connect(&v3(0xc2, b"\0\x01u"), MalformedPacket, "1.5", None);
    check_connect(&v3(0x02, b"\0\x01u"), MalformedPacket, "2.1.4", None);
    check_connect(&v5(0x06, b"\0\0\x01w"), MalformedPacket, "1.5", Some(V5));
    check_connect(&v3(0x06, b"\0\x01w"), MalformedPacket, "1.5", None);
    check_connect(&v3(0x0a, b""), MalformedPacket, "MQTT-3.1.2-11", None);
    check_connect(&v3(0x22, b""), MalformedPacket, "MQTT-3.1.2-13", None);
    check_connect(
        &v3(0x1e, b"\0\x01w\0\x01x"),
        MalformedPacket,
        "MQTT-3.1.2-12",
        None,
    );
    // The will.
    check_connect(
        &v5(0x06, b"\0\0\0\0\x01x"),
        MalformedPacket,
        "MQTT-4.7.3-1",
        Some(V5),
    );
    check_connect(
        &v5(0x06, b"\0\0\x01#\0\x01x"),
        MalformedPacket,
        "MQTT-3.3.2-2",
        Some(V5),
    );
    check_connect(
        &v5(0x06, b"\x02\x25\x01\0\x01w\0\x01x"),
        MalformedPacket,
        "2.2.2.2",
        Some(V5),
    );
    check_connect(
        &v5(0x06, b"\x02\x01\x02\0\x01w\0\x01x"),
        ProtocolError,
        "2.2.2.2",
        Some(V5),
    );
}

/// [MQTT-1.5.7-1], [MQTT-3.1.4-1]
#[test]
fn connect_properties() {
    let check = |block: &[u8], reason, rule| {
        let length = [u8::try_from(block.len()).unwrap()];
        check_connect(
            &[b"\0\x04MQTT\x05\x02\0\x3c", &length[..], block, b"\0\x01c"].concat(),
            reason,
            rule,
            Some(V5),
        );
    };
    // No such property, one of another packet, one that is cut off, a length that is too long.
    check(b"\x04\0", MalformedPacket, "2.2.2.2");
    check(b"\xff\0", MalformedPacket, "2.2.2.2");
    check(b"\x23\0\x01", MalformedPacket, "2.2.2.2");
    check(b"\x11\0\0\0", MalformedPacket, "1.5");
    check_connect(
        b"\0\x04MQTT\x05\x02\0\x3c\x09\0\x01c",
        MalformedPacket,
        "1.5",
        Some(V5),
    );
    check_connect(
        b"\0\x04MQTT\x05\x02\0\x3c\x80\0\0\x01c",
        MalformedPacket,
        "MQTT-1.5.5-1",
        Some(V5),
    );
    check_connect(
        b"\0\x04MQTT\x05\x02\0\x3c\xff\xff\xff\xff\x01",
        MalformedPacket,
        "1.5.5",
        Some(V5),
    );
    // Zero, twice, neither 0 nor 1, data without method.
    check(b"\x21\0\0", ProtocolError, "2.2.2.2");
    check(b"\x27\0\0\0\0", ProtocolError, "2.2.2.2");
    check(b"\x11\0\0\0\x01\x11\0\0\0\x01", ProtocolError, "2.2.2.2");
    check(b"\x17\x01\x17\x01", ProtocolError, "2.2.2.2");
    check(b"\x17\x02", ProtocolError, "2.2.2.2");
    check(b"\x19\x02", ProtocolError, "2.2.2.2");
    check(b"\x16\0\x01d", ProtocolError, "3.1.2.11.10");
    check(b"\x26\0\x01\xff\0\0", MalformedPacket, "MQTT-1.5.4-1");
    check(b"\x26\0\x01\0\0\0", MalformedPacket, "MQTT-1.5.4-2");
}

#[test]
fn connack() {
    check_v5_server(0x20, b"\x02\0\0", MalformedPacket, "MQTT-3.2.2-1");
    check_v5_server(0x20, b"\x01\x80\0", ProtocolError, "MQTT-3.2.2-6");
    check_v5_server(0x20, b"\0\x01\0", ProtocolError, "2.4");
    check_v5_server(0x20, b"\0\0\x02\x24\x02", ProtocolError, "2.2.2.2");
    check_v5_server(0x20, b"\0\0\x02\x29\x02", ProtocolError, "2.2.2.2");
    check_v5_server(0x20, b"\0\0", MalformedPacket, "1.5");
    check_v5_server(0x20, b"\0\0\0\0", MalformedPacket, "2.1.4");
    check(
        V3_1_1,
        Role::Client,
        b"\x20\x02\0\x06",
        ProtocolError,
        "3.2.2.3 v3.1.1",
    );
    check(
        V3_1_1,
        Role::Client,
        b"\x20\x03\0\0\0",
        MalformedPacket,
        "2.1.4",
    );
}

/// [MQTT-1.4.0-1 v3.1.1], [MQTT-1.4.0-2 v3.1.1], [MQTT-2.3.1-1 v3.1.1], [MQTT-3.3.1-2 v3.1.1], [MQTT-3.3.1-4 v3.1.1],
/// [MQTT-3.3.2-1], [MQTT-3.3.2-1 v3.1.1], [MQTT-3.3.2-2 v3.1.1], [MQTT-4.7.1-1 v3.1.1], [MQTT-4.7.3-1 v3.1.1]
#[test]
fn publish() {
    check_v5(0x36, b"\0\x01t\0\x01\0", MalformedPacket, "MQTT-3.3.1-4");
    check_v3_1_1(0x36, b"\0\x01t\0\x01", MalformedPacket, "MQTT-3.3.1-4");
    check_v5(0x38, b"\0\x01t\0", MalformedPacket, "MQTT-3.3.1-2");
    check_v3_1_1(0x38, b"\0\x01t", MalformedPacket, "MQTT-3.3.1-2");
    assert!(decode(V3_1, Role::Server, &frame(0x38, b"\0\x01t")).is_ok());
    check_v5(0x32, b"\0\x01t\0\0\0", ProtocolError, "MQTT-2.2.1-3");
    check_v5(0x30, b"\0\0\0", ProtocolError, "3.3.2.1");
    check_v3_1_1(0x30, b"\0\0", MalformedPacket, "MQTT-4.7.3-1");
    check_v5(0x30, b"\0\x01#\0", MalformedPacket, "MQTT-3.3.2-2");
    check_v5(0x30, b"\0\x03a/+\0", MalformedPacket, "MQTT-3.3.2-2");
    check_v5(0x30, b"\0\x01\xff\0", MalformedPacket, "MQTT-1.5.4-1");
    check_v5(
        0x30,
        b"\0\x03\xed\xa0\x80\0",
        MalformedPacket,
        "MQTT-1.5.4-1",
    );
    check_v5(0x30, b"\0\x02a\0\0", MalformedPacket, "MQTT-1.5.4-2");
    check_v5(0x30, b"\0\x05t", MalformedPacket, "1.5");
    check_v5(0x32, b"\0\x01t\0", MalformedPacket, "1.5");
    check_v5(0x30, b"\0\x01t", MalformedPacket, "1.5");
    check_v5(
        0x30,
        b"\0\x01t\x03\x23\0\0",
        TopicAliasInvalid,
        "MQTT-3.3.2-8",
    );
    check_v5(
        0x30,
        b"\0\x01t\x06\x23\0\x01\x23\0\x01",
        ProtocolError,
        "2.2.2.2",
    );
    check_v5(0x30, b"\0\x01t\x02\x01\x02", ProtocolError, "2.2.2.2");
    check_v5(
        0x30,
        b"\0\x01t\x04\x08\0\x01#",
        ProtocolError,
        "MQTT-3.3.2-14",
    );
    check_v5(0x30, b"\0\x01t\x02\x0b\x01", ProtocolError, "MQTT-3.3.4-6");
    check_v5_server(0x30, b"\0\x01t\x02\x0b\0", ProtocolError, "3.8.2.1.2");
    check_v5(0x30, b"\0\x01t\x02\x17\0", MalformedPacket, "2.2.2.2");
}

#[test]
fn acks() {
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        check_v5(first_byte, b"\0\0", ProtocolError, "MQTT-2.2.1-3");
        check_v3_1_1(first_byte, b"\0\0", ProtocolError, "MQTT-2.2.1-3");
        check_v5(first_byte, b"\0", MalformedPacket, "1.5");
        check_v5(first_byte, b"\0\x01\x01", ProtocolError, "2.4");
        check_v5(first_byte, b"\0\x01\x93", ProtocolError, "2.4");
        check_v5(
            first_byte,
            b"\0\x01\0\x02\x24\0",
            MalformedPacket,
            "2.2.2.2",
        );
        check_v5(
            first_byte,
            b"\0\x01\0\x06\x1f\0\0\x1f\0\0",
            ProtocolError,
            "2.2.2.2",
        );
        check_v5(first_byte, b"\0\x01\0\0\0", MalformedPacket, "2.1.4");
        check_v3_1_1(first_byte, b"\0\x01\0", MalformedPacket, "2.1.4");
    }
    check_v5(0x62, b"\0\x01\x10", ProtocolError, "2.4");
    check_v5(0x40, b"\0\x01\x92", ProtocolError, "2.4");
}

/// [MQTT-2.3.1-1 v3.1.1], [MQTT-3.8.3-3 v3.1.1], [MQTT-3.8.3-4 v3.1.1]
#[test]
fn subscribe() {
    check_v5(0x82, b"\0\x01\0", ProtocolError, "MQTT-3.8.3-2");
    check_v3_1_1(0x82, b"\0\x01", ProtocolError, "MQTT-3.8.3-2");
    check_v5(0x82, b"\0\0\0\0\x01a\0", ProtocolError, "MQTT-2.2.1-3");
    check_v5(0x82, b"\0\x01\0\0\x01a\x03", ProtocolError, "3.8.3.1");
    check_v5(0x82, b"\0\x01\0\0\x01a\x30", ProtocolError, "3.8.3.1");
    check_v5(
        0x82,
        b"\0\x01\0\0\x01a\x40",
        MalformedPacket,
        "MQTT-3.8.3-5",
    );
    check_v5(
        0x82,
        b"\0\x01\0\0\x01a\x80",
        MalformedPacket,
        "MQTT-3.8.3-5",
    );
    check_v3_1_1(0x82, b"\0\x01\0\x01a\x04", MalformedPacket, "MQTT-3.8.3-5");
    assert!(decode(V3_1, Role::Server, &frame(0x82, b"\0\x01\0\x01a\x04")).is_ok());
    check_v5(
        0x82,
        b"\0\x01\0\0\x0a$share/g/a\x04",
        ProtocolError,
        "MQTT-3.8.3-4",
    );
    check_v5(
        0x82,
        b"\0\x01\0\0\x09$share//a\0",
        MalformedPacket,
        "MQTT-4.8.2-1",
    );
    check_v5(
        0x82,
        b"\0\x01\0\0\x08$share/g\0",
        MalformedPacket,
        "MQTT-4.8.2-2",
    );
    check_v5(0x82, b"\0\x01\0\0\x02a#\0", MalformedPacket, "MQTT-4.7.1-1");
    check_v5(0x82, b"\0\x01\0\0\x02a+\0", MalformedPacket, "MQTT-4.7.1-2");
    check_v5(0x82, b"\0\x01\0\0\0\0", MalformedPacket, "MQTT-4.7.3-1");
    check_v5(0x82, b"\0\x01\0\0\x01a", MalformedPacket, "1.5");
    check_v5(
        0x82,
        b"\0\x01\x02\x0b\0\0\x01a\0",
        ProtocolError,
        "3.8.2.1.2",
    );
    check_v5(
        0x82,
        b"\0\x01\x04\x0b\x01\x0b\x01\0\x01a\0",
        ProtocolError,
        "2.2.2.2",
    );
    check_v5(
        0x82,
        b"\0\x01\x03\x1f\0\0\0\x01a\0",
        MalformedPacket,
        "2.2.2.2",
    );
}

/// [MQTT-3.10.3-2 v3.1.1]
#[test]
fn unsubscribe() {
    check_v5(0xa2, b"\0\x01\0", ProtocolError, "MQTT-3.10.3-2");
    check_v3_1_1(0xa2, b"\0\x01", ProtocolError, "MQTT-3.10.3-2");
    check_v5(
        0xa2,
        b"\0\x01\x02\x0b\x01\0\x01a",
        MalformedPacket,
        "2.2.2.2",
    );
    check_v5(0xa2, b"\0\x01\0\0\x02a", MalformedPacket, "1.5");
}

#[test]
fn suback_and_unsuback() {
    check_v5_server(0x90, b"\0\x01\0\x03", ProtocolError, "2.4");
    check_v5_server(0x90, b"\0\x01\0", ProtocolError, "3.9.3");
    check_v5_server(0xb0, b"\0\x01\0\x01", ProtocolError, "2.4");
    check(
        V3_1_1,
        Role::Client,
        b"\x90\x03\0\x01\x87",
        ProtocolError,
        "MQTT-3.9.3-2 v3.1.1",
    );
    check(
        V3_1_1,
        Role::Client,
        b"\xb0\x03\0\x01\0",
        MalformedPacket,
        "2.1.4",
    );
}

#[test]
fn ping_disconnect_and_auth() {
    check_v5(0xc0, b"\0", MalformedPacket, "2.1.4");
    check_v5_server(0xd0, b"\0", MalformedPacket, "2.1.4");
    check_v3_1_1(0xe0, b"\0", MalformedPacket, "2.1.4");
    check_v5(0xe0, b"\x88", ProtocolError, "2.4");
    check_v5(0xe0, b"\x8e", ProtocolError, "3.14.2.1");
    check_v5_server(0xe0, b"\x04", ProtocolError, "3.14.2.1");
    check_v5_server(
        0xe0,
        b"\0\x05\x11\0\0\0\x01",
        ProtocolError,
        "MQTT-3.14.2-2",
    );
    check(
        V3_1_1,
        Role::Client,
        b"\xe0\0",
        ProtocolError,
        "3.14 v3.1.1",
    );
    check_v5(0xe0, b"\0\x02\x24\0", MalformedPacket, "2.2.2.2");
    check_v5(0xf0, b"\x18\0", ProtocolError, "3.15.2.2.2");
    check_v5(0xf0, b"\x18", MalformedPacket, "1.5");
    check_v5(0xf0, b"\x80\0", ProtocolError, "2.4");
    check_v5(0xf0, b"", ProtocolError, "3.15.2.1");
    check_v5_server(0xf0, b"\x19\x04\x15\0\x01m", ProtocolError, "3.15.2.1");
}

#[test]
fn packets_of_the_other_end() {
    for bytes in [
        &b"\x20\x03\0\0\0"[..],
        b"\x90\x04\0\x01\0\0",
        b"\xb0\x04\0\x01\0\0",
        b"\xd0\0",
    ] {
        check(V5, Role::Server, bytes, ProtocolError, "2.1.2");
    }
    for bytes in [
        &b"\x82\x07\0\x01\0\0\x01a\0"[..],
        b"\xa2\x06\0\x01\0\0\x01a",
        b"\xc0\0",
    ] {
        check(V5, Role::Client, bytes, ProtocolError, "2.1.2");
    }
}

#[test]
fn limits() {
    let limits = Limits {
        topic_levels_max: 3,
        user_properties_max: 1,
        filters_max: 2,
        ..Limits::default()
    };
    let check = |first_byte, body: &[u8], expected: Option<ReasonCode>| {
        let mut decoder = Decoder::client(V5, limits);
        // Neither end matters here; what a server decodes is decoded after a CONNECT.
        if first_byte != 0x30 {
            decoder = Decoder::server(limits);
            let connect = frame(0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\0");
            decoder.decode(&mut BytesMut::from(&connect[..])).unwrap();
        }
        let result = decoder.decode(&mut BytesMut::from(&frame(first_byte, body)[..]));
        assert_eq!(
            result.err().map(|error| error.reason),
            expected,
            "{body:02x?}"
        );
    };
    check(0x30, b"\0\x05a/b/c\0", None);
    check(0x30, b"\0\x07a/b/c/d\0", Some(ReasonCode::TopicNameInvalid));
    check(0x30, b"\0\x03///\0", Some(ReasonCode::TopicNameInvalid));
    check(0x30, b"\0\x02//\0", None);
    check(0x82, b"\0\x01\0\0\x05a/+/#\0", None);
    check(0x82, b"\0\x01\0\0\x0e$share/g/a/b/c\0", None);
    check(
        0x82,
        b"\0\x01\0\0\x07a/b/+/#\0",
        Some(ReasonCode::TopicFilterInvalid),
    );
    check(0x30, b"\0\x01t\x05\x26\0\0\0\0", None);
    check(
        0x30,
        b"\0\x01t\x0a\x26\0\0\0\0\x26\0\0\0\0",
        Some(ReasonCode::QuotaExceeded),
    );
    check(0xa2, b"\0\x01\0\0\x01a\0\x01b", None);
    check(
        0xa2,
        b"\0\x01\0\0\x01a\0\x01b\0\x01c",
        Some(ReasonCode::QuotaExceeded),
    );
    check(
        0x82,
        b"\0\x01\0\0\x01a\0\0\x01b\0\0\x01c\0",
        Some(ReasonCode::QuotaExceeded),
    );
}

/// [MQTT-3.1.3-4], [MQTT-3.1.3-11], [MQTT-3.1.3-12], [MQTT-3.1.3-4 v3.1.1], [MQTT-3.1.3-10 v3.1.1], [MQTT-3.1.3-11 v3.1.1]
#[test]
fn connect_strings() {
    for (will, fields) in [
        (false, &[&b"\0\x01\xff"[..]][..]),
        (false, &[b"\0\x01c", b"\0\x03\xed\xa0\x80"]),
        (true, &[b"\0\x01c", b"\0\x01\xff", b"\0\x01x", b"\0\x01u"]),
        (true, &[b"\0\x01c", b"\0\x01w", b"\0\x01x", b"\0\x01\xff"]),
    ] {
        let flags = 0x82 | if will { 0x04 } else { 0 };
        let v3 = [b"\0\x04MQTT\x04", &[flags][..], b"\0\x3c", &fields.concat()].concat();
        check_connect(&v3, MalformedPacket, "MQTT-1.5.4-1", None);
        let mut v5 = [b"\0\x04MQTT\x05", &[flags][..], b"\0\x3c\0", fields[0]].concat();
        if will {
            v5.push(0);
        }
        v5.extend_from_slice(&fields[1..].concat());
        check_connect(&v5, MalformedPacket, "MQTT-1.5.4-1", Some(V5));
    }
}

/// [MQTT-3.8.3-1], [MQTT-3.10.3-1], [MQTT-3.3.2-13], [MQTT-3.3.2-19], [MQTT-3.8.3-1 v3.1.1], [MQTT-3.10.3-1 v3.1.1]
#[test]
fn strings_of_other_packets() {
    let (rule, null) = ("MQTT-1.5.4-1", "MQTT-1.5.4-2");
    check_v5(0x82, b"\0\x01\0\0\x01\xff\0", MalformedPacket, rule);
    check_v5(0x82, b"\0\x01\0\0\x01\0\0", MalformedPacket, null);
    check_v3_1_1(0x82, b"\0\x01\0\x01\xff\0", MalformedPacket, rule);
    check_v5(0xa2, b"\0\x01\0\0\x01\xff", MalformedPacket, rule);
    check_v3_1_1(0xa2, b"\0\x01\0\x01\xff", MalformedPacket, rule);
    check_v5(0x30, b"\0\x01t\x04\x08\0\x01\xff", MalformedPacket, rule);
    check_v5(0x30, b"\0\x01t\x04\x03\0\x01\xff", MalformedPacket, rule);
    check_v5(0x30, b"\0\x01t\x04\x03\0\x01\0", MalformedPacket, null);
}
