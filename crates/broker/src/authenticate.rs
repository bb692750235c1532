//! From a CONNECT to the question who it is, and from the answer to a reason code.

use magpie_auth::{Refusal, Request};
use magpie_codec::{ProtocolVersion, ReasonCode};
use magpie_session::Credentials;

use crate::peer::Peer;

/// How one listener takes clients without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anonymity {
    /// As configured; `None`: on loopback, while nothing is set up.
    pub(crate) allowed: Option<bool>,
    /// Only this machine can reach it.
    pub(crate) is_loopback: bool,
}

/// What the authenticators are asked.
pub(crate) fn request(credentials: &Credentials, peer: &Peer, anonymity: Anonymity) -> Request {
    Request {
        client_id: credentials.client_id.compact(),
        username: credentials
            .username
            .as_ref()
            .map(magpie_codec::Text::compact),
        password: credentials
            .password
            .as_deref()
            .map(bytes::Bytes::copy_from_slice),
        remote: peer.remote,
        protocol_version: match credentials.version {
            ProtocolVersion::V3_1 => 3,
            ProtocolVersion::V3_1_1 => 4,
            ProtocolVersion::V5 => 5,
        },
        certificate: peer.certificate.clone(),
        allow_anonymous: anonymity.allowed,
        is_loopback: anonymity.is_loopback,
    }
}

/// For CONNACK, or for DISCONNECT after authenticating again; and in words, for the audit log.
pub(crate) const fn reason(refusal: Refusal) -> (ReasonCode, &'static str) {
    match refusal {
        Refusal::BadCredentials => (
            ReasonCode::BadUserNameOrPassword,
            "wrong user name or password",
        ),
        Refusal::NotAuthorized => (ReasonCode::NotAuthorized, "nothing proves who it is"),
        Refusal::Busy => (
            ReasonCode::ServerBusy,
            "too many passwords are being checked",
        ),
        Refusal::Unavailable => (
            ReasonCode::ServerUnavailable,
            "who is to be asked does not answer",
        ),
    }
}
