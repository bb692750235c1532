//! UNSUBSCRIBE (section 3.10).

use crate::{PacketId, TopicFilter, UserProperties};

/// An UNSUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// User properties, in order; version 5 only.
    pub user_properties: UserProperties,
    /// The filters, in order, at least one [MQTT-3.10.3-2].
    pub filters: Vec<TopicFilter>,
}
