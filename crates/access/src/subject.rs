//! Who is asking.

use std::sync::Arc;

use magpie_codec::Text;

use crate::Rule;

/// A connection, a session or a will, as rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The name that was proven; `None` for an anonymous client.
    pub username: Option<Text>,
    /// The client id, which the client chose.
    pub client_id: Text,
    /// Rules do not apply.
    pub is_superuser: bool,
    /// Rules that came with the credentials (a token, an answer of a hook), beside those of the cluster. If there are any, even none in the
    /// list, what none of them allows is refused.
    pub own_rules: Option<Arc<[Rule]>>,
}

impl Subject {
    /// Nobody in particular, with a client id.
    #[must_use]
    pub const fn anonymous(client_id: Text) -> Self {
        Self {
            username: None,
            client_id,
            is_superuser: false,
            own_rules: None,
        }
    }

    /// A user's client.
    #[must_use]
    pub const fn user(username: Text, client_id: Text) -> Self {
        Self {
            username: Some(username),
            client_id,
            is_superuser: false,
            own_rules: None,
        }
    }
}
