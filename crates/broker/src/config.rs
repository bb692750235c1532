//! The configuration of this crate: a section per subject, each beside the code that it steers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    ConnectionConfig, ListenerConfig, MailboxConfig, SessionConfig, SysTopicsConfig,
    WebSocketConfig, tls,
};

/// Everything that can be set about clients and their connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect.
    pub listener: ListenerConfig,
    /// One network connection.
    pub connection: ConnectionConfig,
    /// What one client may ask for.
    pub session: SessionConfig,
    /// What waits for one client.
    pub mailbox: MailboxConfig,
    /// How clients prove who they are.
    pub auth: magpie_auth::AuthConfig,
    /// What the node tells of itself in topics.
    pub sys_topics: SysTopicsConfig,
    /// WebSocket.
    pub websocket: WebSocketConfig,
}

/// A value that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its section.
    pub key: String,
    /// What is wrong and what to do, for the operator.
    pub what: String,
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

impl Config {
    /// All problems at once; empty if the node can start with it.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.listener.check(&mut problems);
        self.connection.check(&mut problems);
        self.session.check(&mut problems);
        let auth = self.auth.problems().into_iter();
        problems.extend(auth.map(|problem| Problem::new(problem.key, problem.what)));
        self.sys_topics.check(&mut problems);
        self.websocket.check(&mut problems);
        if self.mailbox.messages_max == 0 {
            problems.push(Problem::new("mailbox.messages_max", "must be at least 1"));
        }
        problems
    }

    /// What the node can start with, and what should be looked at all the same: a certificate that ends soon.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        if !self.listener.has_tls() {
            return Vec::new();
        }
        tls::load(&self.listener).map_or_else(|_| Vec::new(), |loaded| loaded.warnings)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn defaults_are_without_problems() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut config = Config::default();
        config.session.receive_maximum = 0;
        config.session.topic_levels = 0;
        config.mailbox.messages_max = 0;
        config.auth.http_concurrency = 0;
        assert_eq!(config.problems().len(), 4);
    }
}
