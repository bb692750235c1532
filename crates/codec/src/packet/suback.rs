//! SUBACK and UNSUBACK (sections 3.9 and 3.11).

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{Detail, put_block};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{AckProperties, PacketId, PacketType, ProtocolVersion, ReasonCode};

/// A SUBACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// The Packet Identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter of the SUBSCRIBE, in its order [MQTT-3.8.4-6]. Before version 5 every error is sent as 0x80.
    pub reasons: Vec<ReasonCode>,
    /// Version 5 only.
    pub properties: Option<Box<AckProperties>>,
}

/// An UNSUBACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// The Packet Identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One for each filter of the UNSUBSCRIBE, in its order. Empty from a peer before version 5, and not sent to one.
    pub reasons: Vec<ReasonCode>,
    /// Version 5 only.
    pub properties: Option<Box<AckProperties>>,
}

impl SubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let properties = if reader.version.has_properties() {
            AckProperties::decode(reader)?
        } else {
            None
        };
        Ok(Self {
            packet_id,
            reasons: read_reasons(PacketType::SubAck, reader)?,
            properties,
        })
    }
}

impl UnsubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        if !reader.version.has_properties() {
            return Ok(Self {
                packet_id,
                reasons: Vec::new(),
                properties: None,
            });
        }
        let properties = AckProperties::decode(reader)?;
        Ok(Self {
            packet_id,
            reasons: read_reasons(PacketType::UnsubAck, reader)?,
            properties,
        })
    }
}

/// Reads the rest of the packet, one byte for each filter.
fn read_reasons(packet: PacketType, reader: &mut Reader<'_>) -> Result<Vec<ReasonCode>, Fault> {
    let mut reasons = Vec::new();
    while !reader.is_empty() {
        let reason = reader.reason(packet)?;
        if !reader.version.has_properties() && !is_return_code(reason) {
            return Err(Fault::protocol(
                "MQTT-3.9.3-2 v3.1.1",
                "a SUBACK return code is reserved",
            ));
        }
        reasons.push(reason);
    }
    if reasons.is_empty() {
        return Err(Fault::protocol(
            "3.9.3",
            "an acknowledgement has no reason code",
        ));
    }
    Ok(reasons)
}

/// Whether 3.1.1 knows this code in SUBACK.
const fn is_return_code(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::Success
            | ReasonCode::GrantedQoS1
            | ReasonCode::GrantedQoS2
            | ReasonCode::UnspecifiedError
    )
}

impl Body for SubAck {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        sink.u16(self.packet_id.number());
        if version.has_properties() {
            put_block(self.properties.as_deref(), detail, sink);
        }
        for reason in &self.reasons {
            // [MQTT-3.9.3-2 v3.1.1]
            let known = version.has_properties() || !reason.is_error();
            sink.u8(if known {
                *reason
            } else {
                ReasonCode::UnspecifiedError
            }
            .into());
        }
    }
}

impl Body for UnsubAck {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        sink.u16(self.packet_id.number());
        if version.has_properties() {
            put_block(self.properties.as_deref(), detail, sink);
            for reason in &self.reasons {
                sink.u8((*reason).into());
            }
        }
    }
}
