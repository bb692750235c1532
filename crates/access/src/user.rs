//! Users.

use serde::{Deserialize, Serialize};

use crate::{PasswordHash, ScramVerifier};

/// What is known of a user, beside the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// For CONNECT with user name and password.
    pub password: PasswordHash,
    /// For enhanced authentication with SCRAM-SHA-256, if the operator wants it for this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scram: Option<ScramVerifier>,
    /// Rules do not apply to this user.
    #[serde(default)]
    pub is_superuser: bool,
}
