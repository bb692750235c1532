//! JSON Web Tokens (RFC 7519), in place of a password.
//!
//! A key is good for one algorithm, which follows from the key and not from the token: a token that names another is refused, so that a public
//! key is never taken for a secret. `none` does not exist here.

mod keys;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use magpie_access::Subject;
use magpie_codec::Text;
use serde_json::{Map, Value};
use tracing::debug;

use crate::chain::Decision;
use crate::pool::Pool;
use crate::web::Web;
use crate::{AuthConfig, By, Error, Identity, Refusal, Request, own_rules};
use keys::{Key, Keys};

/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// The authenticator.
#[derive(Debug)]
pub(crate) struct Jwt {
    keys: Arc<Keys>,
    /// A token that names no key is tried with each that fits, which a stranger may ask for.
    pool: Pool,
    issuer: Option<String>,
    audience: Vec<String>,
    leeway: Duration,
    must_expire: bool,
    username: String,
    client_id: Option<String>,
    acl: String,
    superuser: Option<String>,
}

impl Jwt {
    /// `None` if no key is configured.
    pub(crate) fn new(config: &AuthConfig, web: &Web) -> Result<Option<Self>, Error> {
        if !config.has_jwt() {
            return Ok(None);
        }
        Ok(Some(Self {
            keys: Keys::new(config, web)?,
            pool: Pool::new(config),
            issuer: config.jwt_issuer.clone(),
            audience: config.jwt_audience.clone(),
            leeway: config.jwt_leeway,
            must_expire: config.jwt_require_expiry,
            username: config.jwt_username_claim.clone(),
            client_id: config.jwt_client_id_claim.clone(),
            acl: config.jwt_acl_claim.clone(),
            superuser: config.jwt_superuser_claim.clone(),
        }))
    }

    /// Ignores what is no token. What is one decides.
    pub(crate) async fn decide(&self, request: &Request) -> Decision {
        let Some(token) = request.password.as_deref().and_then(token) else {
            return Decision::Ignore;
        };
        let claims = match self.claims(token).await {
            Ok(claims) => claims,
            Err(refusal) => return Decision::Refuse(refusal),
        };
        match claims.and_then(|claims| self.identity(&claims, request)) {
            Ok(identity) => Decision::Allow(identity),
            Err(what) => {
                debug!(client = %request.client_id, %what, "token refused");
                Decision::Refuse(Refusal::BadCredentials)
            }
        }
    }

    /// What it says, or what is wrong with it.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when too many wait.
    async fn claims(&self, token: &str) -> Result<Result<Claims, String>, Refusal> {
        let header = match decode_header(token) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let candidates = self.keys.candidates(&header).await;
        let candidates: Vec<_> = candidates
            .into_iter()
            .map(|key| (self.validation(key.algorithm), key))
            .collect();
        let token = token.to_owned();
        self.pool
            .run(move || decode_with(&token, &candidates))
            .await
    }

    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = Vec::new();
        if self.must_expire {
            required.push("exp");
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.validate_aud = !self.audience.is_empty();
        if validation.validate_aud {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn identity(&self, claims: &Claims, request: &Request) -> Result<Identity, String> {
        let username = claims.get(&self.username).and_then(Value::as_str);
        let username = username.filter(|name| !name.is_empty());
        let username = username.ok_or_else(|| format!("no claim {:?}", self.username))?;
        let username = Text::try_from(username).map_err(|_| "not a user name".to_owned())?;
        if let Some(claim) = &self.client_id
            && claims.get(claim).and_then(Value::as_str) != Some(request.client_id.as_str())
        {
            return Err(format!("claim {claim:?} names another client id"));
        }
        let own_rules = claims.get(&self.acl).map(own_rules::parse).transpose()?;
        let superuser = self.superuser.as_ref().and_then(|claim| claims.get(claim));
        Ok(Identity {
            subject: Subject {
                username: Some(username),
                client_id: request.client_id.clone(),
                is_superuser: superuser == Some(&Value::Bool(true)),
                own_rules,
            },
            expires_at: self.expiry(claims)?,
            by: By::Jwt,
            mark: 0,
        })
    }

    fn expiry(&self, claims: &Claims) -> Result<Option<SystemTime>, String> {
        let Some(exp) = claims.get("exp") else {
            return Ok(None);
        };
        let seconds = exp.as_f64().filter(|seconds| *seconds >= 0.0);
        let seconds = seconds.ok_or("exp is no time")?;
        let since_1970 = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        // One that is beyond all time never comes.
        let at = SystemTime::UNIX_EPOCH.checked_add(since_1970);
        Ok(at.and_then(|at| at.checked_add(self.leeway)))
    }
}

type Claims = Map<String, Value>;

/// With the first key that it is signed with.
fn decode_with(token: &str, candidates: &[(Validation, Arc<Key>)]) -> Result<Claims, String> {
    let mut why = "no key for it is known".to_owned();
    for (validation, key) in candidates {
        match decode(token, &key.key, validation) {
            Ok(data) => return Ok(data.claims),
            Err(error) => {
                why = error.to_string();
                if *error.kind() != ErrorKind::InvalidSignature {
                    break;
                }
            }
        }
    }
    Err(why)
}

/// What has the form of a token.
fn token(password: &[u8]) -> Option<&str> {
    if password.len() > TOKEN_BYTES_MAX || password.split(|byte| *byte == b'.').count() != 3 {
        return None;
    }
    let token = std::str::from_utf8(password).ok()?;
    // A header that names an algorithm which does not exist, such as `none`, is one all the same: it begins as JSON does.
    token.starts_with("ey").then_some(token)
}

#[cfg(test)]
mod tests;
