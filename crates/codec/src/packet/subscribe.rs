//! SUBSCRIBE (section 3.8).

use crate::{PacketId, QoS, TopicFilter, UserProperties};

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
