//! What can be wrong with bytes that a peer sent, and with packets that cannot be sent.

use crate::{PacketType, ProtocolVersion, ReasonCode, TextError, TopicError};

/// A rule that a peer's bytes break. The connection has to be closed: framing cannot be trusted afterwards
/// [MQTT-4.13.1-1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{packet:?}: {what} (reason {reason:?}, rule {rule})")]
pub struct DecodeError {
    /// The reason code for CONNACK or DISCONNECT, if one is sent.
    pub reason: ReasonCode,
    /// The packet that broke the rule; `None` when the type itself is not valid.
    pub packet: Option<PacketType>,
    /// The conformance statement or section that is broken, by its number.
    pub rule: &'static str,
    /// What is wrong, in words for a log line.
    pub what: &'static str,
    /// The version in which a CONNACK (before the connection was accepted) or a DISCONNECT may tell the peer. `None`: the
    /// connection is closed without an answer, because the version is not known or has no packet to say it with.
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
    /// The packet breaks a rule that its type cannot express, for instance a QoS 1 PUBLISH without Packet Identifier.
    /// The buffer is unchanged.
    #[error("the packet is not valid: {0}")]
    Invalid(&'static str),
}

/// A broken rule, before the decoder adds packet and version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) reason: ReasonCode,
    pub(crate) rule: &'static str,
    pub(crate) what: &'static str,
}

impl Fault {
    #[cold]
    pub(crate) const fn new(reason: ReasonCode, rule: &'static str, what: &'static str) -> Self {
        Self { reason, rule, what }
    }

    /// The packet cannot be parsed.
    #[cold]
    pub(crate) const fn malformed(rule: &'static str, what: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, rule, what)
    }

    /// The packet can be parsed, and holds what the protocol does not allow.
    #[cold]
    pub(crate) const fn protocol(rule: &'static str, what: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, rule, what)
    }

    #[cold]
    pub(crate) const fn in_packet(
        self,
        packet: Option<PacketType>,
        answer_in: Option<ProtocolVersion>,
    ) -> DecodeError {
        DecodeError {
            reason: self.reason,
            packet,
            rule: self.rule,
            what: self.what,
            answer_in,
        }
    }
}

impl From<TextError> for Fault {
    fn from(error: TextError) -> Self {
        match error {
            TextError::TooLong => Self::malformed("1.5.4", "a string is longer than 65,535 bytes"),
            TextError::NotUtf8 => {
                Self::malformed("MQTT-1.5.4-1", "a string is not well-formed UTF-8")
            }
            TextError::Null => {
                Self::malformed("MQTT-1.5.4-2", "a string contains the null character")
            }
        }
    }
}

impl From<TopicError> for Fault {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Text(error) => error.into(),
            TopicError::Empty => Self::malformed("MQTT-4.7.3-1", "a topic is empty"),
            TopicError::WildcardInName => {
                Self::malformed("MQTT-3.3.2-2", "a topic name contains a wildcard")
            }
            TopicError::HashMisplaced => {
                Self::malformed("MQTT-4.7.1-1", "a # is not the last level of its filter")
            }
            TopicError::PlusMisplaced => {
                Self::malformed("MQTT-4.7.1-2", "a + is not a whole level of its filter")
            }
            TopicError::ShareName => {
                Self::malformed("MQTT-4.8.2-1", "a share name is empty or holds a wildcard")
            }
            TopicError::ShareFilter => {
                Self::malformed("MQTT-4.8.2-2", "a share name is not followed by a filter")
            }
        }
    }
}
