//! What can go wrong with a connection, in sentences that a user can read.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use magpie_codec::{DecodeError, EncodeError, PacketType, ReasonCode, Text, TextError, TopicError};

/// Why an operation failed. Cheap to clone, since one lost connection fails everything that waits for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No network connection came about.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Host and port as the user gave them.
        address: String,
        /// What the operating system says.
        cause: Arc<io::Error>,
    },
    /// The server did not accept in time.
    #[error("{address} did not accept the connection within {after:?}")]
    ConnectTimeout {
        /// Host and port as the user gave them.
        address: String,
        /// The time that it had.
        after: Duration,
    },
    /// CONNACK with an error.
    #[error("the server refuses the connection: {}", sentence(*reason, detail.as_ref()))]
    Refused {
        /// The CONNACK's reason code; before version 5 the nearest one.
        reason: ReasonCode,
        /// The server's Reason String.
        detail: Option<Text>,
    },
    /// An acknowledgement with an error. The connection goes on.
    #[error("the server refuses the {packet}: {}", sentence(*reason, detail.as_ref()))]
    Rejected {
        /// What was refused, in the specification's words.
        packet: &'static str,
        /// The reason code.
        reason: ReasonCode,
        /// The server's Reason String.
        detail: Option<Text>,
    },
    /// The server sent DISCONNECT.
    #[error("the server ended the connection: {}", sentence(*reason, detail.as_ref()))]
    Disconnected {
        /// The DISCONNECT's reason code.
        reason: ReasonCode,
        /// The server's Reason String.
        detail: Option<Text>,
        /// Where to go instead.
        server_reference: Option<Text>,
    },
    /// The server closed the network connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// The network connection broke.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
    /// The server sent what is not MQTT.
    #[error("the server broke the protocol: {0}")]
    Decode(#[from] DecodeError),
    /// The server sent a packet that has no place there.
    #[error("the server broke the protocol: unexpected {0:?}")]
    Unexpected(PacketType),
    /// The packet cannot be sent.
    #[error("cannot send: {0}")]
    Encode(#[from] EncodeError),
    /// A topic name or filter is not valid.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A string cannot be sent.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The server did not answer PINGREQ within the keep alive.
    #[error("the server does not answer")]
    KeepAliveTimeout,
    /// The client was disconnected by its own user.
    #[error("the client is disconnected")]
    Ended,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn sentence(reason: ReasonCode, detail: Option<&Text>) -> String {
    let words = reason_in_words(reason);
    match detail {
        Some(detail) => format!("{words} ({detail})"),
        None => words.to_owned(),
    }
}

/// A reason code as table 2-6 of the specification names it, in lower case.
pub const fn reason_in_words(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::Success => "success",
        ReasonCode::GrantedQoS1 => "granted QoS 1",
        ReasonCode::GrantedQoS2 => "granted QoS 2",
        ReasonCode::DisconnectWithWill => "disconnect with will message",
        ReasonCode::NoMatchingSubscribers => "no matching subscribers",
        ReasonCode::NoSubscriptionExisted => "no subscription existed",
        ReasonCode::ContinueAuthentication => "continue authentication",
        ReasonCode::ReAuthenticate => "re-authenticate",
        ReasonCode::UnspecifiedError => "unspecified error",
        ReasonCode::MalformedPacket => "malformed packet",
        ReasonCode::ProtocolError => "protocol error",
        ReasonCode::ImplementationSpecificError => "implementation specific error",
        ReasonCode::UnsupportedProtocolVersion => "unsupported protocol version",
        ReasonCode::ClientIdentifierNotValid => "client identifier not valid",
        ReasonCode::BadUserNameOrPassword => "bad user name or password",
        ReasonCode::NotAuthorized => "not authorized",
        ReasonCode::ServerUnavailable => "server unavailable",
        ReasonCode::ServerBusy => "server busy",
        ReasonCode::Banned => "banned",
        ReasonCode::ServerShuttingDown => "server shutting down",
        ReasonCode::BadAuthenticationMethod => "bad authentication method",
        ReasonCode::KeepAliveTimeout => "keep alive timeout",
        ReasonCode::SessionTakenOver => "session taken over",
        ReasonCode::TopicFilterInvalid => "topic filter invalid",
        ReasonCode::TopicNameInvalid => "topic name invalid",
        ReasonCode::PacketIdentifierInUse => "packet identifier in use",
        ReasonCode::PacketIdentifierNotFound => "packet identifier not found",
        ReasonCode::ReceiveMaximumExceeded => "receive maximum exceeded",
        ReasonCode::TopicAliasInvalid => "topic alias invalid",
        ReasonCode::PacketTooLarge => "packet too large",
        ReasonCode::MessageRateTooHigh => "message rate too high",
        ReasonCode::QuotaExceeded => "quota exceeded",
        ReasonCode::AdministrativeAction => "administrative action",
        ReasonCode::PayloadFormatInvalid => "payload format invalid",
        ReasonCode::RetainNotSupported => "retain not supported",
        ReasonCode::QoSNotSupported => "QoS not supported",
        ReasonCode::UseAnotherServer => "use another server",
        ReasonCode::ServerMoved => "server moved",
        ReasonCode::SharedSubscriptionsNotSupported => "shared subscriptions not supported",
        ReasonCode::ConnectionRateExceeded => "connection rate exceeded",
        ReasonCode::MaximumConnectTime => "maximum connect time",
        ReasonCode::SubscriptionIdentifiersNotSupported => "subscription identifiers not supported",
        ReasonCode::WildcardSubscriptionsNotSupported => "wildcard subscriptions not supported",
    }
}
