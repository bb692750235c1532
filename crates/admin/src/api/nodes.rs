//! `/nodes`: the members of the cluster.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use magpie_cluster::MemberStatus;
use magpie_state::NodeId;
use serde::Serialize;

use super::{ApiError, cluster};
use crate::state::SharedState;

#[derive(Serialize)]
pub(crate) struct Body {
    nodes: Vec<MemberStatus>,
}

pub(crate) async fn list(State(state): State<SharedState>) -> Result<Json<Body>, ApiError> {
    let nodes = cluster(&state)?.status().members;
    Ok(Json(Body { nodes }))
}

/// Removes a member that is down, for good. Named by its id, or by its name if only one member has it.
pub(crate) async fn remove(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let cluster = cluster(&state)?;
    let members = cluster.status().members;
    let mut matching = members
        .iter()
        .filter(|member| member.id == id || member.name == id);
    let member = match (matching.next(), matching.next()) {
        (Some(member), None) => member,
        (None, _) => {
            return Err(ApiError::absent(format!(
                "the cluster has no node \"{id}\""
            )));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                format!("several nodes are called \"{id}\"; use the id"),
            ));
        }
    };
    if member.state != "down" {
        let what = format!(
            "node {} is {}: only a node that is down can be removed; stop it first",
            member.name, member.state
        );
        return Err(ApiError::new(StatusCode::CONFLICT, what));
    }
    let id = u64::from_str_radix(&member.id, 16).map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the node's id is not a number",
        )
    })?;
    cluster.remove_member(NodeId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
