//! The Session State: what can outlive a Network Connection.

/// What the server keeps of one client between connections (section 4.1).
#[derive(Debug, Default)]
pub struct Session {}
