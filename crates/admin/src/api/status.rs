//! `/status`: this node and the cluster as it sees it.

use axum::Json;
use axum::extract::State;
use magpie_broker::{Node, Totals};
use magpie_cluster::Readiness;
use serde::Serialize;

use super::ApiError;
use crate::state::SharedState;

#[derive(Serialize)]
pub(crate) struct Body {
    version: &'static str,
    uptime_s: u64,
    ready: bool,
    draining: bool,
    /// Open connections, those included that have not said CONNECT.
    connections: usize,
    clients: usize,
    subscriptions: usize,
    filters: usize,
    #[serde(flatten)]
    cluster: magpie_cluster::Status,
}

pub(crate) async fn show(State(state): State<SharedState>) -> Result<Json<Body>, ApiError> {
    let mut cluster = super::cluster(&state)?.status();
    let totals = state.node().map(Node::totals);
    let count = |of: fn(&Totals) -> usize| totals.as_ref().map_or(0, of);
    let readiness = state.readiness();
    // A node that drains is not ready, whatever the cluster says of it.
    cluster.not_ready = match &readiness {
        Readiness::Ready => String::new(),
        Readiness::NotReady(why) => why.clone(),
    };
    Ok(Json(Body {
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: state.started.elapsed().as_secs(),
        ready: readiness == Readiness::Ready,
        draining: state.is_draining(),
        connections: count(|totals| totals.connections),
        clients: count(|totals| totals.clients),
        subscriptions: count(|totals| totals.subscriptions),
        filters: count(|totals| totals.filters),
        cluster,
    }))
}
