//! From packets to a write buffer: the last step of the data path.

use std::num::NonZeroU32;

use bytes::BytesMut;

use crate::packet::PublishParts;
use crate::property::Detail;
use crate::sink::{Measure, Sink};
use crate::{
    EncodeError, Message, Packet, ProtocolVersion, PublishHeader, ReasonCode, VARIABLE_INT_MAX,
};

/// Appends a packet to `buf`. What the version cannot say is left out; a CONNECT is written in its own version.
///
/// `packet_bytes_max` is the receiver's Maximum Packet Size. To keep an answer within it, its user properties and then
/// its Reason String are left out.
///
/// # Errors
/// Each leaves `buf` as it was. [`EncodeError::TooLarge`] for a PUBLISH means: the message counts as delivered to this
/// receiver [MQTT-3.1.2-25].
pub fn encode(
    version: ProtocolVersion,
    packet: &Packet,
    packet_bytes_max: Option<NonZeroU32>,
    buf: &mut BytesMut,
) -> Result<(), EncodeError> {
    let first_byte = |flags: u8| (packet.packet_type() as u8) << 4 | flags;
    let frame = Frame {
        version,
        packet_bytes_max,
    };
    if version.has_properties() && !has_valid_reasons(packet) {
        return Err(EncodeError::Invalid(
            "the packet cannot carry this reason code",
        ));
    }
    match packet {
        Packet::Publish(publish) => {
            let parts = publish.parts();
            frame.put(parts.first_byte(), &parts, buf)
        }
        Packet::Connect(connect) => Frame {
            version: connect.version,
            ..frame
        }
        .put(first_byte(0), &**connect, buf),
        Packet::ConnAck(connack) => frame.put(first_byte(0), connack, buf),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
            frame.put(first_byte(0), ack, buf)
        }
        Packet::PubRel(ack) => frame.put(first_byte(0b0010), ack, buf),
        Packet::Subscribe(subscribe) => frame.put(first_byte(0b0010), subscribe, buf),
        Packet::SubAck(suback) => frame.put(first_byte(0), suback, buf),
        Packet::Unsubscribe(unsubscribe) => frame.put(first_byte(0b0010), unsubscribe, buf),
        Packet::UnsubAck(unsuback) => frame.put(first_byte(0), unsuback, buf),
        Packet::PingReq | Packet::PingResp => {
            buf.extend_from_slice(&[first_byte(0), 0]);
            Ok(())
        }
        Packet::Disconnect(disconnect) => frame.put(first_byte(0), disconnect, buf),
        Packet::Auth(_) if !version.has_properties() => Err(EncodeError::NotInVersion),
        Packet::Auth(auth) => frame.put(first_byte(0), auth, buf),
    }
}

/// Whether the reason codes are of the packet's table [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1],
/// [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2], [MQTT-3.14.2-1], [MQTT-3.15.2-1].
fn has_valid_reasons(packet: &Packet) -> bool {
    let is_valid = |reason: &ReasonCode| reason.is_valid_in(packet.packet_type());
    match packet {
        Packet::ConnAck(connack) => is_valid(&connack.reason),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            is_valid(&ack.reason)
        }
        Packet::SubAck(suback) => suback.reasons.iter().all(is_valid),
        Packet::UnsubAck(unsuback) => unsuback.reasons.iter().all(is_valid),
        Packet::Disconnect(disconnect) => is_valid(&disconnect.reason),
        Packet::Auth(auth) => is_valid(&auth.reason),
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp => true,
    }
}

/// Appends one delivery of a shared message as a PUBLISH packet.
///
/// # Errors
/// Each leaves `buf` as it was: [`EncodeError::TooLarge`] only beyond what MQTT can frame; whether the receiver takes a
/// packet of this size is to be asked before, with [`publish_bytes`].
pub fn encode_publish(
    version: ProtocolVersion,
    header: &PublishHeader,
    message: &Message,
    buf: &mut BytesMut,
) -> Result<(), EncodeError> {
    let parts = PublishParts::of_delivery(header, message);
    Frame {
        version,
        packet_bytes_max: None,
    }
    .put(parts.first_byte(), &parts, buf)
}

