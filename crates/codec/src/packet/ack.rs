//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7): four packets of one shape.

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, block_bytes, boxed,
    put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketId, PacketType, ProtocolVersion, ReasonCode, Text, UserProperties};

/// The content of PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The Packet Identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// The outcome; always [`ReasonCode::Success`] from a peer before version 5, and not sent to one.
    pub reason: ReasonCode,
    /// Version 5 only.
    pub properties: Option<Box<AckProperties>>,
}

/// The properties of the acknowledging packets, SUBACK and UNSUBACK included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AckProperties {
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
}

impl Ack {
    /// An acknowledgement without properties.
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: None,
        }
    }

    pub(crate) fn decode(packet: PacketType, reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        // Sections 3.4.2.1 and 3.4.2.2.1: what is left out at the end is success, without properties.
        if !reader.version.has_properties() || reader.is_empty() {
            return Ok(Self::new(packet_id, ReasonCode::Success));
        }
        let reason = reader.reason(packet)?;
        let properties = if reader.is_empty() {
            None
        } else {
            AckProperties::decode(reader)?
        };
        Ok(Self {
            packet_id,
            reason,
            properties,
        })
    }
}

impl Body for Ack {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        sink.u16(self.packet_id.number());
        if !version.has_properties() {
            return;
        }
        let properties = self.properties.as_deref();
        let has_properties = block_bytes(properties, detail) > 0;
        if has_properties || self.reason != ReasonCode::Success {
            sink.u8(self.reason.into());
        }
        if has_properties {
            put_block(properties, detail, sink);
        }
    }
}

impl AckProperties {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Option<Box<Self>>, Fault> {
        let mut properties = Self::default();
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::ReasonString => properties.reason_string = Some(block.values.text()?),
                PropertyId::UserProperty => block.user_property(&mut properties.user_properties)?,
                _ => return Err(MISPLACED),
            }
        }
        Ok(boxed(properties))
    }
}

impl Properties for AckProperties {
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S) {
        sink.explanation(detail, self.reason_string.as_ref(), &self.user_properties);
    }
}
