//! A peer's fault, as data.

use magpie_codec::ReasonCode;

use crate::CloseCause;

/// A rule of the protocol, or a limit that it was told, that the client broke. Ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason: ReasonCode,
    /// In words, for the Reason String and a log line.
    pub(crate) what: &'static str,
}

impl Violation {
    pub(crate) const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self { reason, what }
    }

    pub(crate) const fn protocol_error(what: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, what)
    }
}

impl From<Violation> for CloseCause {
    fn from(violation: Violation) -> Self {
        Self::Violation {
            reason: violation.reason,
            what: violation.what,
        }
    }
}
