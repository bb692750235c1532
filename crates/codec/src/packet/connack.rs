//! CONNACK (section 3.2).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::{QoS, ReasonCode, Text, UserProperties};

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server goes on with a session it had; false with an error [MQTT-3.2.2-6]. Not sent to 3.1 clients.
    pub session_present: bool,
    /// The outcome. For versions before 5 the codec maps it to the nearest return code and back.
    pub reason: ReasonCode,
    /// Version 5 only.
    pub properties: Option<Box<ConnAckProperties>>,
}

/// The properties of CONNACK (section 3.2.2.3). `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval in seconds, if the server uses another than the client asked for.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum: QoS 1 and 2 messages that the server takes at a time; `None`: 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS; [`QoS::ExactlyOnce`] is not sent.
    pub maximum_qos: QoS,
    /// Retain Available; default true.
    pub retain_available: bool,
    /// Maximum Packet Size in bytes that the server takes; `None`: no limit beyond the protocol's.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_identifier: Option<Text>,
    /// Topic Alias Maximum: the highest alias that the server takes; default 0, none.
    pub topic_alias_maximum: u16,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available; default true.
    pub wildcard_subscription_available: bool,
    /// Subscription Identifiers Available; default true.
    pub subscription_identifiers_available: bool,
    /// Shared Subscription Available; default true.
    pub shared_subscription_available: bool,
    /// Server Keep Alive in seconds, which replaces the client's [MQTT-3.1.2-21].
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<Text>,
    /// Server Reference.
    pub server_reference: Option<Text>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnAckProperties {
    fn default() -> Self {
        Self {
            session_expiry_interval_s: None,
            receive_maximum: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_maximum: 0,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl fmt::Debug for ConnAckProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnAckProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field(
                "assigned_client_identifier",
                &self.assigned_client_identifier,
            )
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field(
                "wildcard_subscription_available",
                &self.wildcard_subscription_available,
            )
            .field(
                "subscription_identifiers_available",
                &self.subscription_identifiers_available,
            )
            .field(
                "shared_subscription_available",
                &self.shared_subscription_available,
            )
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .finish_non_exhaustive()
    }
}
