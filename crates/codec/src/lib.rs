//! Bytes to MQTT packets and back, for MQTT 3.1, 3.1.1 and 5.0.
//!
//! One packet model serves all three versions: what an older version cannot say has its version 5 default.
//! This crate knows the wire format and every rule that one packet alone can break. It knows no socket, clock, task or
//! session: whether a packet may arrive *now* is the session's question. On the data path it is the first step
//! (bytes to packet) and the last (packet to bytes).

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
mod decoder;
mod encoder;
mod error;
mod fixed_header;
mod message;
mod packet;
mod packet_id;
mod property;
mod qos;
mod reader;
mod reason;
mod role;
mod sink;
mod text;
mod topic_filter;
mod topic_name;
mod version;

#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Limits};
pub use encoder::{encode, encode_publish, encode_publish_head, publish_bytes};
pub use error::{DecodeError, EncodeError};
pub use message::{Message, MessageProperties, PayloadFormat, PublishHeader};
pub use packet::{
    Ack, AckProperties, Auth, AuthProperties, ConnAck, ConnAckProperties, Connect,
    ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketType, Publish,
    RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe, Will,
};
pub use packet_id::PacketId;
pub use qos::QoS;
pub use reason::ReasonCode;
pub use role::Role;
pub use text::{Text, TextError};
pub use topic_filter::TopicFilter;
pub use topic_name::{TopicError, TopicName};
pub use version::ProtocolVersion;

/// User properties in the order in which they were sent; a name may occur more than once [MQTT-3.1.3-10].
pub type UserProperties = Vec<(Text, Text)>;

/// The largest number that a variable byte integer holds: the limit of a remaining length and of a subscription
/// identifier.
pub const VARIABLE_INT_MAX: u32 = 268_435_455;
