//! The operators' part of the audit log: each request that changes something, with what came of it.

use std::net::SocketAddr;

use axum::Extension;
use axum::extract::{RawPathParams, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use magpie_audit::{Audit, Change, Refusal, What};
use serde_json::Value;

/// Where a request comes from, and where it is told.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) remote: SocketAddr,
    pub(crate) audit: Audit,
}

/// In the extensions of an answer: what else is to be told, without secrets.
#[derive(Clone)]
pub(crate) struct Details(pub(crate) Value);

/// In the extensions of an answer: why nothing was changed.
#[derive(Clone)]
pub(crate) struct Failed(pub(crate) String);

impl Caller {
    pub(crate) fn refused(&self, why: &'static str, path: &str) {
        self.audit.refused(&Refusal {
            what: What::Api,
            why,
            client: "",
            user: None,
            remote: Some(self.remote),
            topic: Some(path),
        });
    }
}

/// Runs a handler that changes something, and tells what came of it.
pub(crate) async fn audited(
    action: &'static str,
    caller: Option<Extension<Caller>>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let target: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    let mut pending = Pending {
        action,
        target: target.join(" "),
        caller: caller.map(|Extension(caller)| caller),
    };
    let mut answer = next.run(request).await;
    let failed = answer.extensions_mut().remove::<Failed>();
    let details = answer.extensions_mut().remove::<Details>();
    let outcome = match (failed, answer.status()) {
        (Some(Failed(why)), _) => why,
        (None, StatusCode::ACCEPTED) => String::from("begun"),
        (None, status) if status.is_success() => String::from("done"),
        (None, status) => format!("refused with {status}"),
    };
    pending.tell(
        &outcome,
        details.map_or(Value::Null, |Details(value)| value),
    );
    answer
}

/// A change whose outcome is to be told, even if nobody waits for the answer any more.
struct Pending {
    action: &'static str,
    target: String,
    /// `None` once it is told.
    caller: Option<Caller>,
}

impl Pending {
    fn tell(&mut self, outcome: &str, details: Value) {
        let Some(caller) = self.caller.take() else {
            return;
        };
        caller.audit.change(&Change {
            action: self.action,
            target: &self.target,
            remote: Some(caller.remote),
            outcome,
            details,
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.tell("unknown: the request ended before the answer", Value::Null);
    }
}
