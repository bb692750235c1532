//! DISCONNECT (section 3.14).

use crate::{ReasonCode, Text, UserProperties};

/// A DISCONNECT packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// Why; [`ReasonCode::Success`] is the normal disconnection, and all that versions before 5 can say.
    pub reason: ReasonCode,
    /// Version 5 only.
    pub properties: Option<Box<DisconnectProperties>>,
}

/// The properties of DISCONNECT (section 3.14.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Session Expiry Interval in seconds; `None` leaves that of CONNECT. From clients only [MQTT-3.14.2-2].
    pub session_expiry_interval_s: Option<u32>,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Server Reference: where to go instead.
    pub server_reference: Option<Text>,
}
