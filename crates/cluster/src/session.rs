//! Attaching a client's connection to its session, cluster-wide.

use magpie_state::{ClientId, Epoch};

/// Request to make a connection the client's only one.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Whose.
    pub client: ClientId,
    /// Clean Start / Clean Session.
    pub clean_start: bool,
    /// Session Expiry Interval, seconds.
    pub session_expiry_s: u32,
}

/// The attachment.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Fence for everything this connection does from now on.
    pub epoch: Epoch,
    /// Whether stored session state is resumed.
    pub session_present: bool,
}
