//! The section `[auth]` of a node's configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::NameSource;

/// How clients prove who they are. Users, rules and bans themselves are set for the whole cluster, with `magpie ctl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Who is asked, in this order, until one knows the client: `certificate`, `jwt`, `users`, `http`. Those that are not configured are
    /// passed over. Default all, in this order.
    #[serde(deserialize_with = "list")]
    pub order: Vec<Kind>,
    /// Passwords that are checked at the same time, each by a thread of its own and with 19 MiB; and tokens, as many again. 0: as many as
    /// there are processors. Default 0.
    pub password_threads: usize,
    /// Passwords that wait to be checked, and as many tokens; a client beyond that is told to come again (0x89). Default 1024.
    pub password_queue: usize,
    /// How long a password that was right need not be checked again, since a check is costly on purpose: many clients that come back at once
    /// come back sooner. Only a keyed hash is kept, in memory; a changed password counts at once. 0s: never. Default 10m.
    #[serde(with = "humantime_serde")]
    pub password_memory: Duration,
    /// Which name in a client's certificate is its user name: `cn`, `dns`, `uri` or `email`; the first of its kind. It counts instead of the
    /// one in CONNECT, and no password is asked for. Default off.
    pub certificate_name: Option<NameSource>,
    /// File with the secret that signs tokens (HS256), 32 bytes at least. Default off.
    pub jwt_secret_file: Option<PathBuf>,
    /// PEM file with the public key of tokens: of RSA (RS256) or of the curve P-256 (ES256). Default off.
    pub jwt_public_key_file: Option<PathBuf>,
    /// File or URL (`https://...`) with the public keys of tokens, as a JSON Web Key Set. Default off.
    pub jwks: Option<String>,
    /// How often the key set is read again. A token that names a key which is not known has it read at once, but not more often than every
    /// ten seconds. Default 10m.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// Who must have issued a token (`iss`). Default anybody.
    pub jwt_issuer: Option<String>,
    /// Whom a token must be for (`aud`): one of these. Default anybody.
    #[serde(deserialize_with = "list")]
    pub jwt_audience: Vec<String>,
    /// The claim with the user name. Default sub.
    pub jwt_username_claim: String,
    /// The claim with the one client id that the token is good for. Default none: any.
    pub jwt_client_id_claim: Option<String>,
    /// The claim with rules for the client: a list of `{"permission": "allow", "action": "publish", "topic": "a/%u/#"}`. Default acl.
    pub jwt_acl_claim: String,
    /// The claim that says (`true`) that rules do not apply to the client. Default none.
    pub jwt_superuser_claim: Option<String>,
    /// Whether tokens that never expire are refused. Default true.
    pub jwt_require_expiry: bool,
    /// By how much clocks may differ. Default 5s.
    #[serde(with = "humantime_serde")]
    pub jwt_leeway: Duration,
    /// URL (`http://` or `https://`) of a web service that is asked about each client. Default off.
    pub http_url: Option<String>,
    /// File with a secret that is sent with each question as `Authorization: Bearer`. Default off.
    pub http_token_file: Option<PathBuf>,
    /// How long an answer may take; then the client is refused (0x88). Default 3s.
    #[serde(with = "humantime_serde")]
    pub http_timeout: Duration,
    /// Questions under way at the same time. Default 64.
    pub http_concurrency: usize,
    /// Clients that wait for their question to be asked; one beyond that is told to come again (0x89). Default 1024.
    pub http_queue: usize,
    /// How long an answer holds for the same client, user name, password and address. 0s: never. Default 10s.
    #[serde(with = "humantime_serde")]
    pub http_cache: Duration,
    /// Answers that are kept. Default 10000.
    pub http_cache_entries: usize,
    /// PEM file with the certificates of those who may vouch for the web service and for the URL of the key set. Default those of the
    /// system.
    pub ca_file: Option<PathBuf>,
}

/// An authenticator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A name in the certificate that the client showed.
    Certificate,
    /// A JSON Web Token in place of the password.
    Jwt,
    /// The cluster's users, by their passwords.
    Users,
    /// A web service.
    Http,
}

