//! DISCONNECT (section 3.14).

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, block_bytes, boxed,
    put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketType, ProtocolVersion, ReasonCode, Text, UserProperties};

/// A DISCONNECT packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; [`ReasonCode::Success`] is the normal disconnection, and all that versions before 5 can say.
    pub reason: ReasonCode,
    /// Version 5 only.
    pub properties: Option<Box<DisconnectProperties>>,
}

/// The properties of DISCONNECT (section 3.14.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Session Expiry Interval in seconds; `None` leaves that of CONNECT. From clients only [MQTT-3.14.2-2].
    pub session_expiry_interval_s: Option<u32>,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Server Reference: where to go instead.
    pub server_reference: Option<Text>,
}

impl Disconnect {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        // Sections 3.14.2.1 and 3.14.2.2.1: what is left out is the normal disconnection, without properties.
        if !reader.version.has_properties() || reader.is_empty() {
            return Ok(Self::default());
        }
        let reason = reader.reason(PacketType::Disconnect)?;
        let properties = if reader.is_empty() {
            None
        } else {
            DisconnectProperties::decode(reader)?
        };
        Ok(Self { reason, properties })
    }
}

impl Body for Disconnect {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
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

impl DisconnectProperties {
    fn decode(reader: &mut Reader<'_>) -> Result<Option<Box<Self>>, Fault> {
        let mut properties = Self::default();
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::SessionExpiryInterval => {
                    properties.session_expiry_interval_s = Some(block.values.u32()?)
                }
                PropertyId::ReasonString => properties.reason_string = Some(block.values.text()?),
                PropertyId::UserProperty => block.user_property(&mut properties.user_properties)?,
                PropertyId::ServerReference => {
                    properties.server_reference = Some(block.values.text()?)
                }
                _ => return Err(MISPLACED),
            }
        }
        Ok(boxed(properties))
    }
}

impl Properties for DisconnectProperties {
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S) {
        if let Some(seconds) = self.session_expiry_interval_s {
            sink.property_u32(PropertyId::SessionExpiryInterval, seconds);
        }
        sink.property_text(PropertyId::ServerReference, self.server_reference.as_ref());
        sink.explanation(detail, self.reason_string.as_ref(), &self.user_properties);
    }
}
