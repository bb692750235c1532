//! `/livez` and `/readyz`: for balancers, container runtimes and scripts.

use axum::extract::State;
use axum::http::StatusCode;
use magpie_cluster::Readiness;

use crate::state::SharedState;

/// The process works: it answers.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// 200 while clients may come, else 503 and why in one line.
pub(crate) async fn readyz(State(state): State<SharedState>) -> (StatusCode, String) {
    match state.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::NotReady(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{}\n", why.replace('\n', " ")),
        ),
    }
}
