//! How a Network Connection ends, and why.

use magpie_codec::ReasonCode;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCause {
    /// The client sent DISCONNECT with this reason.
    ByClient(ReasonCode),
    /// The socket ended or broke without a DISCONNECT.
    Lost,
    /// No CONNECT came in [`Limits::connect_timeout`](crate::Limits::connect_timeout).
    ConnectTimeout,
    /// The client was silent for one and a half times its Keep Alive [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// CONNACK refused the client, or DISCONNECT one that was to show again who it is.
    Refused(ReasonCode),
    /// The client broke a rule of MQTT or passed a limit that it was told.
    Violation {
        /// As sent in DISCONNECT, where the version has it.
        reason: ReasonCode,
        /// In words, for a log line.
        what: &'static str,
    },
    /// The node did not answer in [`Limits::answer_timeout`](crate::Limits::answer_timeout), or did not know the
    /// outcome of a publish.
    Unanswered,
    /// The node refused a PUBLISH of a 3.x client, which cannot be told by an acknowledgement.
    PublishRefused(ReasonCode),
    /// The node ended it.
    Evicted(Eviction),
}

/// Why the node ends a connection: the input of [`Connection::handle_close`](crate::Connection::handle_close).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// A newer connection has the client id [MQTT-3.1.4-3].
    TakenOver,
    /// The node stops or drains.
    ShuttingDown,
    /// An operator closed it.
    Kicked,
    /// The client is banned.
    Banned,
    /// It does not read fast enough for its QoS 1 and 2 messages, or is past another quota.
    QuotaExceeded,
    /// The node has no quorum or is overloaded.
    Busy,
    /// It sends too fast.
    RateTooHigh,
    /// Its permission ended.
    NotAuthorized,
}

impl Eviction {
    /// The reason for DISCONNECT.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::TakenOver => ReasonCode::SessionTakenOver,
            Self::ShuttingDown => ReasonCode::ServerShuttingDown,
            // DISCONNECT has no 0x8A.
            Self::Kicked | Self::Banned => ReasonCode::AdministrativeAction,
            Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::QuotaExceeded => ReasonCode::QuotaExceeded,
            Self::Busy => ReasonCode::ServerBusy,
            Self::RateTooHigh => ReasonCode::MessageRateTooHigh,
        }
    }

    /// The reason for CONNACK, when the client was not yet let in.
    pub(crate) const fn connack_reason(self) -> ReasonCode {
        match self {
            // CONNACK has no 0x8B, 0x8E or 0x98.
            Self::TakenOver | Self::ShuttingDown => ReasonCode::ServerUnavailable,
            Self::Kicked | Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::Banned => ReasonCode::Banned,
            Self::QuotaExceeded => ReasonCode::QuotaExceeded,
            Self::Busy => ReasonCode::ServerBusy,
            Self::RateTooHigh => ReasonCode::ConnectionRateExceeded,
        }
    }
}
