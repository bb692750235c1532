//! SUBSCRIBE (section 3.8).

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketId, ProtocolVersion, QoS, ReasonCode, TopicFilter, UserProperties};

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// Subscription Identifier, 1 to [`VARIABLE_INT_MAX`](crate::VARIABLE_INT_MAX); version 5 only.
    pub subscription_id: Option<u32>,
    /// User properties, in order; version 5 only.
    pub user_properties: UserProperties,
    /// The filters with their options, in order, at least one [MQTT-3.8.3-2].
    pub filters: Vec<(TopicFilter, SubscriptionOptions)>,
}

/// The options of one subscription (section 3.8.3.1). Before version 5 only the QoS can be said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which the client wants messages.
    pub qos: QoS,
    /// No Local: not the client's own messages. Never set on a shared subscription [MQTT-3.8.3-4].
    pub no_local: bool,
    /// Retain As Published: messages keep the RETAIN flag they were published with.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when the subscription is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send them at each SUBSCRIBE.
    #[default]
    Send = 0,
    /// Send them only if the subscription did not exist.
    SendIfNew = 1,
    /// Do not send them.
    DoNotSend = 2,
}

const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RESERVED: u8 = 0b1100_0000;
const RESERVED_V3: u8 = 0b1111_1100;

impl Subscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let mut subscribe = Self {
            packet_id,
            subscription_id: None,
            user_properties: Vec::new(),
            filters: Vec::new(),
        };
        if reader.version.has_properties() {
            subscribe.read_properties(reader)?;
        }
        while !reader.is_empty() {
            check_filter_count(subscribe.filters.len(), reader)?;
            let filter = reader.topic_filter()?;
            let options = SubscriptionOptions::decode(reader)?;
            if options.no_local && filter.is_shared() {
                return Err(Fault::protocol(
                    "MQTT-3.8.3-4",
                    "a shared subscription has No Local",
                ));
            }
            subscribe.filters.push((filter, options));
        }
        // [MQTT-3.8.3-3 v3.1.1]
        if subscribe.filters.is_empty() {
            return Err(Fault::protocol(
                "MQTT-3.8.3-2",
                "a SUBSCRIBE has no topic filter",
            ));
        }
        Ok(subscribe)
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::SubscriptionIdentifier => {
                    block.refuse_repeated(id)?;
                    self.subscription_id = Some(block.subscription_id()?);
                }
                PropertyId::UserProperty => block.user_property(&mut self.user_properties)?,
                _ => return Err(MISPLACED),
            }
        }
        Ok(())
    }
}

/// Checks that another filter may follow those that were read.
pub(crate) fn check_filter_count(filters: usize, reader: &Reader<'_>) -> Result<(), Fault> {
    if filters == reader.limits.filters_max {
        return Err(Fault::new(
            ReasonCode::QuotaExceeded,
            "3.8.3",
            "more topic filters than the limit",
        ));
    }
    Ok(())
}

impl SubscriptionOptions {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let byte = reader.u8()?;
        let reserved = match reader.version {
            // Section 3.8 of 3.1 calls the upper bits unused.
            ProtocolVersion::V3_1 => 0,
            ProtocolVersion::V3_1_1 => RESERVED_V3,
            ProtocolVersion::V5 => RESERVED,
        };
        // [MQTT-3.8.3-4 v3.1.1]
        if byte & reserved != 0 {
            return Err(Fault::malformed(
                "MQTT-3.8.3-5",
                "a reserved bit of the subscription options is set",
            ));
        }
        let qos = QoS::from_u8(byte & 0b11)
            .ok_or(Fault::protocol("3.8.3.1", "a subscription asks for QoS 3"))?;
        if !reader.version.has_properties() {
            return Ok(Self {
                qos,
                ..Self::default()
            });
        }
        let retain_handling = match byte >> 4 & 0b11 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => {
                return Err(Fault::protocol(
                    "3.8.3.1",
                    "a subscription has Retain Handling 3",
                ));
            }
        };
        Ok(Self {
            qos,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }

    fn encode(self, version: ProtocolVersion) -> u8 {
        let mut byte = self.qos.into();
        if version.has_properties() {
            byte |= if self.no_local { NO_LOCAL } else { 0 };
            byte |= if self.retain_as_published {
                RETAIN_AS_PUBLISHED
            } else {
                0
            };
            byte |= (self.retain_handling as u8) << 4;
        }
        byte
    }
}

impl Body for Subscribe {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        if self.filters.is_empty() {
            return sink.refuse("a SUBSCRIBE has no topic filter");
        }
        sink.u16(self.packet_id.number());
        if version.has_properties() {
            put_block(Some(self), detail, sink);
        }
        for (filter, options) in &self.filters {
            sink.text(filter.as_text());
            sink.u8(options.encode(version));
        }
    }
}

impl Properties for Subscribe {
    fn put<S: Sink>(&self, _: Detail, sink: &mut S) {
        if let Some(id) = self.subscription_id {
            sink.subscription_id(id);
        }
        sink.user_properties(&self.user_properties);
    }
}
