//! SUBACK and UNSUBACK (sections 3.9 and 3.11).

use crate::{AckProperties, PacketId, ReasonCode};

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
