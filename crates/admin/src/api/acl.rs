//! `/acl`: the rules.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use magpie_access::{Change, Changed, Rule, RuleId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::Body;
use super::page::limit;
use super::{ApiError, change_access, policy};
use crate::audited::Details;
use crate::state::SharedState;

const LIMIT_DEFAULT: usize = 1000;
const LIMIT_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct Page {
    /// At most so many.
    limit: Option<usize>,
    /// Only numbers after this one.
    after: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct List {
    rules: Vec<Row>,
    /// How many there are, on this page or not.
    total: usize,
    /// What to pass as `after` for the next page.
    next: Option<RuleId>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    id: RuleId,
    #[serde(flatten)]
    rule: Rule,
}

pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let limit = limit(page.limit, LIMIT_DEFAULT, LIMIT_MAX);
    let policy = policy(&state)?;
    let rules = policy.tables().rules();
    let after = RuleId(page.after.unwrap_or(0).saturating_add(1));
    let mut rows = rules.range(after..).map(|(id, rule)| Row {
        id: *id,
        rule: rule.clone(),
    });
    let shown: Vec<Row> = rows.by_ref().take(limit).collect();
    let next = rows.next().and_then(|_| shown.last().map(|row| row.id));
    Ok(Json(List {
        rules: shown,
        total: rules.len(),
        next,
    }))
}

/// Adds a rule; of one that is there already the number is given.
pub(crate) async fn add(
    State(state): State<SharedState>,
    Body(body): Body<serde_json::Value>,
) -> Result<(StatusCode, Extension<Details>, Json<Row>), ApiError> {
    // What is wrong with a rule is worth telling, and there is no secret in it.
    let rule: Rule = serde_json::from_value(body).map_err(|error| ApiError::bad(&error))?;
    let change = Change::AddRule { rule: rule.clone() };
    let Some(Changed::Rule(id)) = change_access(&state, change).await? else {
        return Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the rule has no number",
        ));
    };
    let row = Row { id, rule };
    let details = json!(row);
    Ok((StatusCode::CREATED, Extension(Details(details)), Json(row)))
}

#[derive(Serialize)]
pub(crate) struct Left {
    /// Rules that there are now; without any, everybody may do everything.
    left: usize,
}

/// Removes a rule; of one that was removed before this says the same.
pub(crate) async fn remove(
    State(state): State<SharedState>,
    Path(id): Path<u64>,
) -> Result<(Extension<Details>, Json<Left>), ApiError> {
    let id = RuleId(id);
    let rule = policy(&state)?.tables().rules().get(&id).cloned();
    let changed = change_access(&state, Change::RemoveRule { id }).await?;
    changed.ok_or_else(|| ApiError::absent(format!("there is no rule {id}")))?;
    let left = policy(&state)?.tables().rules().len();
    Ok((Extension(Details(json!(rule))), Json(Left { left })))
}
