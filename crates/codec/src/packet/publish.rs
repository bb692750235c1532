//! PUBLISH (section 3.3).

use std::fmt;
use std::num::NonZeroU16;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, PropertyId, PropertyReader, PutProperty, boxed, put_length,
};
use crate::reader::Reader;
use crate::sink::{Measure, Sink};
use crate::{
    Limits, Message, MessageProperties, PacketId, ProtocolVersion, PublishHeader, QoS, ReasonCode,
    Role, TopicName,
};

/// A PUBLISH packet as it was received. `Debug` shows the payload's size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Publish {
    /// DUP; never true at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// The Packet Identifier; `Some` exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// The Topic Name; `None` only with a topic alias, that then stands for it.
    pub topic: Option<TopicName>,
    /// Topic Alias; version 5 only.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription Identifiers, each 1 to [`VARIABLE_INT_MAX`](crate::VARIABLE_INT_MAX); version 5 only, and from servers
    /// only [MQTT-3.3.4-6].
    pub subscription_ids: SmallVec<[u32; 1]>,
    /// The properties that belong to the message; version 5 only.
    pub properties: Option<Box<MessageProperties>>,
    /// The payload: a slice of the read buffer.
    pub payload: Bytes,
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("packet_id", &self.packet_id)
            .field("topic", &self.topic)
            .field("topic_alias", &self.topic_alias)
            .field("subscription_ids", &self.subscription_ids)
            .field("properties", &self.properties)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

const RETAIN: u8 = 0b0001;
const DUP: u8 = 0b1000;

impl Publish {
    /// Takes a body apart; the payload is what is left of it.
    // Inlined, and put together only at the end: a packet is large enough that moving it about costs more than reading it.
    #[inline(always)]
    pub(crate) fn decode(
        flags: u8,
        version: ProtocolVersion,
        role: Role,
        limits: &Limits,
        mut body: Bytes,
    ) -> Result<Self, Fault> {
        let (dup, qos) = read_delivery_flags(flags, version)?;
        let mut reader = Reader::new(&body, version, limits);
        // [MQTT-3.3.2-1], [MQTT-3.3.2-1 v3.1.1]
        // Version 5 allows an empty topic with a topic alias.
        let topic = if version.has_properties() && reader.skip_empty_field() {
            None
        } else {
            Some(reader.topic_name()?)
        };
        let packet_id = if qos > QoS::AtMostOnce {
            Some(reader.packet_id()?)
        } else {
            None
        };
        let (topic_alias, subscription_ids, properties, payload_at) =
            if version.has_properties() && !reader.skip_empty_block() {
                // The reader is given away as a copy, so that this one can stay in registers.
                let block = PublishProperties::decode(role, reader)?;
                (
                    block.topic_alias,
                    block.subscription_ids,
                    block.of_message,
                    block.end,
                )
            } else {
                (None, SmallVec::new(), None, reader.position())
            };
        if topic.is_none() && topic_alias.is_none() {
            return Err(Fault::protocol(
                "3.3.2.1",
                "a PUBLISH has neither topic nor topic alias",
            ));
        }
        // An empty payload must not keep the buffer alive.
        let payload = if payload_at < body.len() {
            body.advance(payload_at);
            body
        } else {
            Bytes::new()
        };
        Ok(Self {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            packet_id,
            topic,
            topic_alias,
            subscription_ids,
            properties,
            payload,
        })
    }

    pub(crate) fn parts(&self) -> PublishParts<'_> {
        PublishParts {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            topic: self.topic.as_ref().map_or("", TopicName::as_str),
            topic_alias: self.topic_alias,
            subscription_ids: &self.subscription_ids,
            expiry_interval_s: self
                .properties
                .as_ref()
                .and_then(|properties| properties.expiry_interval_s),
            properties: self.properties.as_deref(),
            payload: &self.payload,
        }
    }
}

/// DUP and QoS of the fixed header.
fn read_delivery_flags(flags: u8, version: ProtocolVersion) -> Result<(bool, QoS), Fault> {
    let Some(qos) = QoS::from_u8(flags >> 1 & 0b11) else {
        // [MQTT-3.3.1-4 v3.1.1]
        return Err(Fault::malformed("MQTT-3.3.1-4", "a PUBLISH has QoS 3"));
    };
    let dup = flags & DUP != 0;
    if dup && qos == QoS::AtMostOnce {
        // 3.1 gives the flag no meaning here, and does not forbid it.
        if version == ProtocolVersion::V3_1 {
            return Ok((false, qos));
        }
        // [MQTT-3.3.1-2 v3.1.1]
        return Err(Fault::malformed(
            "MQTT-3.3.1-2",
            "a PUBLISH at QoS 0 has DUP",
        ));
    }
    Ok((dup, qos))
}

/// The properties of a PUBLISH, those of the packet apart from those of the message.
#[derive(Default)]
struct PublishProperties {
    topic_alias: Option<NonZeroU16>,
    subscription_ids: SmallVec<[u32; 1]>,
    of_message: Option<Box<MessageProperties>>,
    /// Where in the body the block ends and the payload starts.
    end: usize,
}

