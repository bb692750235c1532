//! The cheap way to talk MQTT: PUBLISH packets encoded once and patched, incoming packets read in place.
//!
//! The broker is to be measured, not the generator. Only what the codec encoded is sent, only what a broker may send
//! is understood.

use bytes::BytesMut;
use magpie_codec::{
    Message, PacketId, PacketType, ProtocolVersion, PublishHeader, QoS, TopicName, encode_publish,
};

use super::stamp::Stamp;

/// A row of equal PUBLISH packets in one buffer, of which Packet Identifier and stamp are patched before each write.
pub(super) struct PublishFrames {
    bytes: Vec<u8>,
    frame_bytes: usize,
    /// Within a frame; `None` at QoS 0.
    packet_id_at: Option<usize>,
    payload_at: usize,
}

/// A row is about as long as one write of the socket takes.
const ROW_BYTES: usize = 128 * 1024;

impl PublishFrames {
    /// Frames for messages of one publisher; `payload_bytes` is at least [`Stamp::BYTES`].
    pub(super) fn new(
        version: ProtocolVersion,
        topic: TopicName,
        qos: QoS,
        payload_bytes: usize,
        window: usize,
    ) -> anyhow::Result<Self> {
        let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let header = PublishHeader {
            qos,
            packet_id,
            ..PublishHeader::default()
        };
        let payload = vec![b'.'; payload_bytes.max(Stamp::BYTES)].into();
        let message = Message {
            topic,
            payload,
            properties: None,
        };
        let mut frame = BytesMut::new();
        encode_publish(version, &header, &message, &mut frame)?;
        let payload_at = frame.len() - message.payload.len();
        // Between identifier and payload there is an empty property block, where the version has properties.
        let packet_id_at =
            packet_id.map(|_| payload_at - usize::from(version.has_properties()) - 2);
        let slots = (ROW_BYTES / frame.len()).clamp(1, window.max(1));
        Ok(Self {
            bytes: frame.repeat(slots),
            frame_bytes: frame.len(),
            packet_id_at,
            payload_at,
        })
    }

    /// How many frames there are.
    pub(super) const fn slots(&self) -> usize {
        self.bytes.len() / self.frame_bytes
    }

    /// Makes the frame at `slot` the one of this message.
    pub(super) fn patch(&mut self, slot: usize, packet_id: u16, stamp: Stamp) {
        let frame = &mut self.bytes[slot * self.frame_bytes..][..self.frame_bytes];
        if let Some(at) = self.packet_id_at {
            frame[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        stamp.write(&mut frame[self.payload_at..]);
    }

    /// The first `count` frames.
    pub(super) fn first(&self, count: usize) -> &[u8] {
        &self.bytes[..count * self.frame_bytes]
    }
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP with success, in the form that all versions share.
pub(super) fn put_ack(packet: PacketType, packet_id: u16, out: &mut Vec<u8>) {
    let flags = if packet == PacketType::PubRel {
        0b0010
    } else {
        0
    };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[(packet as u8) << 4 | flags, 2, high, low]);
}

/// An incoming packet, as far as a bench cares.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    Publish {
        qos: u8,
        packet_id: u16,
        payload: &'a [u8],
    },
    PubAck {
        packet_id: u16,
        refused: bool,
    },
    PubRec {
        packet_id: u16,
        refused: bool,
    },
    PubRel {
        packet_id: u16,
    },
    PubComp {
        packet_id: u16,
    },
    Disconnect {
        reason: u8,
    },
    /// PINGRESP and whatever else means nothing here.
    Other,
}

/// A packet that ends before its fields do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server sent a malformed packet")
    }
}

impl std::error::Error for Malformed {}

/// Takes the packet at the front of `buf`: the packet and its size. `None` if it is not complete yet.
pub(super) fn next_frame(
    buf: &[u8],
    version: ProtocolVersion,
) -> Result<Option<(Incoming<'_>, usize)>, Malformed> {
    let Some((&first_byte, rest)) = buf.split_first() else {
        return Ok(None);
    };
    let Some((body_bytes, length_bytes)) = variable_int(rest)? else {
        return Ok(None);
    };
    let start = 1 + length_bytes;
    let Some(body) = buf.get(start..start + body_bytes) else {
        return Ok(None);
    };
    let incoming = match first_byte >> 4 {
        3 => publish((first_byte >> 1) & 0b11, body, version)?,
        4 => Incoming::PubAck {
            packet_id: u16_at(body, 0)?,
            refused: is_refusal(body),
        },
        5 => Incoming::PubRec {
            packet_id: u16_at(body, 0)?,
            refused: is_refusal(body),
        },
        6 => Incoming::PubRel {
            packet_id: u16_at(body, 0)?,
        },
        7 => Incoming::PubComp {
            packet_id: u16_at(body, 0)?,
        },
        14 => Incoming::Disconnect {
            reason: body.first().copied().unwrap_or(0),
        },
        _ => Incoming::Other,
    };
    Ok(Some((incoming, start + body_bytes)))
}

fn publish(qos: u8, body: &[u8], version: ProtocolVersion) -> Result<Incoming<'_>, Malformed> {
    let mut at = 2 + usize::from(u16_at(body, 0)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = u16_at(body, at)?;
        at += 2;
    }
    if version.has_properties() {
        let (bytes, length_bytes) =
            variable_int(body.get(at..).ok_or(Malformed)?)?.ok_or(Malformed)?;
        at += length_bytes + bytes;
    }
    Ok(Incoming::Publish {
        qos,
        packet_id,
        payload: body.get(at..).ok_or(Malformed)?,
    })
}