/// A value that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its section.
    pub key: &'static str,
    /// What is wrong and what to do, for the operator.
    pub what: String,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            order: vec![Kind::Certificate, Kind::Jwt, Kind::Users, Kind::Http],
            password_threads: 0,
            password_queue: 1024,
            password_memory: Duration::from_secs(600),
            certificate_name: None,
            jwt_secret_file: None,
            jwt_public_key_file: None,
            jwks: None,
            jwks_refresh: Duration::from_secs(600),
            jwt_issuer: None,
            jwt_audience: Vec::new(),
            jwt_username_claim: "sub".to_owned(),
            jwt_client_id_claim: None,
            jwt_acl_claim: "acl".to_owned(),
            jwt_superuser_claim: None,
            jwt_require_expiry: true,
            jwt_leeway: Duration::from_secs(5),
            http_url: None,
            http_token_file: None,
            http_timeout: Duration::from_secs(3),
            http_concurrency: 64,
            http_queue: 1024,
            http_cache: Duration::from_secs(10),
            http_cache_entries: 10_000,
            ca_file: None,
        }
    }
}

impl AuthConfig {
    /// All problems at once; empty if a node can start with it, as far as one can tell without reading the files.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |key, what: &str| {
            problems.push(Problem {
                key,
                what: what.to_owned(),
            });
        };
        if (1..self.order.len()).any(|at| self.order[..at].contains(&self.order[at])) {
            wrong("auth.order", "names one twice");
        }
        for (key, kind, is_set) in [
            (
                "auth.certificate_name",
                Kind::Certificate,
                self.certificate_name.is_some(),
            ),
            ("auth.jwks", Kind::Jwt, self.has_jwt()),
            ("auth.http_url", Kind::Http, self.http_url.is_some()),
        ] {
            if is_set && !self.order.contains(&kind) {
                wrong(key, "is set, but auth.order leaves it out");
            }
        }
        if self.jwks_refresh < Duration::from_secs(10) {
            wrong("auth.jwks_refresh", "must be at least 10s");
        }
        if self.jwt_username_claim.is_empty() {
            wrong("auth.jwt_username_claim", "must name a claim");
        }
        if let Some(url) = &self.http_url
            && !crate::web::is_url(url)
        {
            wrong(
                "auth.http_url",
                "is no URL; write http://HOST/PATH or https://HOST/PATH",
            );
        }
        if let Some(jwks) = &self.jwks
            && jwks.contains("://")
            && !crate::web::is_url(jwks)
        {
            wrong(
                "auth.jwks",
                "is no URL; write https://HOST/PATH, or the path of a file",
            );
        }
        if self.http_timeout.is_zero() {
            wrong("auth.http_timeout", "must be more than 0s");
        }
        if self.http_concurrency == 0 {
            wrong("auth.http_concurrency", "must be at least 1");
        }
        problems
    }

    pub(crate) const fn has_jwt(&self) -> bool {
        self.jwt_secret_file.is_some() || self.jwt_public_key_file.is_some() || self.jwks.is_some()
    }

    /// Whether somebody but the cluster's users is asked: then nobody is let in unasked because there are no users.
    #[must_use]
    pub const fn has_authenticators(&self) -> bool {
        self.has_jwt() || self.http_url.is_some() || self.certificate_name.is_some()
    }
}

/// A list, or, as variables have it, a text with commas.
fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of texts")]
    enum List {
        Elements(Vec<String>),
        Commas(String),
    }
    let elements = match List::deserialize(from)? {
        List::Elements(elements) => elements,
        List::Commas(text) => text.split(',').map(|it| it.trim().to_owned()).collect(),
    };
    let elements = elements.into_iter().filter(|element| !element.is_empty());
    elements
        .map(|element| T::deserialize(element.into_deserializer()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_without_problems() {
        assert_eq!(AuthConfig::default().problems(), []);
        assert!(!AuthConfig::default().has_authenticators());
    }

    #[test]
    fn what_cannot_be_right_is_told_at_once() {
        let config = AuthConfig {
            order: vec![Kind::Users, Kind::Users],
            http_url: Some("ftp://x".to_owned()),
            jwks: Some("nonsense://".to_owned()),
            http_timeout: Duration::ZERO,
            http_concurrency: 0,
            jwks_refresh: Duration::ZERO,
            jwt_username_claim: String::new(),
            ..AuthConfig::default()
        };
        let keys: Vec<_> = config.problems().iter().map(|it| it.key).collect();
        assert_eq!(
            keys,
            [
                "auth.order",
                "auth.jwks",
                "auth.http_url",
                "auth.jwks_refresh",
                "auth.jwt_username_claim",
                "auth.http_url",
                "auth.jwks",
                "auth.http_timeout",
                "auth.http_concurrency",
            ]
        );
    }
}
