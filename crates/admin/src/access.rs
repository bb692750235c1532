//! Who may use the API and the dashboard.
//!
//! With a token: who knows it, as `Authorization: Bearer TOKEN`, or as the password of basic authentication so that a browser can ask
//! for it. Without a token: only if the server listens on loopback. A browser on this machine reaches loopback too, on behalf of any page it
//! shows; the checks of `Host` and `Origin` keep such pages out.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Config;
use crate::api::ApiError;
use crate::audited::Caller;
use crate::config::Token;

/// The rule of one server.
#[derive(Clone)]
pub(crate) enum Access {
    /// Who has this.
    Token(Token),
    /// Whoever is on this machine.
    Loopback,
    /// Nobody, until the operator sets a token.
    Nobody,
}

impl Access {
    pub(crate) fn new(config: &Config) -> Self {
        match &config.token {
            Some(token) => Self::Token(token.clone()),
            None if config.listen.ip().is_loopback() => Self::Loopback,
            None => Self::Nobody,
        }
    }

    fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        if !method.is_safe() && is_from_another_site(headers) {
            return Err(Refusal::OtherSite);
        }
        match self {
            Self::Token(token) => match offered(headers) {
                Some(offered) if token.matches(&offered) => Ok(()),
                _ => Err(Refusal::Token),
            },
            Self::Loopback if names_this_machine(headers) => Ok(()),
            Self::Loopback => Err(Refusal::OtherSite),
            Self::Nobody => Err(Refusal::Closed),
        }
    }
}

enum Refusal {
    Token,
    OtherSite,
    Closed,
}

/// Answers in the handler's place when access is refused.
pub(crate) async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            if let Some(caller) = request.extensions().get::<Caller>() {
                caller.refused(refusal.why(), request.uri().path());
            }
            refusal.into_response()
        }
    }
}

impl Refusal {
    /// For the audit log.
    const fn why(&self) -> &'static str {
        match self {
            Self::Token => "no or wrong API token",
            Self::OtherSite => "another site's page",
            Self::Closed => "no API token is set",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Token => {
                let mut response = ApiError::new(
                    StatusCode::UNAUTHORIZED,
                    "the API token is missing or wrong: send \"Authorization: Bearer TOKEN\"",
                )
                .into_response();
                let challenge = HeaderValue::from_static("Basic realm=\"magpie: any name, API token as password\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                response
            }
            Self::OtherSite => {
                ApiError::new(StatusCode::FORBIDDEN, "requests from other sites' pages are refused").into_response()
            }
            Self::Closed => ApiError::new(
                StatusCode::FORBIDDEN,
                "off loopback the API needs a token: start the node with --api-token-file or MAGPIE_API_TOKEN",
            )
            .into_response(),
        }
    }
}

/// The token in the request, if there is one.
fn offered(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(value.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

/// Browsers name the page that asks, and scripts have none.
fn is_from_another_site(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let asked = headers.get(HOST).and_then(|host| host.to_str().ok());
    let from = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    !matches!((from, asked), (Some((_, from)), Some(asked)) if from == asked)
}

/// A page whose name was made to resolve to 127.0.0.1 sends that name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return true;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