fn u16_at(body: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = body
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Malformed)?;
    Ok(u16::from_be_bytes(*bytes))
}

/// Whether an acknowledgement has a reason code, and that an error.
fn is_refusal(body: &[u8]) -> bool {
    body.get(2).is_some_and(|reason| *reason >= 0x80)
}

/// A variable byte integer and its size; `None` if it is not complete.
fn variable_int(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for at in 0..4 {
        let Some(&byte) = bytes.get(at) else {
            return Ok(None);
        };
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::{Ack, Decoder, Limits, MessageProperties, Packet, ReasonCode, Text, encode};

    use super::*;

    const VERSIONS: [ProtocolVersion; 3] = [
        ProtocolVersion::V3_1,
        ProtocolVersion::V3_1_1,
        ProtocolVersion::V5,
    ];
    const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    fn stamp(seq: u64) -> Stamp {
        Stamp {
            publisher: 3,
            seq,
            sent_ns: seq * 1000,
        }
    }

    /// What is patched is what the codec would have encoded, and what a broker would decode.
    #[test]
    fn patched_frames_are_packets() {
        for version in VERSIONS {
            for qos in QOS {
                let topic = TopicName::from_static("bench/1");
                let mut frames = PublishFrames::new(version, topic.clone(), qos, 64, 3).unwrap();
                assert_eq!(frames.slots(), 3);
                for (slot, packet_id) in [1, 0x1234, u16::MAX].into_iter().enumerate() {
                    frames.patch(slot, packet_id, stamp(slot as u64));
                }
                let mut decoder = Decoder::client(version, Limits::default());
                let mut buf = BytesMut::from(frames.first(3));
                for (slot, packet_id) in [1, 0x1234, u16::MAX].into_iter().enumerate() {
                    let Some(Packet::Publish(publish)) = decoder.decode(&mut buf).unwrap() else {
                        panic!("a PUBLISH");
                    };
                    assert_eq!(publish.topic, Some(topic.clone()));
                    assert_eq!(publish.qos, qos);
                    let expected = PacketId::new(packet_id).filter(|_| qos != QoS::AtMostOnce);
                    assert_eq!(publish.packet_id, expected);
                    assert_eq!(publish.payload.len(), 64);
                    assert_eq!(Stamp::read(&publish.payload), Some(stamp(slot as u64)));
                }
                assert!(buf.is_empty());
            }
        }
    }

    #[test]
    fn a_large_payload_leaves_few_frames() {
        let topic = TopicName::from_static("t");
        let frames =
            PublishFrames::new(ProtocolVersion::V5, topic, QoS::AtLeastOnce, 250_000, 100).unwrap();
        assert_eq!(frames.slots(), 1);
    }

    /// What the codec encodes is read, cut at any byte it is incomplete, and nothing panics.
    #[test]
    fn incoming_packets_are_read_in_place() {
        let topic = TopicName::from_static("a/b");
        for version in VERSIONS {
            for qos in QOS {
                let packet_id = PacketId::new(515).filter(|_| qos != QoS::AtMostOnce);
                let header = PublishHeader {
                    qos,
                    packet_id,
                    ..PublishHeader::default()
                };
                let properties = MessageProperties {
                    content_type: Some(Text::from_static("text/plain")),
                    ..MessageProperties::default()
                };
                let message = Message {
                    topic: topic.clone(),
                    payload: vec![7; 300].into(),
                    properties: Some(Box::new(properties)),
                };
                let mut buf = BytesMut::new();
                encode_publish(version, &header, &message, &mut buf).unwrap();
                for cut in 0..buf.len() {
                    assert_eq!(next_frame(&buf[..cut], version), Ok(None));
                }
                let expected = Incoming::Publish {
                    qos: qos.into(),
                    packet_id: packet_id.map_or(0, PacketId::number),
                    payload: &message.payload,
                };
                assert_eq!(next_frame(&buf, version), Ok(Some((expected, buf.len()))));
            }
        }
        assert_eq!(
            next_frame(&[0x30, 1, 0], ProtocolVersion::V5),
            Err(Malformed)
        );
        assert_eq!(
            next_frame(&[0x30, 0xff, 0xff, 0xff, 0xff], ProtocolVersion::V5),
            Err(Malformed)
        );
    }

    #[test]
    fn acknowledgements_are_written_and_read() {
        let packet_id = PacketId::new(0x0102).unwrap();
        let packets = [
            Packet::PubAck,
            Packet::PubRec,
            Packet::PubRel,
            Packet::PubComp,
        ]
        .map(|packet| packet(Ack::new(packet_id, ReasonCode::Success)));
        for packet in packets {
            let mut expected = BytesMut::new();
            encode(ProtocolVersion::V5, &packet, None, &mut expected).unwrap();
            let mut out = Vec::new();
            put_ack(packet.packet_type(), packet_id.number(), &mut out);
            assert_eq!(out, expected);
        }
        let mut buf = BytesMut::new();
        let ack = Ack::new(packet_id, ReasonCode::QuotaExceeded);
        encode(ProtocolVersion::V5, &Packet::PubAck(ack), None, &mut buf).unwrap();
        let expected = Incoming::PubAck {
            packet_id: 0x0102,
            refused: true,
        };
        assert_eq!(
            next_frame(&buf, ProtocolVersion::V5),
            Ok(Some((expected, buf.len())))
        );
    }
}
