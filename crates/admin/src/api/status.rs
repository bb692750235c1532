//! `/status`: this node and the cluster as it sees it.

use axum::Json;
use axum::extract::State;
use magpie_cluster::Readiness;
use serde::Serialize;

use super::{ApiError, running};
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
    let running = running(&state)?;
    let totals = running.node.totals();
    let mut cluster = running.cluster.status();
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
        connections: totals.connections,
        clients: totals.clients,
        subscriptions: totals.subscriptions,
        filters: totals.filters,
        cluster,
    }))
}
