//! AUTH (section 3.15), version 5 only.

use std::fmt;

use bytes::Bytes;

use crate::{ReasonCode, Text, UserProperties};

/// An AUTH packet: a step of enhanced authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// [`Success`](ReasonCode::Success), [`ContinueAuthentication`](ReasonCode::ContinueAuthentication) or
    /// [`ReAuthenticate`](ReasonCode::ReAuthenticate).
    pub reason: ReasonCode,
    /// `None` only with [`ReasonCode::Success`].
    pub properties: Option<Box<AuthProperties>>,
}

/// The properties of AUTH. `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthProperties {
    /// Authentication Method: required wherever there are properties (section 3.15.2.2.2).
    pub authentication_method: Text,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
}

impl fmt::Debug for AuthProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthProperties")
            .field("authentication_method", &self.authentication_method)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish_non_exhaustive()
    }
}