impl PublishProperties {
    #[inline(never)]
    fn decode(role: Role, mut reader: Reader<'_>) -> Result<Self, Fault> {
        let mut properties = Self::default();
        let mut of_message = MessageProperties::default();
        let mut block = PropertyReader::open(&mut reader)?;
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::TopicAlias => {
                    properties.topic_alias = Some(topic_alias(block.values.u16()?)?);
                }
                PropertyId::SubscriptionIdentifier => {
                    properties.subscription_ids.push(block.subscription_id()?);
                }
                id => {
                    if !of_message.read(id, &mut block)? {
                        return Err(MISPLACED);
                    }
                }
            }
        }
        if role == Role::Server && !properties.subscription_ids.is_empty() {
            return Err(Fault::protocol(
                "MQTT-3.3.4-6",
                "a client's PUBLISH has a subscription identifier",
            ));
        }
        properties.of_message = boxed(of_message);
        properties.end = reader.position();
        Ok(properties)
    }
}

fn topic_alias(alias: u16) -> Result<NonZeroU16, Fault> {
    // [MQTT-3.3.2-8]
    NonZeroU16::new(alias).ok_or(Fault::new(
        ReasonCode::TopicAliasInvalid,
        "MQTT-3.3.2-8",
        "a topic alias is 0",
    ))
}

/// All that is written for a PUBLISH, wherever it is kept.
pub(crate) struct PublishParts<'a> {
    dup: bool,
    qos: QoS,
    retain: bool,
    packet_id: Option<PacketId>,
    /// Empty if only the alias is sent.
    topic: &'a str,
    topic_alias: Option<NonZeroU16>,
    subscription_ids: &'a [u32],
    expiry_interval_s: Option<u32>,
    properties: Option<&'a MessageProperties>,
    pub(crate) payload: &'a [u8],
}

impl<'a> PublishParts<'a> {
    #[inline]
    pub(crate) fn of_delivery(header: &'a PublishHeader, message: &'a Message) -> Self {
        let properties = message.properties.as_deref();
        let sends_topic = header
            .topic_alias
            .is_none_or(|(_, sends_topic)| sends_topic);
        Self {
            dup: header.dup,
            qos: header.qos,
            retain: header.retain,
            packet_id: header.packet_id,
            topic: if sends_topic {
                message.topic.as_str()
            } else {
                ""
            },
            topic_alias: header.topic_alias.map(|(alias, _)| alias),
            subscription_ids: &header.subscription_ids,
            expiry_interval_s: header
                .expiry_interval_s
                .or_else(|| properties.and_then(|properties| properties.expiry_interval_s)),
            properties,
            payload: &message.payload,
        }
    }

    /// Packet type and flags.
    pub(crate) const fn first_byte(&self) -> u8 {
        let mut byte = 0x30 | (self.qos as u8) << 1;
        // [MQTT-3.3.1-2], [MQTT-3.3.1-2 v3.1.1]
        if self.dup && self.qos as u8 > 0 {
            byte |= DUP;
        }
        if self.retain {
            byte |= RETAIN;
        }
        byte
    }

    const fn has_properties(&self) -> bool {
        self.topic_alias.is_some()
            || self.expiry_interval_s.is_some()
            || !self.subscription_ids.is_empty()
            || self.properties.is_some()
    }

    fn put_properties<S: Sink>(&self, sink: &mut S) {
        if let Some(alias) = self.topic_alias {
            sink.property_u16(PropertyId::TopicAlias, alias.get());
        }
        if let Some(seconds) = self.expiry_interval_s {
            sink.property_u32(PropertyId::MessageExpiryInterval, seconds);
        }
        for id in self.subscription_ids {
            sink.subscription_id(*id);
        }
        if let Some(properties) = self.properties {
            properties.put_lasting(sink);
        }
    }
}

impl Body for PublishParts<'_> {
    #[inline]
    fn put<S: Sink>(&self, version: ProtocolVersion, _: Detail, sink: &mut S) {
        let topic_may_be_empty = version.has_properties() && self.topic_alias.is_some();
        if self.topic.is_empty() && !topic_may_be_empty {
            return sink.refuse("a PUBLISH has neither topic nor topic alias");
        }
        sink.binary(self.topic.as_bytes());
        // [MQTT-2.2.1-2], [MQTT-2.3.1-5 v3.1.1]
        if self.qos > QoS::AtMostOnce {
            match self.packet_id {
                Some(packet_id) => sink.u16(packet_id.number()),
                None => return sink.refuse("a PUBLISH above QoS 0 has no packet identifier"),
            }
        }
        if version.has_properties() {
            if self.has_properties() {
                let mut measure = Measure::default();
                self.put_properties(&mut measure);
                put_length(measure.bytes(), sink);
                self.put_properties(sink);
            } else {
                // [MQTT-2.2.2-1]
                sink.u8(0);
            }
        }
        sink.raw(self.payload);
    }
}
