//! CONNECT (section 3.1).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::{MessageProperties, ProtocolVersion, QoS, Text, TopicName, UserProperties};

/// A CONNECT packet. `Debug` shows neither password nor authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that the client speaks from here on.
    pub version: ProtocolVersion,
    /// Client Identifier; may be empty, and whether the server then assigns one or refuses is not the codec's question.
    pub client_id: Text,
    /// Clean Start; before version 5 Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// User Name.
    pub username: Option<Text>,
    /// Password. Before version 5 only with a user name [MQTT-3.1.2-22 v3.1.1].
    pub password: Option<Bytes>,
    /// The Will.
    pub will: Option<Box<Will>>,
    /// Version 5 only.
    pub properties: Option<Box<ConnectProperties>>,
}

/// The Will Message of a CONNECT and how it is to be published. `Debug` shows the payload's size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Will {
    /// Will Topic.
    pub topic: TopicName,
    /// Will Payload.
    pub payload: Bytes,
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval in seconds; default 0. Version 5 only.
    pub delay_interval_s: u32,
    /// The properties of the message; version 5 only.
    pub properties: Option<Box<MessageProperties>>,
}

/// The properties of CONNECT (section 3.1.2.11). `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; default 0: ends with the connection; `u32::MAX`: never.
    pub session_expiry_interval_s: u32,
    /// Receive Maximum: QoS 1 and 2 messages that the client takes at a time; `None`: 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes that the client takes; `None`: no limit beyond the protocol's.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum: the highest alias that the client takes; default 0, none.
    pub topic_alias_maximum: u16,
    /// Request Response Information; default false.
    pub request_response_information: bool,
    /// Request Problem Information; default true. If false, Reason Strings and user properties may go out only with
    /// PUBLISH, CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub request_problem_information: bool,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Authentication Method, which asks for enhanced authentication.
    pub authentication_method: Option<Text>,
    /// Authentication Data; only with a method.
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_interval_s: 0,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Will {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("delay_interval_s", &self.delay_interval_s)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field(
                "request_response_information",
                &self.request_response_information,
            )
            .field(
                "request_problem_information",
                &self.request_problem_information,
            )
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .finish_non_exhaustive()
    }
}
