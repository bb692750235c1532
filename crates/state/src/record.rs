//! Records: what a node's stream carries into a partition, in order. A log entry holds a batch of them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::{Message, MessageProperties, QoS, Text, TopicFilter, TopicName};

use crate::wire::{
    put_bytes, put_stream, read_bytes, read_stream, read_u8, read_u16, read_u32, read_u64,
};
use crate::{ClientId, DecodeError, Epoch, StreamId};

/// The most records in one batch; part of the stored format, since an [`Epoch`] holds a record's ordinal in 16 bits.
pub const RECORDS_PER_BATCH_MAX: u32 = 1 << 16;

/// One record of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message of the replicated class.
    Publish(Publish),
    /// Make a connection of the sending node the client's newest. In the partition of the client identifier.
    Attach {
        /// Whose.
        client: ClientId,
        /// Clean Start.
        clean_start: bool,
        /// Session Expiry Interval, seconds.
        session_expiry_s: u32,
    },
    /// A connection is gone.
    Detach {
        /// Whose.
        client: ClientId,
        /// Which: a newer attachment stays.
        epoch: Epoch,
    },
    /// Refuse what connections of `client` older than `epoch` may still append here. Written before the CONNACK of a takeover whose
    /// previous node did not confirm that its connection is gone.
    Fence {
        /// Whose connections.
        client: ClientId,
        /// The newest attachment.
        epoch: Epoch,
        /// The life of the node that may still send such appends. The fence stands until that life sends an unfence, or is ended.
        against: StreamId,
    },
    /// The node that sends this stream has closed every connection of `client` below `epoch`: its fence is not needed any more.
    Unfence {
        /// Whose connections.
        client: ClientId,
        /// As in the fence.
        epoch: Epoch,
    },
    /// A connection of the sending node takes part in a share group.
    JoinShare {
        /// `$share/{name}/{filter}`.
        filter: TopicFilter,
        /// Number of the connection, unique in the node's life.
        member: u64,
    },
    /// The reverse.
    LeaveShare {
        /// `$share/{name}/{filter}`.
        filter: TopicFilter,
        /// Number of the connection.
        member: u64,
    },
}

/// A published message, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Who published.
    pub client: ClientId,
    /// Epoch of the publishing connection.
    pub epoch: Epoch,
    /// QoS of the PUBLISH, 1 or 2.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// Wall clock time of acceptance, milliseconds since 1970; stamped once.
    pub published_ms: u64,
    /// The Application Message.
    pub message: Arc<Message>,
}

const PUBLISH: u8 = 1;
const FENCE: u8 = 2;
const UNFENCE: u8 = 3;
const JOIN_SHARE: u8 = 4;
const LEAVE_SHARE: u8 = 5;
const ATTACH: u8 = 6;
const DETACH: u8 = 7;

/// Flags of a stored publish.
const QOS_MASK: u8 = 0b0000_0011;
const RETAIN: u8 = 0b0000_0100;
const PROPERTIES: u8 = 0b0000_1000;

impl Record {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Publish(publish) => publish.encode(out),
            Self::Fence {
                client,
                epoch,
                against,
            } => {
                put_client_epoch(FENCE, client, *epoch, out);
                put_stream(out, *against);
            }
            Self::Attach {
                client,
                clean_start,
                session_expiry_s,
            } => {
                out.put_u8(ATTACH);
                put_text(out, &client.0);
                out.put_u8(u8::from(*clean_start));
                out.put_u32_le(*session_expiry_s);
            }
            Self::Detach { client, epoch } => put_client_epoch(DETACH, client, *epoch, out),
            Self::Unfence { client, epoch } => put_client_epoch(UNFENCE, client, *epoch, out),
            Self::JoinShare { filter, member } => put_share(JOIN_SHARE, filter, *member, out),
            Self::LeaveShare { filter, member } => put_share(LEAVE_SHARE, filter, *member, out),
        }
    }

    /// Takes one record off the front of `buf`; payloads and names are slices of it.
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        match read_u8(buf, "record kind")? {
            PUBLISH => Publish::decode_body(buf).map(Self::Publish),
            FENCE => {
                let (client, epoch) = read_client_epoch(buf)?;
                Ok(Self::Fence {
                    client,
                    epoch,
                    against: read_stream(buf, "fenced stream")?,
                })
            }
            UNFENCE => {
                read_client_epoch(buf).map(|(client, epoch)| Self::Unfence { client, epoch })
            }
            ATTACH => Ok(Self::Attach {
                client: ClientId(read_text(buf, "client id")?),
                clean_start: read_u8(buf, "clean start")? != 0,
                session_expiry_s: read_u32(buf, "session expiry")?,
            }),
            DETACH => read_client_epoch(buf).map(|(client, epoch)| Self::Detach { client, epoch }),
            JOIN_SHARE => {
                read_share(buf).map(|(filter, member)| Self::JoinShare { filter, member })
            }
            LEAVE_SHARE => {
                read_share(buf).map(|(filter, member)| Self::LeaveShare { filter, member })
            }
            _ => Err(DecodeError::new("record kind", "unknown")),
        }
    }
}

