//! `/sessions`: the sessions of the cluster, with and without a connection.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use magpie_cluster::{Cluster, MemberStatus};
use magpie_codec::Text;
use magpie_state::partition::{SessionSummary, StoredSession};
use magpie_state::{ClientId, Epoch, Stage, StreamId};
use serde::Serialize;

use super::page::Page;
use super::{ApiError, formed};
use crate::state::SharedState;

const LIMIT_MAX: usize = 1000;

#[derive(Serialize)]
pub(crate) struct List {
    sessions: Vec<Session>,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Session {
    client: String,
    /// Name of the node that holds the connection, or its id if it is no member.
    node: Option<String>,
    epoch: Option<u64>,
    incarnation: u64,
    expiry_s: u32,
    subscriptions: usize,
}

#[derive(Serialize)]
pub(crate) struct Details {
    client: String,
    node: Option<String>,
    epoch: Option<u64>,
    incarnation: u64,
    expiry_s: u32,
    subscriptions: Vec<Subscription>,
    cursors: Vec<Cursor>,
    inflight: Vec<Inflight>,
    waiting_messages: u64,
    waiting_bytes: u64,
    /// False: more wait than were counted.
    waiting_complete: bool,
    /// Messages that limits have taken from it since it began.
    lost_messages: u64,
}

#[derive(Serialize)]
struct Subscription {
    filter: String,
    qos: u8,
    id: Option<u32>,
    no_local: bool,
    retain_as_published: bool,
}

#[derive(Serialize)]
struct Cursor {
    partition: u16,
    /// Log index and ordinal up to which everything is done.
    floor: String,
    /// How many messages above it are done.
    done: usize,
}

#[derive(Serialize)]
struct Inflight {
    packet_id: u16,
    partition: u16,
    position: String,
    qos: u8,
    /// `published` or `released`.
    stage: &'static str,
}

pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let cluster = formed(&state)?;
    let limit = page.limit(LIMIT_MAX);
    let after = page.after.as_deref().map(client_id).transpose()?;
    let sessions = cluster.sessions(after.as_ref(), limit).await?;
    let next = (sessions.len() == limit)
        .then(|| sessions.last().map(|session| session.client.to_string()))
        .flatten();
    let members = cluster.status().members;
    let rows = sessions
        .iter()
        .map(|session| Session::of(session, &members));
    Ok(Json(List {
        sessions: rows.collect(),
        next,
    }))
}

pub(crate) async fn show(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<Json<Details>, ApiError> {
    let cluster = formed(&state)?;
    let client = client_id(&id)?;
    let session = cluster.session(&client).await?;
    let session = session.ok_or_else(|| absent(&id))?;
    Details::of(cluster, id, &session).await.map(Json)
}

/// Ends the session, and its connection, if there is one.
pub(crate) async fn end(
    State(state): State<SharedState>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let cluster = formed(&state)?;
    match cluster.end_session(&client_id(&id)?).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(absent(&id)),
    }
}

impl Session {
    fn of(session: &SessionSummary, members: &[MemberStatus]) -> Self {
        let (epoch, node) = attached(session.attached, members);
        Self {
            client: session.client.to_string(),
            node,
            epoch,
            incarnation: session.session.0,
            expiry_s: session.session_expiry_s,
            subscriptions: session.subscriptions,
        }
    }
}

impl Details {
    async fn of(
        cluster: &Cluster,
        client: String,
        session: &StoredSession,
    ) -> Result<Self, ApiError> {
        let waiting = cluster.waiting(session).await?;
        let (epoch, node) = attached(session.attached, &cluster.status().members);
        let subscriptions = session.subscriptions.iter().map(|it| Subscription {
            filter: it.filter.to_string(),
            qos: it.options.qos as u8,
            id: it.id,
            no_local: it.options.no_local,
            retain_as_published: it.options.retain_as_published,
        });
        let cursors = session.cursors.iter().map(|cursor| Cursor {
            partition: cursor.partition.0,
            floor: cursor.floor.to_string(),
            done: cursor.done.len(),
        });
        let inflight = session.inflight.iter().map(|it| Inflight {
            packet_id: it.packet_id.number(),
            partition: it.partition.0,
            position: it.position.to_string(),
            qos: it.qos as u8,
            stage: match it.stage {
                Stage::Published => "published",
                Stage::Released => "released",
                Stage::Done => "done",
            },
        });
        Ok(Self {
            client,
            node,
            epoch,
            incarnation: session.session.0,
            expiry_s: session.session_expiry_s,
            subscriptions: subscriptions.collect(),
            cursors: cursors.collect(),
            inflight: inflight.collect(),
            waiting_messages: waiting.messages,
            waiting_bytes: waiting.bytes,
            waiting_complete: waiting.is_complete,
            lost_messages: session.lost,
        })
    }
}

/// Epoch of the connection, and the node that holds it.
fn attached(
    attached: Option<(Epoch, StreamId)>,
    members: &[MemberStatus],
) -> (Option<u64>, Option<String>) {
    let Some((epoch, holder)) = attached else {
        return (None, None);
    };
    let id = holder.node.to_string();
    let member = members.iter().find(|member| member.id == id);
    (
        Some(epoch.0),
        Some(member.map_or(id, |member| member.name.clone())),
    )
}

fn client_id(text: &str) -> Result<ClientId, ApiError> {
    Text::try_from(text).map(ClientId).map_err(|_| absent(text))
}

fn absent(id: &str) -> ApiError {
    ApiError::absent(format!("client \"{id}\" has no session"))
}
