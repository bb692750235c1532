//! The configuration of this crate.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// How the API is served.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// What callers must know. Without one, everything but health and metrics is refused unless `listen` is on loopback.
    pub token: Option<Token>,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of the HTTP server: nobody who reaches it can use more of the node than this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub max_connections: usize,
    /// How long a request's head may take, which is also how long a connection may be idle.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a request may take in all; then it is answered with 504.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The largest body of a request.
    pub max_body: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(15),
            max_body: ByteSize::kib(64),
        }
    }
}

impl Limits {
    /// Keys with values that cannot work, and what is wrong with them.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let checks = [
            (
                "max_connections",
                self.max_connections > 0,
                "must be at least 1",
            ),
            (
                "header_timeout",
                !self.header_timeout.is_zero(),
                "must be longer than 0s",
            ),
            (
                "request_timeout",
                !self.request_timeout.is_zero(),
                "must be longer than 0s",
            ),
        ];
        checks
            .into_iter()
            .filter(|(_, holds, _)| !holds)
            .map(|(key, _, what)| (key, what))
            .collect()
    }
}

/// The secret that opens the API.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Of this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Takes the same time wherever the first difference is, so that nobody can find the token byte by byte.
    pub(crate) fn matches(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
