//! `/api/v1`: one file per resource. `openapi.json` describes them; a test compares it with the routes here.

mod clients;
mod drain;
mod nodes;
mod retained;
mod sessions;
mod status;

use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use magpie_broker::Node;
use magpie_cluster::Cluster;
use serde::Serialize;

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
        .on("delete", "/nodes/{id}", nodes::remove)
        .on("get", "/clients", clients::list)
        .on("get", "/clients/{id}", clients::show)
        .on("delete", "/clients/{id}", clients::kick)
        .on("get", "/sessions", sessions::list)
        .on("get", "/sessions/{id}", sessions::show)
        .on("delete", "/sessions/{id}", sessions::end)
        .on("get", "/retained", retained::list)
        .on("get", "/retained/{topic}", retained::show)
        .on("delete", "/retained/{topic}", retained::clear)
        .on("post", "/drain", drain::drain)
}

impl Routes {
    fn on<H, T>(mut self, method: &'static str, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, SharedState>,
        T: 'static,
    {
        let filter = match method {
            "get" => MethodFilter::GET,
            "post" => MethodFilter::POST,
            "delete" => MethodFilter::DELETE,
            _ => unreachable!("the methods above"),
        };
        self.router = self.router.route(path, on(filter, handler));
        self.list.push((method, path));
        self
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
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        (self.status, Json(Body { error: self.error })).into_response()
    }
}

/// The cluster, or the answer while there is none.
fn cluster(state: &State) -> Result<&Cluster, ApiError> {
    state.cluster().ok_or_else(|| starting("the node starts"))
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
        .ok_or_else(|| starting("the node is not part of a cluster yet"))
}

fn starting(why: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}
