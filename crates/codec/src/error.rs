//! What can be wrong with bytes that a peer sent, and with packets that cannot be sent.

use crate::{PacketType, ProtocolVersion, ReasonCode};

/// A rule that a peer's bytes break. The connection has to be closed: framing cannot be trusted afterwards
/// [MQTT-4.13.1-1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{packet:?}: {what} (reason {reason:?}, rule {rule})")]
pub struct DecodeError {
    /// The reason code for CONNACK or DISCONNECT, if one is sent.
    pub reason: ReasonCode,
    /// The packet that broke the rule; `None` when the type itself is not valid.
    pub packet: Option<PacketType>,
    /// The conformance statement or section that is broken, for instance `MQTT-3.3.1-4`.
    pub rule: &'static str,
    /// What is wrong, in words for a log line.
    pub what: &'static str,
    /// The version in which a CONNACK or DISCONNECT may tell the peer; `None` if the version is not known, so that the
    /// connection is closed without an answer.
    pub answer_in: Option<ProtocolVersion>,
}

/// Why a packet cannot be encoded. Always the caller's decision or mistake, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The packet is larger than the receiver's Maximum Packet Size, or than MQTT can frame, and nothing more may be
    /// left out of it [MQTT-3.1.2-24]. The buffer is unchanged.
    #[error("the packet is larger than the receiver takes")]
    TooLarge,
    /// The version has no such packet (AUTH before 5.0). The buffer is unchanged.
    #[error("the protocol version has no such packet")]
    NotInVersion,
}
