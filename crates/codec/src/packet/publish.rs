//! PUBLISH (section 3.3).

use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{MessageProperties, PacketId, QoS, TopicName};

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
