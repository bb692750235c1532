//! The 15 MQTT Control Packets in one model for all versions (section 3), one file for each subject.

mod ack;
mod auth;
mod connack;
pub(crate) mod connect;
mod disconnect;
mod publish;
mod suback;
mod subscribe;
mod unsubscribe;

pub use ack::{Ack, AckProperties};
pub use auth::{Auth, AuthProperties};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use publish::Publish;
pub(crate) use publish::PublishParts;
pub use suback::{SubAck, UnsubAck};
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions};
pub use unsubscribe::Unsubscribe;

/// An MQTT Control Packet of any version.
///
/// In every packet, `properties: None` means that all properties have their defaults; a decoder never yields
/// `Some` of properties that are all default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server, the first packet.
    Connect(Box<Connect>),
    /// Server to client, the answer to CONNECT.
    ConnAck(ConnAck),
    /// Either direction, an Application Message.
    Publish(Publish),
    /// Answer to PUBLISH at QoS 1.
    PubAck(Ack),
    /// Answer to PUBLISH at QoS 2.
    PubRec(Ack),
    /// Answer to PUBREC.
    PubRel(Ack),
    /// Answer to PUBREL.
    PubComp(Ack),
    /// Client to server.
    Subscribe(Subscribe),
    /// Server to client.
    SubAck(SubAck),
    /// Client to server.
    Unsubscribe(Unsubscribe),
    /// Server to client.
    UnsubAck(UnsubAck),
    /// Client to server.
    PingReq,
    /// Server to client.
    PingResp,
    /// The last packet; from a server in version 5 only.
    Disconnect(Disconnect),
    /// Enhanced authentication, version 5 only.
    Auth(Auth),
}

/// The type of a packet, as numbered in the fixed header (section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the packets' names say it")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Packet {
    /// The packet's type.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets move by value between decoder, session and router.
    #[test]
    fn a_packet_is_small() {
        assert!(size_of::<Packet>() <= 112, "{}", size_of::<Packet>());
    }
}
