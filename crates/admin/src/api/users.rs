//! `/users`: who may connect with a password. Hashes are never given out.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use magpie_access::{
    Change, PASSWORD_BYTES_MAX, PasswordHash, SALT_BYTES, SCRAM_ITERATIONS, ScramVerifier, User,
    UserIs, check_name,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::body::Body;
use super::page::Page;
use super::{ApiError, change_access, policy};
use crate::audited::Details;
use crate::state::SharedState;

const LIMIT_MAX: usize = 10_000;

#[derive(Serialize)]
pub(crate) struct List {
    users: Vec<Row>,
    /// How many there are, on this page or not.
    total: usize,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    name: String,
    superuser: bool,
    /// Whether SCRAM-SHA-256 can be used.
    scram: bool,
}

/// No `Debug`: there is a password in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    password: String,
    #[serde(default)]
    superuser: bool,
    #[serde(default)]
    scram: bool,
}

/// No `Debug`: there is a password in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    password: String,
    /// As before, if left out.
    scram: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Superuser {
    superuser: bool,
}

pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let limit = page.limit(LIMIT_MAX);
    let policy = policy(&state)?;
    let tables = policy.tables();
    let users = tables.users_after(page.after.as_deref(), limit + 1);
    let next = (users.len() > limit).then(|| users[limit - 1].0.to_owned());
    let rows = users.into_iter().take(limit);
    Ok(Json(List {
        users: rows.map(|(name, user)| Row::of(name, user)).collect(),
        total: tables.user_count(),
        next,
    }))
}

pub(crate) async fn show(
    State(state): State<SharedState>,
    Path(name): Path<String>,
) -> Result<Json<Row>, ApiError> {
    let policy = policy(&state)?;
    let user = policy.user(&name).ok_or_else(|| absent(&name))?;
    Ok(Json(Row::of(&name, user)))
}

/// Adds one that is not there yet.
pub(crate) async fn add(
    State(state): State<SharedState>,
    Path(name): Path<String>,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Extension<Details>), ApiError> {
    let details = put(&state, name, new, UserIs::New).await?;
    Ok((StatusCode::CREATED, details))
}

/// Adds one, or replaces all that is known of it.
pub(crate) async fn set(
    State(state): State<SharedState>,
    Path(name): Path<String>,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Extension<Details>), ApiError> {
    let details = put(&state, name, new, UserIs::NewOrKnown).await?;
    Ok((StatusCode::NO_CONTENT, details))
}

async fn put(
    state: &SharedState,
    name: String,
    new: NewUser,
    expect: UserIs,
) -> Result<Extension<Details>, ApiError> {
    check_name(&name).map_err(|error| ApiError::bad(&error))?;
    let (is_superuser, has_scram) = (new.superuser, new.scram);
    let (password, scram) = hashed(state, new.password, has_scram).await?;
    let user = User {
        password,
        scram,
        is_superuser,
    };
    change_access(state, Change::SetUser { name, user, expect }).await?;
    let details = json!({ "superuser": is_superuser, "scram": has_scram });
    Ok(Extension(Details(details)))
}

pub(crate) async fn set_password(
    State(state): State<SharedState>,
    Path(name): Path<String>,
    Body(new): Body<NewPassword>,
) -> Result<StatusCode, ApiError> {
    let had_scram = {
        let policy = policy(&state)?;
        policy.user(&name).is_some_and(|user| user.scram.is_some())
    };
    let has_scram = new.scram.unwrap_or(had_scram);
    let (password, scram) = hashed(&state, new.password, has_scram).await?;
    let change = Change::SetPassword {
        name: name.clone(),
        password,
        scram,
    };
    let changed = change_access(&state, change).await?;
    changed
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| absent(&name))
}

pub(crate) async fn set_superuser(
    State(state): State<SharedState>,
    Path(name): Path<String>,
    Body(new): Body<Superuser>,
) -> Result<(StatusCode, Extension<Details>), ApiError> {
    let change = Change::SetSuperuser {
        name: name.clone(),
        is_superuser: new.superuser,
    };
    let changed = change_access(&state, change).await?;
    changed.ok_or_else(|| absent(&name))?;
    let details = json!({ "superuser": new.superuser });
    Ok((StatusCode::NO_CONTENT, Extension(Details(details))))
}

pub(crate) async fn remove(
    State(state): State<SharedState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let changed = change_access(&state, Change::RemoveUser { name: name.clone() }).await?;
    changed
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| absent(&name))
}

impl Row {
    fn of(name: &str, user: &User) -> Self {
        Self {
            name: name.to_owned(),
            superuser: user.is_superuser,
            scram: user.scram.is_some(),
        }
    }
}

/// Hashes where nobody waits for it, and few at a time: each takes 19 MiB and some 20 ms of a processor.
async fn hashed(
    state: &SharedState,
    password: String,
    with_scram: bool,
) -> Result<(PasswordHash, Option<ScramVerifier>), ApiError> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        let what = format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes");
        return Err(ApiError::bad(&what));
    }
    let failed = || {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the password could not be hashed",
        )
    };
    let mut salts = [[0; SALT_BYTES]; 2];
    for salt in &mut salts {
        getrandom::fill(salt).map_err(|_| failed())?;
    }
    let _seat = state.hashing.acquire().await.map_err(|_| failed())?;
    let hash = move || {
        let hash = PasswordHash::of(password.as_bytes(), salts[0])?;
        let scram = with_scram
            .then(|| ScramVerifier::of(password.as_bytes(), salts[1], SCRAM_ITERATIONS))
            .transpose()?;
        Ok((hash, scram))
    };
    let hashed: Result<_, magpie_access::PasswordError> = tokio::task::spawn_blocking(hash)
        .await
        .map_err(|_| failed())?;
    hashed.map_err(|error| ApiError::bad(&error))
}

fn absent(name: &str) -> ApiError {
    ApiError::absent(format!("there is no user \"{name}\""))
}
