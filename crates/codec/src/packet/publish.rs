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
    Message, MessageProperties, PacketId, ProtocolVersion, PublishHeader, QoS, ReasonCode,
    TopicName,
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
    /// Parses all but the payload, and tells where in the body that starts.
    pub(crate) fn decode(flags: u8, mut reader: Reader<'_>) -> Result<(Self, usize), Fault> {
        let qos = QoS::from_u8(flags >> 1 & 0b11)
            .ok_or(Fault::malformed("MQTT-3.3.1-4", "a PUBLISH has QoS 3"))?;
        let mut dup = flags & DUP != 0;
        if dup && qos == QoS::AtMostOnce {
            // 3.1 gives the flag no meaning here, and does not forbid it.
            if reader.version > ProtocolVersion::V3_1 {
                return Err(Fault::malformed(
                    "MQTT-3.3.1-2",
                    "a PUBLISH at QoS 0 has DUP",
                ));
            }
            dup = false;
        }
        let topic = read_topic(&mut reader)?;
        let packet_id = if qos == QoS::AtMostOnce {
            None
        } else {
            Some(reader.packet_id()?)
        };
        let mut publish = Self {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            packet_id,
            topic,
            topic_alias: None,
            subscription_ids: SmallVec::new(),
            properties: None,
            payload: Bytes::new(),
        };
        if reader.version.has_properties() {
            publish.read_properties(&mut reader)?;
            if publish.topic.is_none() && publish.topic_alias.is_none() {
                return Err(Fault::protocol(
                    "3.3.2.1",
                    "a PUBLISH has neither topic nor topic alias",
                ));
            }
        }
        Ok((publish, reader.position()))
    }

    /// The packet with what follows `payload_at` as its payload, without a copy.
    pub(crate) fn with_payload(mut self, mut body: Bytes, payload_at: usize) -> Self {
        // An empty payload must not keep the buffer alive.
        if payload_at < body.len() {
            body.advance(payload_at);
            self.payload = body;
        }
        self
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut block = PropertyReader::open(reader)?;
        if block.values.is_empty() {
            return Ok(());
        }
        let mut properties = MessageProperties::default();
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::TopicAlias => {
                    self.topic_alias = Some(topic_alias(block.values.u16()?)?)
                }
                PropertyId::SubscriptionIdentifier => {
                    self.subscription_ids.push(block.subscription_id()?)
                }
                id => {
                    if !properties.read(id, &mut block)? {
                        return Err(MISPLACED);
                    }
                }
            }
        }
        self.properties = boxed(properties);
        Ok(())
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

/// The topic; `None` if it is empty, which version 5 allows with a topic alias.
fn read_topic(reader: &mut Reader<'_>) -> Result<Option<TopicName>, Fault> {
    if reader.version.has_properties() && reader.next_is_empty_field() {
        reader.u16()?;
        return Ok(None);
    }
    reader.topic_name().map(Some)
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
        // [MQTT-3.3.1-2]
        if self.dup && self.qos as u8 > 0 {
            byte |= DUP;
        }
        if self.retain {
            byte |= RETAIN;
        }
        byte
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
        if self.qos > QoS::AtMostOnce {
            match self.packet_id {
                Some(packet_id) => sink.u16(packet_id.number()),
                None => return sink.refuse("a PUBLISH above QoS 0 has no packet identifier"),
            }
        }
        if version.has_properties() {
            let mut measure = Measure::default();
            self.put_properties(&mut measure);
            put_length(measure.bytes(), sink);
            self.put_properties(sink);
        }
        sink.raw(self.payload);
    }
}
