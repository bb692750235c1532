//! `/api/v1`: one file per resource. `openapi.json` describes them; a test compares it with the routes here.

mod acl;
mod bans;
mod body;
mod clients;
mod drain;
mod nodes;
mod page;
mod retained;
mod sessions;
mod status;
mod users;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Json, Router};
use magpie_access::{Change, Changed, Policy};
use magpie_broker::Node;
use magpie_cluster::{Cluster, Error};
use serde::Serialize;

use crate::audited::{Failed, audited};
use crate::state::{SharedState, State};

const OPENAPI: &str = include_str!("openapi.json");

/// The router, and a list of what is in it.
pub(crate) struct Routes {
    pub(crate) router: Router<SharedState>,
    /// Method and path, as in the description.
    pub(crate) list: Vec<(&'static str, &'static str)>,
}

pub(crate) fn routes() -> Routes {
    let empty = Routes {
        router: Router::new(),
        list: Vec::new(),
    };
    empty
        .on("get", "/openapi.json", async || {
            ([(CONTENT_TYPE, "application/json")], OPENAPI)
        })
        .on("get", "/status", status::show)
        .on("get", "/nodes", nodes::list)
        .on_change("delete", "/nodes/{id}", "node.remove", nodes::remove)
        .on("get", "/clients", clients::list)
        .on("get", "/clients/{id}", clients::show)
        .on_change("delete", "/clients/{id}", "client.kick", clients::kick)
        .on("get", "/sessions", sessions::list)
        .on("get", "/sessions/{id}", sessions::show)
        .on_change("delete", "/sessions/{id}", "session.end", sessions::end)
        .on("get", "/retained", retained::list)
        .on("get", "/retained/{topic}", retained::show)
        .on_change(
            "delete",
            "/retained/{topic}",
            "retained.clear",
            retained::clear,
        )
        .on_change("post", "/drain", "node.drain", drain::drain)
        .on("get", "/users", users::list)
        .on("get", "/users/{name}", users::show)
        .on_change("post", "/users/{name}", "user.add", users::add)
        .on_change("put", "/users/{name}", "user.set", users::set)
        .on_change("delete", "/users/{name}", "user.remove", users::remove)
        .on_change(
            "put",
            "/users/{name}/password",
            "user.password",
            users::set_password,
        )
        .on_change(
            "put",
            "/users/{name}/superuser",
            "user.superuser",
            users::set_superuser,
        )
        .on("get", "/acl", acl::list)
        .on_change("post", "/acl", "acl.add", acl::add)
        .on_change("delete", "/acl/{id}", "acl.remove", acl::remove)
        .on("get", "/bans", bans::list)
        .on_change("put", "/bans/{target}", "ban.add", bans::add)
        .on_change("delete", "/bans/{target}", "ban.remove", bans::remove)
}

impl Routes {
    /// What only shows something.
    fn on<H, T>(self, method: &'static str, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, SharedState>,
        T: 'static,
    {
        self.route(method, path, on(filter(method), handler))
    }

    /// What changes something, and is told in the audit log as `action`.
    fn on_change<H, T>(
        self,
        method: &'static str,
        path: &'static str,
        action: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, SharedState>,
        T: 'static,
    {
        let audited = from_fn(move |caller, params, request, next| {
            audited(action, caller, params, request, next)
        });
        self.route(method, path, on(filter(method), handler).layer(audited))
    }

    fn route(
        mut self,
        method: &'static str,
        path: &'static str,
        handler: MethodRouter<SharedState>,
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.list.push((method, path));
        self
    }
}

fn filter(method: &str) -> MethodFilter {
    match method {
        "get" => MethodFilter::GET,
        "post" => MethodFilter::POST,
        "put" => MethodFilter::PUT,
        "delete" => MethodFilter::DELETE,
        _ => unreachable!("the methods above"),
    }
}

/// A refusal: the status, and `{"error": "one sentence"}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    error: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }

    /// The request says something that cannot be.
    fn bad(error: &impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }

    /// What the request is about is not there.
    fn absent(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// It may work later, or at another node.
    fn unavailable(error: &impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(why) => Self::new(StatusCode::CONFLICT, why),
            error => Self::unavailable(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        let failed = Extension(Failed(self.error.clone()));
        (self.status, failed, Json(Body { error: self.error })).into_response()
    }
}

/// The cluster, or the answer while there is none.
fn cluster(state: &State) -> Result<&Cluster, ApiError> {
    state
        .cluster()
        .ok_or_else(|| ApiError::unavailable(&"the node starts"))
}

/// The cluster, once it is formed, or the answer before.
fn formed(state: &State) -> Result<&Cluster, ApiError> {
    node(state)?;
    cluster(state)
}

/// The node, or the answer while there is none.
fn node(state: &State) -> Result<&Node, ApiError> {
    state
        .node()
        .ok_or_else(|| ApiError::unavailable(&"the node is not part of a cluster yet"))
}

/// The users, rules and bans of now.
fn policy(state: &State) -> Result<Arc<Policy>, ApiError> {
    Ok(Arc::clone(&cluster(state)?.policy().borrow()))
}

/// Changes users, rules or bans. `None`: there is no such thing to change.
async fn change_access(state: &State, change: Change) -> Result<Option<Changed>, ApiError> {
    match cluster(state)?.change_access(change).await? {
        Changed::Absent => Ok(None),
        changed => Ok(Some(changed)),
    }
}

/// Milliseconds since 1970, by this node's clock.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
