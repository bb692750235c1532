//! What only clients or only servers may send.

use crate::error::Fault;
use crate::{Disconnect, Packet, ProtocolVersion, ReasonCode};

/// Which end of the Network Connection decodes; the packets are the other end's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Decodes what clients send.
    Server,
    /// Decodes what servers send.
    Client,
}

impl Role {
    /// Checks that the other end may send this packet. For PUBLISH, which has another way, its properties' reader does.
    pub(crate) fn check(self, version: ProtocolVersion, packet: &Packet) -> Result<(), Fault> {
        match self {
            Self::Server => check_client_packet(packet),
            Self::Client => check_server_packet(version, packet),
        }
    }
}

fn check_client_packet(packet: &Packet) -> Result<(), Fault> {
    match packet {
        Packet::Disconnect(disconnect) if !client_may_give(disconnect.reason) => {
            Err(Fault::protocol(
                "3.14.2.1",
                "a client's DISCONNECT has a server's reason code",
            ))
        }
        Packet::Auth(auth) if auth.reason == ReasonCode::Success => {
            Err(Fault::protocol("3.15.2.1", "a client's AUTH says success"))
        }
        Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => Err(
            Fault::protocol("2.1.2", "a client sent a packet that only servers send"),
        ),
        _ => Ok(()),
    }
}

fn check_server_packet(version: ProtocolVersion, packet: &Packet) -> Result<(), Fault> {
    match packet {
        Packet::Disconnect(_) if !version.has_properties() => Err(Fault::protocol(
            "3.14 v3.1.1",
            "a server sent DISCONNECT before version 5",
        )),
        Packet::Disconnect(disconnect) => check_server_disconnect(disconnect),
        Packet::Auth(auth) if auth.reason == ReasonCode::ReAuthenticate => Err(Fault::protocol(
            "3.15.2.1",
            "a server's AUTH asks to re-authenticate",
        )),
        Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq => {
            Err(Fault::protocol(
                "2.1.2",
                "a server sent a packet that only clients send",
            ))
        }
        _ => Ok(()),
    }
}

fn check_server_disconnect(disconnect: &Disconnect) -> Result<(), Fault> {
    if disconnect.reason == ReasonCode::DisconnectWithWill {
        return Err(Fault::protocol(
            "3.14.2.1",
            "a server's DISCONNECT has a client's reason code",
        ));
    }
    if disconnect
        .properties
        .as_ref()
        .is_some_and(|properties| properties.session_expiry_interval_s.is_some())
    {
        return Err(Fault::protocol(
            "MQTT-3.14.2-2",
            "a server's DISCONNECT has a session expiry interval",
        ));
    }
    Ok(())
}

/// Whether the reason code of a DISCONNECT may come from a client (table 3-10).
const fn client_may_give(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::Success
            | ReasonCode::DisconnectWithWill
            | ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::TopicNameInvalid
            | ReasonCode::ReceiveMaximumExceeded
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::AdministrativeAction
            | ReasonCode::PayloadFormatInvalid
    )
}
