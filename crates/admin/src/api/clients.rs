//! `/clients`: the clients that are connected to this node.

use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use magpie_broker::ClientInfo;
use magpie_codec::Text;
use magpie_state::ClientId;
use serde::{Deserialize, Serialize};

use super::page::{LIMIT_DEFAULT, limit};
use super::{ApiError, node};
use crate::state::SharedState;

const LIMIT_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct Page {
    /// At most so many.
    limit: Option<usize>,
    /// Only ids after this one, in order.
    after: Option<String>,
    /// Only ids that begin with this.
    prefix: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct List {
    clients: Vec<Client>,
    /// How many match on this node, on this page or not.
    total: usize,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Client {
    id: String,
    user: Option<String>,
    authenticated_by: &'static str,
    remote: String,
    version: String,
    connected_at_ms: u64,
    keep_alive_s: u16,
    epoch: u64,
    subscriptions: usize,
    messages_received: u64,
    bytes_received: u64,
    messages_sent: u64,
    bytes_sent: u64,
    waiting: usize,
}

pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let limit = limit(page.limit, LIMIT_DEFAULT, LIMIT_MAX);
    let mut clients = node(&state)?.clients();
    if let Some(prefix) = &page.prefix {
        clients.retain(|client| client.client.0.starts_with(prefix.as_str()));
    }
    let total = clients.len();
    if let Some(after) = &page.after {
        clients.retain(|client| &*client.client.0 > after.as_str());
    }
    clients.sort_unstable_by(|a, b| a.client.cmp(&b.client));
    let has_more = clients.len() > limit;
    clients.truncate(limit);
    let next = has_more
        .then(|| clients.last().map(|client| client.client.to_string()))
        .flatten();
    Ok(Json(List {
        clients: clients.iter().map(Client::from).collect(),
        total,
        next,
    }))
}

pub(crate) async fn show(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<Json<Client>, ApiError> {
    let clients = node(&state)?.clients();
    clients
        .iter()
        .find(|client| *client.client.0 == *id)
        .map(|client| Json(Client::from(client)))
        .ok_or_else(|| absent(&id))
}

/// Closes the client's connection (version 5: 0x98). It may come back at once.
pub(crate) async fn kick(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let node = node(&state)?;
    let Ok(text) = Text::try_from(id.as_str()) else {
        return Err(absent(&id));
    };
    match node.kick(&ClientId(text)) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(absent(&id)),
    }
}

fn absent(id: &str) -> ApiError {
    ApiError::absent(format!("client \"{id}\" is not connected to this node"))
}

impl From<&ClientInfo> for Client {
    fn from(info: &ClientInfo) -> Self {
        let connected_at = info
            .connected_at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            id: info.client.to_string(),
            user: info.username.clone(),
            authenticated_by: info.authenticated_by,
            remote: info.remote.to_string(),
            version: info.version.to_string(),
            connected_at_ms: u64::try_from(connected_at.as_millis()).unwrap_or(u64::MAX),
            keep_alive_s: info.keep_alive_s,
            epoch: info.epoch.0,
            subscriptions: info.subscriptions,
            messages_received: info.messages_received,
            bytes_received: info.bytes_received,
            messages_sent: info.messages_sent,
            bytes_sent: info.bytes_sent,
            waiting: info.waiting,
        }
    }
}
