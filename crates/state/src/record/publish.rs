//! A published message, as it is stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::{Message, MessageProperties, PacketId, PayloadFormat, QoS};

use super::kind;
use crate::wire::{
    put_bytes, put_text, read_bytes, read_client, read_epoch, read_packet_id, read_text,
    read_topic, read_u8, read_u32, read_u64,
};
use crate::{ClientId, DecodeError, Epoch};

/// A published message, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Who published.
    pub client: ClientId,
    /// Epoch of the publishing connection.
    pub epoch: Epoch,
    /// QoS of the PUBLISH. 0 for some wills and what is only retained.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// Kept as the topic's retained message, and delivered to nobody from here: it goes the direct way.
    pub retain_only: bool,
    /// Wall clock time of acceptance, milliseconds since 1970; stamped once.
    pub published_ms: u64,
    /// What a repeat is known by, for a QoS 2 message of a session that outlives its connection.
    pub dedup: Option<Dedup>,
    /// The Application Message.
    pub message: Arc<Message>,
}

/// What a repeated QoS 2 PUBLISH is known by, together with its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dedup {
    /// Incarnation of the Session: the epoch of the attach that created it.
    pub session: Epoch,
    /// The PUBLISH's Packet Identifier.
    pub packet_id: PacketId,
}

/// A publish without its message, borrowed: what [`encode_publish`] writes before it. The fields are those of [`Publish`].
#[derive(Debug, Clone, Copy)]
pub struct PublishHead<'a> {
    /// Who published.
    pub client: &'a ClientId,
    /// Epoch of the publishing connection.
    pub epoch: Epoch,
    /// QoS of the PUBLISH.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// Kept as the topic's retained message only.
    pub retain_only: bool,
    /// Wall clock time of acceptance, milliseconds since 1970.
    pub published_ms: u64,
    /// What a repeat is known by.
    pub dedup: Option<Dedup>,
}

impl PublishHead<'_> {
    /// Whether the partition must read the record when it is applied: then the batch is one that
    /// [has control](crate::partition::Append::has_control).
    #[must_use]
    pub const fn must_read(&self) -> bool {
        self.retain || self.dedup.is_some()
    }
}

const QOS_MASK: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const PROPERTIES: u8 = 0b0000_1000;
const DEDUP: u8 = 0b0001_0000;
const RETAIN_ONLY: u8 = 0b0010_0000;

/// Where the publish time stands in the record's bytes: behind kind, flags and epoch.
const PUBLISHED_MS_AT: usize = 10;

impl Publish {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_publish(&self.head(), &self.message, out);
    }

    /// Everything but the message.
    #[must_use]
    pub const fn head(&self) -> PublishHead<'_> {
        PublishHead {
            client: &self.client,
            epoch: self.epoch,
            qos: self.qos,
            retain: self.retain,
            retain_only: self.retain_only,
            published_ms: self.published_ms,
            dedup: self.dedup,
        }
    }

    pub(super) fn decode_body(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let flags = read_u8(buf, "publish flags")?;
        let qos =
            QoS::from_u8(flags & QOS_MASK).ok_or(DecodeError::new("publish flags", "QoS 3"))?;
        let epoch = read_epoch(buf)?;
        let published_ms = read_u64(buf, "publish time")?;
        let client = read_client(buf)?;
        let dedup = match flags & DEDUP {
            0 => None,
            _ => Some(Dedup {
                session: read_epoch(buf)?,
                packet_id: read_packet_id(buf)?,
            }),
        };
        let topic = read_topic(buf, "topic name")?;
        let properties = match flags & PROPERTIES {
            0 => None,
            _ => Some(Box::new(decode_properties(buf)?)),
        };
        let payload = read_bytes(buf, "payload")?;
        let message = Arc::new(Message {
            topic,
            payload,
            properties,
        });
        Ok(Self {
            client,
            epoch,
            qos,
            retain: flags & RETAIN != 0,
            retain_only: flags & RETAIN_ONLY != 0,
            published_ms,
            dedup,
            message,
        })
    }
}

/// [`Publish::encode`] from borrowed parts: what the publish path calls for every message.
pub fn encode_publish(head: &PublishHead<'_>, message: &Message, out: &mut BytesMut) {
    let PublishHead {
        client,
        epoch,
        qos,
        retain,
        retain_only,
        published_ms,
        dedup,
    } = head;
    out.reserve(64 + client.0.len() + message.topic.as_str().len() + message.payload.len());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(kind::PUBLISH);
    out.put_u8(
        *qos as u8
            | flag(*retain, RETAIN)
            | flag(*retain_only, RETAIN_ONLY)
            | flag(dedup.is_some(), DEDUP)
            | flag(message.properties.is_some(), PROPERTIES),
    );
    out.put_u64_le(epoch.0);
    out.put_u64_le(*published_ms);
    put_text(out, &client.0);
    if let Some(Dedup { session, packet_id }) = dedup {
        out.put_u64_le(session.0);
        out.put_u16_le(packet_id.number());
    }
    put_text(out, message.topic.as_str());
    if let Some(properties) = &message.properties {
        encode_properties(properties, out);
    }
    put_bytes(out, &message.payload);
}