/// As [`encode_publish`], but without the payload at the end: for a large one, that the caller writes from where it is
/// rather than copy it for each receiver.
///
/// # Errors
/// As [`encode_publish`].
pub fn encode_publish_head(
    version: ProtocolVersion,
    header: &PublishHeader,
    message: &Message,
    buf: &mut BytesMut,
) -> Result<(), EncodeError> {
    let mut parts = PublishParts::of_delivery(header, message);
    let payload_bytes = std::mem::take(&mut parts.payload).len();
    let frame = Frame {
        version,
        packet_bytes_max: None,
    };
    let head_bytes = measure(&parts, version, Detail::All)?;
    let Some((remaining_bytes, _)) = frame.sizes(head_bytes + payload_bytes) else {
        return Err(EncodeError::TooLarge);
    };
    buf.reserve(FIXED_HEADER_BYTES_MAX + head_bytes);
    buf.u8(parts.first_byte());
    buf.variable_int(remaining_bytes);
    parts.put(version, Detail::All, buf);
    Ok(())
}

/// The size of the packet that [`encode_publish`] would write, fixed header included: to be compared with the
/// receiver's Maximum Packet Size [MQTT-3.1.2-24].
///
/// # Errors
/// As [`encode_publish`].
pub fn publish_bytes(
    version: ProtocolVersion,
    header: &PublishHeader,
    message: &Message,
) -> Result<usize, EncodeError> {
    let parts = PublishParts::of_delivery(header, message);
    let frame = Frame {
        version,
        packet_bytes_max: None,
    };
    let (_, packet_bytes) = frame
        .sizes(measure(&parts, version, Detail::All)?)
        .ok_or(EncodeError::TooLarge)?;
    Ok(packet_bytes)
}

/// The body of a packet: all that follows the fixed header.
pub(crate) trait Body {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S);
}

const FIXED_HEADER_BYTES_MAX: usize = 5;

/// What bounds and shapes the packets for one receiver.
#[derive(Clone, Copy)]
struct Frame {
    version: ProtocolVersion,
    packet_bytes_max: Option<NonZeroU32>,
}

impl Frame {
    /// Writes a packet with as much detail as fits.
    fn put<B: Body>(self, first_byte: u8, body: &B, buf: &mut BytesMut) -> Result<(), EncodeError> {
        // [MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.5.2-2], [MQTT-3.5.2-3],
        // [MQTT-3.6.2-2], [MQTT-3.6.2-3], [MQTT-3.7.2-2], [MQTT-3.7.2-3], [MQTT-3.9.2-1], [MQTT-3.9.2-2],
        // [MQTT-3.11.2-1], [MQTT-3.11.2-2], [MQTT-3.14.2-3], [MQTT-3.14.2-4], [MQTT-3.15.2-2], [MQTT-3.15.2-3]
        for detail in [Detail::All, Detail::ReasonString, Detail::Bare] {
            let body_bytes = measure(body, self.version, detail)?;
            let Some((remaining_bytes, packet_bytes)) = self.sizes(body_bytes) else {
                continue;
            };
            buf.reserve(packet_bytes);
            buf.u8(first_byte);
            buf.variable_int(remaining_bytes);
            body.put(self.version, detail, buf);
            return Ok(());
        }
        Err(EncodeError::TooLarge)
    }

    /// The remaining length and the size of the packet around a body; `None` if it is too large.
    fn sizes(self, body_bytes: usize) -> Option<(u32, usize)> {
        let remaining_bytes = u32::try_from(body_bytes)
            .ok()
            .filter(|bytes| *bytes <= VARIABLE_INT_MAX)?;
        let length_bytes = match remaining_bytes {
            0..0x80 => 1,
            0x80..0x4000 => 2,
            0x4000..0x20_0000 => 3,
            _ => 4,
        };
        let packet_bytes = 1 + length_bytes + body_bytes;
        let fits = self
            .packet_bytes_max
            .is_none_or(|max| packet_bytes <= max.get() as usize);
        fits.then_some((remaining_bytes, packet_bytes))
    }
}

fn measure<B: Body>(
    body: &B,
    version: ProtocolVersion,
    detail: Detail,
) -> Result<usize, EncodeError> {
    let mut measure = Measure::default();
    body.put(version, detail, &mut measure);
    measure.finish()
}