impl Publish {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_publish(
            &self.client,
            self.epoch,
            self.qos,
            self.retain,
            self.published_ms,
            &self.message,
            out,
        );
    }

    fn decode_body(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let flags = read_u8(buf, "publish flags")?;
        let qos =
            QoS::from_u8(flags & QOS_MASK).ok_or(DecodeError::new("publish flags", "QoS 3"))?;
        let epoch = Epoch(read_u64(buf, "epoch")?);
        let published_ms = read_u64(buf, "publish time")?;
        let client = ClientId(read_text(buf, "client id")?);
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
            published_ms,
            message,
        })
    }
}

/// [`Publish::encode`] from borrowed parts: what the publish path calls for every message.
pub fn encode_publish(
    client: &ClientId,
    epoch: Epoch,
    qos: QoS,
    retain: bool,
    published_ms: u64,
    message: &Message,
    out: &mut BytesMut,
) {
    out.reserve(64 + client.0.len() + message.topic.as_str().len() + message.payload.len());
    let retain = if retain { RETAIN } else { 0 };
    let properties = if message.properties.is_some() {
        PROPERTIES
    } else {
        0
    };
    out.put_u8(PUBLISH);
    out.put_u8(qos as u8 | retain | properties);
    out.put_u64_le(epoch.0);
    out.put_u64_le(published_ms);
    put_text(out, &client.0);
    put_text(out, message.topic.as_str());
    if let Some(properties) = &message.properties {
        encode_properties(properties, out);
    }
    put_bytes(out, &message.payload);
}

/// Appends the properties that belong to a message.
pub(crate) fn encode_properties(properties: &MessageProperties, out: &mut BytesMut) {
    let MessageProperties {
        payload_format_utf8,
        expiry_interval_s,
        content_type,
        response_topic,
        correlation_data,
        user_properties,
    } = properties;
    let flag = |set: bool, bit: u8| if set { 1 << bit } else { 0 };
    out.put_u8(
        flag(*payload_format_utf8, 0)
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
        payload_format_utf8: has(0),
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

fn put_client_epoch(kind: u8, client: &ClientId, epoch: Epoch, out: &mut BytesMut) {
    out.put_u8(kind);
    put_text(out, &client.0);
    out.put_u64_le(epoch.0);
}

fn read_client_epoch(buf: &mut Bytes) -> Result<(ClientId, Epoch), DecodeError> {
    let client = ClientId(read_text(buf, "client id")?);
    Ok((client, Epoch(read_u64(buf, "epoch")?)))
}

fn put_share(kind: u8, filter: &TopicFilter, member: u64, out: &mut BytesMut) {
    out.put_u8(kind);
    put_text(out, filter.as_str());
    out.put_u64_le(member);
}

fn read_share(buf: &mut Bytes) -> Result<(TopicFilter, u64), DecodeError> {
    let filter = read_filter(buf, "share group")?;
    Ok((filter, read_u64(buf, "share member")?))
}

/// A length of 16 bits and the text: an MQTT string has at most 65,535 bytes.
pub(crate) fn put_text(out: &mut impl BufMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("an MQTT string has at most 65,535 bytes"));
    out.put_slice(text.as_bytes());
}

pub(crate) fn read_text(buf: &mut Bytes, what: &'static str) -> Result<Text, DecodeError> {
    let len = usize::from(read_u16(buf, what)?);
    if buf.len() < len {
        return Err(DecodeError::new(what, "too few bytes"));
    }
    Text::try_from(buf.split_to(len)).map_err(|_| DecodeError::new(what, "not an MQTT string"))
}

fn read_topic(buf: &mut Bytes, what: &'static str) -> Result<TopicName, DecodeError> {
    TopicName::try_from(read_text(buf, what)?)
        .map_err(|_| DecodeError::new(what, "not a topic name"))
}

pub(crate) fn read_filter(buf: &mut Bytes, what: &'static str) -> Result<TopicFilter, DecodeError> {
    TopicFilter::try_from(read_text(buf, what)?)
        .map_err(|_| DecodeError::new(what, "not a topic filter"))
}

#[cfg(test)]
mod tests;
