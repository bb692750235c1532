//! Who a client is: the chain of authenticators that a CONNECT goes through.
//!
//! Stands between the broker, which takes what the client shows, and [`magpie_access`], which says what the one it is may do. Everything that
//! takes time (a password's hash, a web service, keys from elsewhere) is bounded in number, queue and time, and is awaited in a task of its
//! own: a client whose proof takes long holds up nobody else. Fails closed: what cannot be decided is refused.

mod certificate;
mod chain;
mod config;
mod http;
mod jwt;
mod own_rules;
mod passwords;
mod pool;
mod proven;
mod scram;
mod turn;
mod web;

pub use certificate::{CertificateNames, NameSource};
pub use chain::{Authenticator, By, Identity, Refusal, Request};
pub use config::{AuthConfig, Kind, Problem};
pub use scram::{METHOD as SCRAM_METHOD, Scram};

/// Why a node cannot authenticate as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the configuration cannot be read.
    #[error("auth.{key}: cannot read {path}: {error}")]
    File {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A value of the configuration is of no use.
    #[error("auth.{key}: {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}
