//! Application Messages: what is published, routed, shared between sessions and delivered.

use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::error::Fault;
use crate::property::{Detail, Properties, PropertyId, PropertyReader, PutProperty};
use crate::sink::Sink;
use crate::{PacketId, QoS, Text, TopicName, UserProperties};

/// An Application Message as it is routed: what is the same for every subscriber, shared by `Arc<Message>`.
///
/// What differs from delivery to delivery is in [`PublishHeader`]. `Debug` shows the payload's size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic, never an alias.
    pub topic: TopicName,
    /// The payload, opaque to the broker.
    pub payload: Bytes,
    /// The properties that travel with the message; `None` when all have their defaults.
    pub properties: Option<Box<MessageProperties>>,
}

/// The properties of a PUBLISH or a Will that belong to the message and not to the packet (section 3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// Payload Format Indicator, if there is one. The codec does not look into the payload.
    pub payload_format: Option<PayloadFormat>,
    /// Message Expiry Interval in seconds; `None`: the message does not expire.
    pub expiry_interval_s: Option<u32>,
    /// Content Type.
    pub content_type: Option<Text>,
    /// Response Topic.
    pub response_topic: Option<TopicName>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties, in order [MQTT-3.3.2-18].
    pub user_properties: UserProperties,
}

/// What a payload claims to be (section 3.3.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFormat {
    /// 0: nothing. Means the same as no indicator, and is passed on all the same [MQTT-3.3.2-4].
    Unspecified,
    /// 1: UTF-8.
    Utf8,
}

impl PayloadFormat {
    /// As the indicator says.
    #[must_use]
    pub const fn new(is_utf8: bool) -> Self {
        if is_utf8 {
            Self::Utf8
        } else {
            Self::Unspecified
        }
    }
}

/// The part of a PUBLISH that is one delivery's own, beside the shared [`Message`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishHeader {
    /// DUP; must be false at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// The Packet Identifier; `Some` exactly at QoS 1 and 2 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// The Topic Alias and whether the topic is sent with it: `true` sets the alias, `false` uses it. Version 5 only.
    pub topic_alias: Option<(NonZeroU16, bool)>,
    /// The Subscription Identifiers of the matching subscriptions, each 1 to [`VARIABLE_INT_MAX`](crate::VARIABLE_INT_MAX).
    pub subscription_ids: SmallVec<[u32; 1]>,
    /// Message Expiry Interval in seconds that is left for this receiver; overrides the message's [MQTT-3.3.2-6].
    pub expiry_interval_s: Option<u32>,
}

impl Message {
    /// The same message in allocations of its own, so that it does not keep a read buffer alive.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self {
            topic: self.topic.compact(),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: self
                .properties
                .as_ref()
                .map(|properties| Box::new(properties.compact())),
        }
    }

    /// About how many bytes of memory it keeps: topic, payload and properties, each of which a publisher can make large.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let properties = self.properties.as_deref();
        self.topic.as_str().len()
            + self.payload.len()
            + properties.map_or(0, MessageProperties::bytes)
    }
}

impl MessageProperties {
    /// An empty user property takes memory, too.
    fn bytes(&self) -> usize {
        let pairs = self.user_properties.iter();
        let of_pair = |(name, value): &(Text, Text)| {
            size_of::<(Text, Text)>() + name.as_str().len() + value.as_str().len()
        };
        size_of::<Self>()
            + self.content_type.as_ref().map_or(0, |it| it.as_str().len())
            + self
                .response_topic
                .as_ref()
                .map_or(0, |it| it.as_str().len())
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + pairs.map(of_pair).sum::<usize>()
    }

    /// The same properties in allocations of their own; see [`Text::compact`].
    #[must_use]
    pub fn compact(&self) -> Self {
        Self {
            payload_format: self.payload_format,
            expiry_interval_s: self.expiry_interval_s,
            content_type: self.content_type.as_ref().map(Text::compact),
            response_topic: self.response_topic.as_ref().map(TopicName::compact),
            correlation_data: self.correlation_data.as_deref().map(Bytes::copy_from_slice),
            user_properties: self
                .user_properties
                .iter()
                .map(|(name, value)| (name.compact(), value.compact()))
                .collect(),
        }
    }

    /// Takes the value of a property that belongs to the message; false if `id` is none of them.
    pub(crate) fn read(
        &mut self,
        id: PropertyId,
        block: &mut PropertyReader<'_>,
    ) -> Result<bool, Fault> {
        match id {
            PropertyId::PayloadFormatIndicator => {
                let is_utf8 = block.bool()?;
                self.payload_format = Some(PayloadFormat::new(is_utf8));
            }
            PropertyId::MessageExpiryInterval => self.expiry_interval_s = Some(block.values.u32()?),
            // [MQTT-3.3.2-19]
            PropertyId::ContentType => self.content_type = Some(block.values.text()?),
            PropertyId::ResponseTopic => self.response_topic = Some(response_topic(block)?),
            PropertyId::CorrelationData => self.correlation_data = Some(block.values.binary()?),
            PropertyId::UserProperty => block.user_property(&mut self.user_properties)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Writes all but the expiry interval, which a delivery may override.
    pub(crate) fn put_lasting<S: Sink>(&self, sink: &mut S) {
        // [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18], [MQTT-3.3.2-20]
        if let Some(format) = self.payload_format {
            let indicator = u8::from(format == PayloadFormat::Utf8);
            sink.property_u8(PropertyId::PayloadFormatIndicator, indicator);
        }
        sink.property_text(PropertyId::ContentType, self.content_type.as_ref());
        sink.property_text(
            PropertyId::ResponseTopic,
            self.response_topic.as_ref().map(TopicName::as_text),
        );
        sink.property_binary(PropertyId::CorrelationData, self.correlation_data.as_ref());
        sink.user_properties(&self.user_properties);
    }
}

fn response_topic(block: &mut PropertyReader<'_>) -> Result<TopicName, Fault> {
    // [MQTT-3.3.2-13]
    block.values.topic_name().map_err(|fault| match fault.rule {
        "MQTT-3.3.2-2" => Fault::protocol("MQTT-3.3.2-14", "a response topic contains a wildcard"),
        _ => fault,
    })
}

impl Properties for MessageProperties {
    fn put<S: Sink>(&self, _: Detail, sink: &mut S) {
        if let Some(seconds) = self.expiry_interval_s {
            sink.property_u32(PropertyId::MessageExpiryInterval, seconds);
        }
        self.put_lasting(sink);
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("properties", &self.properties)
            .finish()
    }
}
