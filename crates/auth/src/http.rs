//! A web service that is asked about each client.
//!
//! It gets a JSON document by POST, and answers 200 with `{"result": "allow"}`, `"deny"` or `"ignore"`, and perhaps `is_superuser`, `acl` and
//! `expire_at` (seconds since 1970). No answer in time, another status or anything that cannot be read refuses the client: it fails closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use magpie_access::Subject;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::chain::Decision;
use crate::proven::{Key, Proven};
use crate::turn::Turns;
use crate::web::Web;
use crate::{AuthConfig, By, Error, Identity, Refusal, Request, own_rules};

/// The authenticator.
#[derive(Debug)]
pub(crate) struct Hook {
    web: Web,
    url: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    places: Semaphore,
    turns: Turns,
    /// The last answer did not come: it is warned of once.
    is_down: AtomicBool,
    answers: Proven<Decision>,
}

/// What the service says.
#[derive(Debug, Deserialize)]
struct Answer {
    result: Verdict,
    #[serde(default)]
    is_superuser: bool,
    #[serde(default)]
    acl: Option<Value>,
    #[serde(default)]
    expire_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
    Ignore,
}

impl Hook {
    /// `None` if it is not configured.
    pub(crate) fn new(config: &AuthConfig, web: &Web) -> Result<Option<Self>, Error> {
        let Some(url) = config.http_url.clone() else {
            return Ok(None);
        };
        let mut authorization = None;
        if let Some(path) = &config.http_token_file {
            let token = std::fs::read_to_string(path).map_err(|error| Error::File {
                key: "http_token_file",
                path: path.display().to_string(),
                error,
            })?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim_end()))
                .map_err(|_| Error::Value {
                    key: "http_token_file",
                    what: "has characters that a header cannot hold".to_owned(),
                })?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        Ok(Some(Self {
            web: web.clone(),
            url,
            authorization,
            timeout: config.http_timeout,
            places: Semaphore::new(config.http_concurrency.min(Semaphore::MAX_PERMITS)),
            turns: Turns::new(config.http_queue.saturating_add(config.http_concurrency)),
            is_down: AtomicBool::new(false),
            answers: Proven::new(config.http_cache, config.http_cache_entries),
        }))
    }

    pub(crate) async fn decide(&self, request: &Request) -> Decision {
        let key = self.key(request);
        if let Some(known) = self.answers.get(&key) {
            return known;
        }
        // The time that it waits for its turn counts.
        let deadline = Instant::now() + self.timeout;
        let _turn = match self.turns.take() {
            Ok(turn) => turn,
            Err(refusal) => return Decision::Refuse(refusal),
        };
        let asked = async {
            let _place = self.places.acquire().await;
            self.ask(request).await
        };
        let decided = timeout_at(deadline, asked).await;
        match decided.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(decision) => {
                if self.is_down.swap(false, Ordering::Relaxed) {
                    info!("the authentication service answers again");
                }
                self.answers.put(key, decision.clone());
                decision
            }
            Err(what) => {
                metrics::counter!("magpie_auth_http_errors_total").increment(1);
                debug!(client = %request.client_id, %what, "the authentication service does not answer");
                if !self.is_down.swap(true, Ordering::Relaxed) {
                    warn!(%what, "the authentication service does not answer; clients are refused");
                }
                Decision::Refuse(Refusal::Unavailable)
            }
        }
    }

    async fn ask(&self, request: &Request) -> Result<Decision, String> {
        let document = serde_json::to_vec(&document(request)).map_err(|error| error.to_string())?;
        let authorization = self.authorization.clone();
        let asked = self
            .web
            .post(&self.url, authorization, Bytes::from(document));
        let (status, body) = asked.await?;
        if status != StatusCode::OK {
            return Err(format!("answered {status}"));
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|error| format!("the answer: {error}"))?;
        debug!(client = %request.client_id, result = ?answer.result, "the authentication service answered");
        match answer.result {
            Verdict::Ignore => Ok(Decision::Ignore),
            Verdict::Deny => Ok(Decision::Refuse(Refusal::BadCredentials)),
            Verdict::Allow => Ok(Decision::Allow(Identity {
                subject: Subject {
                    username: request.username.clone().filter(|name| !name.is_empty()),
                    client_id: request.client_id.clone(),
                    is_superuser: answer.is_superuser,
                    own_rules: answer.acl.as_ref().map(own_rules::parse).transpose()?,
                },
                expires_at: answer
                    .expire_at
                    .and_then(|at| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at))),
                by: By::Http,
                mark: 0,
            })),
        }
    }

    fn key(&self, request: &Request) -> Key {
        let address = request.remote.ip().to_string();
        let option =
            |value: Option<&[u8]>| value.map_or_else(Vec::new, |value| [b"=", value].concat());
        self.answers.key(&[
            request.client_id.as_bytes(),
            &option(request.username.as_deref().map(str::as_bytes)),
            &option(request.password.as_deref()),
            address.as_bytes(),
            format!("{:?}", request.certificate).as_bytes(),
            &[request.protocol_version],
        ])
    }
}

/// What the service is told.
fn document(request: &Request) -> Value {
    let mut document = json!({
        "client_id": request.client_id.as_str(),
        "username": request.username.as_deref(),
        "address": request.remote.ip().to_string(),
        "port": request.remote.port(),
        "protocol_version": request.protocol_version,
    });
    if let Some(password) = &request.password {
        match std::str::from_utf8(password) {
            Ok(text) => document["password"] = json!(text),
            Err(_) => document["password_base64"] = json!(BASE64.encode(password)),
        }
    }
    if let Some(names) = &request.certificate {
        document["certificate"] = json!({
            "common_name": names.common_name,
            "dns_names": names.dns_names,
            "uris": names.uris,
            "emails": names.emails,
        });
    }
    document
}

#[cfg(test)]
mod tests;
