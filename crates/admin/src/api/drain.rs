//! `/drain`: empties this node, so that stopping it interrupts nobody.

use axum::extract::State;
use axum::http::StatusCode;

use super::{ApiError, node};
use crate::state::SharedState;

/// Answers at once; `/status` shows how far it is. A drained node serves no clients until it is started again.
pub(crate) async fn drain(State(state): State<SharedState>) -> Result<StatusCode, ApiError> {
    node(&state)?;
    state.drain_asked.notify_one();
    Ok(StatusCode::ACCEPTED)
}
