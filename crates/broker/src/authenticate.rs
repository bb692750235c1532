//! Is this client who it says? The one place that answers.
//!
//! There are no users yet: a listener either lets everybody in, or nobody.

use magpie_codec::ReasonCode;
use magpie_session::Credentials;

/// How the clients of one listener prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authentication {
    /// Everybody is let in; a user name and password are accepted unseen.
    Anonymous,
    /// Nobody is.
    Refuse,
}

impl Authentication {
    /// The reason code of a refusal goes into CONNACK.
    pub(crate) fn authenticate(self, credentials: &Credentials) -> Result<(), ReasonCode> {
        if credentials.method.is_some() {
            // No method of enhanced authentication is supported [MQTT-4.12.0-1].
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        match (self, &credentials.username) {
            (Self::Anonymous, _) => Ok(()),
            (Self::Refuse, Some(_)) => Err(ReasonCode::BadUserNameOrPassword),
            (Self::Refuse, None) => Err(ReasonCode::NotAuthorized),
        }
    }
}
