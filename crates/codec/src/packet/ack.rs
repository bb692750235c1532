//! PUBACK, PUBREC, PUBREL and PUBCOMP (sections 3.4 to 3.7): four packets of one shape.

use crate::{PacketId, ReasonCode, Text, UserProperties};

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
}