/// A publish as far as it is to be found again: without taking its record apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skimmed {
    /// Sessions may wait for it: QoS 1 or 2, and not only retained.
    pub(crate) waits: bool,
    pub(crate) qos: QoS,
    /// Where the topic's text is in the record.
    pub(crate) topic: Range<usize>,
    /// Length of the record.
    pub(crate) bytes: usize,
}

/// Skims the record that `bytes` begin with. `None` if it is no publish, or has properties: then it is to be decoded.
pub(crate) fn skim(bytes: &[u8]) -> Option<Skimmed> {
    let length_16 = |at: usize| {
        let length = bytes.get(at..at + 2)?;
        Some(usize::from(u16::from_le_bytes(length.try_into().ok()?)))
    };
    let (&kind, &flags) = (bytes.first()?, bytes.get(1)?);
    if kind != kind::PUBLISH || flags & PROPERTIES != 0 {
        return None;
    }
    let client = PUBLISHED_MS_AT + 8;
    let mut at = client + 2 + length_16(client)?;
    if flags & DEDUP != 0 {
        at += 10;
    }
    let topic = at + 2..at + 2 + length_16(at)?;
    let payload = bytes.get(topic.end..topic.end + 4)?;
    let payload = u32::from_le_bytes(payload.try_into().ok()?) as usize;
    let end = (topic.end + 4).checked_add(payload)?;
    let qos = QoS::from_u8(flags & QOS_MASK)?;
    (end <= bytes.len()).then_some(Skimmed {
        waits: qos != QoS::AtMostOnce && flags & RETAIN_ONLY == 0,
        qos,
        topic,
        bytes: end,
    })
}

/// The publish time of a record, milliseconds since 1970; `None` if it is no publish.
#[must_use]
pub fn published_ms(record: &[u8]) -> Option<u64> {
    let at = record.get(PUBLISHED_MS_AT..PUBLISHED_MS_AT + 8)?;
    is_publish(record).then(|| at.try_into().map(u64::from_le_bytes).ok())?
}

/// Sets the publish time of a record that [is a publish](is_publish).
pub(crate) fn stamp(record: &mut [u8], published_ms: u64) {
    record[PUBLISHED_MS_AT..PUBLISHED_MS_AT + 8].copy_from_slice(&published_ms.to_le_bytes());
}

/// Whether the bytes of a record are those of a publish.
pub(crate) fn is_publish(record: &[u8]) -> bool {
    record.first() == Some(&kind::PUBLISH)
}

/// Appends the properties that belong to a message.
pub(crate) fn encode_properties(properties: &MessageProperties, out: &mut BytesMut) {
    let MessageProperties {
        payload_format,
        expiry_interval_s,
        content_type,
        response_topic,
        correlation_data,
        user_properties,
    } = properties;
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    out.put_u8(
        flag(*payload_format == Some(PayloadFormat::Utf8), 0)
            | flag(*payload_format == Some(PayloadFormat::Unspecified), 5)
            | flag(expiry_interval_s.is_some(), 1)
            | flag(content_type.is_some(), 2)
            | flag(response_topic.is_some(), 3)
            | flag(correlation_data.is_some(), 4),
    );
    if let Some(expiry) = expiry_interval_s {
        out.put_u32_le(*expiry);
    }
    if let Some(content_type) = content_type {
        put_text(out, content_type);
    }
    if let Some(topic) = response_topic {
        put_text(out, topic.as_str());
    }
    if let Some(data) = correlation_data {
        put_bytes(out, data);
    }
    out.put_u32_le(u32::try_from(user_properties.len()).expect("bounded by the packet size"));
    for (name, value) in user_properties {
        put_text(out, name);
        put_text(out, value);
    }
}

/// The reverse of [`encode_properties`].
pub(crate) fn decode_properties(buf: &mut Bytes) -> Result<MessageProperties, DecodeError> {
    let flags = read_u8(buf, "property flags")?;
    let has = |bit: u8| flags & (1 << bit) != 0;
    let mut properties = MessageProperties {
        payload_format: (has(0) || has(5)).then(|| PayloadFormat::new(has(0))),
        ..MessageProperties::default()
    };
    if has(1) {
        properties.expiry_interval_s = Some(read_u32(buf, "message expiry")?);
    }
    if has(2) {
        properties.content_type = Some(read_text(buf, "content type")?);
    }
    if has(3) {
        properties.response_topic = Some(read_topic(buf, "response topic")?);
    }
    if has(4) {
        properties.correlation_data = Some(read_bytes(buf, "correlation data")?);
    }
    let count = read_u32(buf, "user properties")?;
    for _ in 0..count {
        let name = read_text(buf, "user property")?;
        properties
            .user_properties
            .push((name, read_text(buf, "user property")?));
    }
    Ok(properties)
}
