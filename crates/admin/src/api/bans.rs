//! `/bans`: who may not come.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use magpie_access::{Ban, BanTarget, Change};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::Body;
use super::page::Page;
use super::{ApiError, change_access, now_ms, policy};
use crate::audited::Details;
use crate::state::SharedState;

const LIMIT_MAX: usize = 10_000;

#[derive(Serialize)]
pub(crate) struct List {
    bans: Vec<Row>,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    target: BanTarget,
    #[serde(flatten)]
    ban: Ban,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBan {
    #[serde(default)]
    reason: String,
    /// Seconds from now; for ever, if left out.
    for_s: Option<u64>,
}

/// Those that hold.
pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let limit = page.limit(LIMIT_MAX);
    let after = page.after.as_deref().map(target).transpose()?;
    let policy = policy(&state)?;
    let bans = policy.tables().bans_after(after.as_ref(), limit + 1);
    let next = (bans.len() > limit).then(|| bans[limit - 1].0.to_string());
    let now = now_ms();
    let rows = bans.into_iter().take(limit);
    let rows = rows.filter(|(_, ban)| ban.holds(now));
    Ok(Json(List {
        bans: rows
            .map(|(target, ban)| Row {
                target: target.clone(),
                ban: ban.clone(),
            })
            .collect(),
        next,
    }))
}

/// Adds one, or changes its reason and its end.
pub(crate) async fn add(
    State(state): State<SharedState>,
    Path(text): Path<String>,
    Body(new): Body<NewBan>,
) -> Result<(StatusCode, Extension<Details>, Json<Row>), ApiError> {
    let target = target(&text)?;
    let now_ms = now_ms();
    let until_ms = new
        .for_s
        .map(|for_s| now_ms.saturating_add(for_s.saturating_mul(1000)));
    let ban = Ban {
        reason: new.reason,
        until_ms,
    };
    let row = Row {
        target: target.clone(),
        ban: ban.clone(),
    };
    let change = Change::AddBan {
        target,
        ban,
        now_ms,
    };
    change_access(&state, change).await?;
    let details = json!({ "reason": row.ban.reason, "for_s": new.for_s });
    Ok((StatusCode::OK, Extension(Details(details)), Json(row)))
}

pub(crate) async fn remove(
    State(state): State<SharedState>,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    let change = Change::RemoveBan {
        target: target(&text)?,
        now_ms: now_ms(),
    };
    let changed = change_access(&state, change).await?;
    changed
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| ApiError::absent(format!("there is no ban of \"{text}\"")))
}

fn target(text: &str) -> Result<BanTarget, ApiError> {
    text.parse()
        .map_err(|error: magpie_access::Error| ApiError::bad(&error))
}
