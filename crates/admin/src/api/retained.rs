//! `/retained`: the retained messages of the cluster.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use magpie_cluster::TailItem;
use magpie_codec::{TopicFilter, TopicName};
use serde::{Deserialize, Serialize};

use super::page::{LIMIT_DEFAULT, limit};
use super::{ApiError, formed};
use crate::state::SharedState;

const LIMIT_MAX: usize = 1000;
/// Bytes of a payload that are shown.
const PREVIEW_BYTES: usize = 4096;

#[derive(Deserialize)]
pub(crate) struct Page {
    /// Only topics that this filter matches; default `#`.
    filter: Option<String>,
    /// At most so many.
    limit: Option<usize>,
    /// Only topics after this one, in order.
    after: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct List {
    messages: Vec<Message>,
    /// What to pass as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Message {
    topic: String,
    publisher: String,
    qos: u8,
    published_ms: u64,
    /// Seconds from then on; `null`: it does not expire.
    expiry_s: Option<u32>,
    payload_bytes: usize,
}

#[derive(Serialize)]
pub(crate) struct Details {
    #[serde(flatten)]
    message: Message,
    /// At most its first 4096 bytes; what is not UTF-8 is replaced.
    payload_text: String,
}

pub(crate) async fn list(
    State(state): State<SharedState>,
    Query(page): Query<Page>,
) -> Result<Json<List>, ApiError> {
    let cluster = formed(&state)?;
    let limit = limit(page.limit, LIMIT_DEFAULT, LIMIT_MAX);
    let filter = TopicFilter::try_from(page.filter.unwrap_or_else(|| "#".to_owned()))
        .map_err(|_| ApiError::bad(&"not a topic filter"))?;
    let after = page.after.as_deref().map(topic_name).transpose()?;
    let (items, has_more) = cluster
        .retained_list(&filter, after.as_ref(), limit)
        .await?;
    let next = has_more
        .then(|| items.last().map(|item| item.message.topic.to_string()))
        .flatten();
    Ok(Json(List {
        messages: items.iter().map(Message::from).collect(),
        next,
    }))
}

pub(crate) async fn show(
    State(state): State<SharedState>,
    Path(topic): Path<String>,
) -> Result<Json<Details>, ApiError> {
    let cluster = formed(&state)?;
    let filter = exact(&topic)?;
    let (items, _) = cluster.retained_list(&filter, None, 1).await?;
    let item = items.first().ok_or_else(|| absent(&topic))?;
    let payload = &item.message.payload;
    let shown = &payload[..payload.len().min(PREVIEW_BYTES)];
    Ok(Json(Details {
        message: Message::from(item),
        payload_text: String::from_utf8_lossy(shown).into_owned(),
    }))
}

/// Removes the retained message.
pub(crate) async fn clear(
    State(state): State<SharedState>,
    Path(topic): Path<String>,
) -> Result<StatusCode, ApiError> {
    let cluster = formed(&state)?;
    let filter = exact(&topic)?;
    let (items, _) = cluster.retained_list(&filter, None, 1).await?;
    if items.is_empty() {
        return Err(absent(&topic));
    }
    cluster.clear_retained(&topic_name(&topic)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<&TailItem> for Message {
    fn from(item: &TailItem) -> Self {
        let properties = item.message.properties.as_ref();
        Self {
            topic: item.message.topic.to_string(),
            publisher: item.publisher.to_string(),
            qos: item.qos as u8,
            published_ms: item.published_ms,
            expiry_s: properties.and_then(|properties| properties.expiry_interval_s),
            payload_bytes: item.message.payload.len(),
        }
    }
}

/// The filter that matches one topic.
fn exact(topic: &str) -> Result<TopicFilter, ApiError> {
    topic_name(topic)?;
    TopicFilter::try_from(topic).map_err(|_| absent(topic))
}

fn topic_name(text: &str) -> Result<TopicName, ApiError> {
    TopicName::try_from(text).map_err(|_| ApiError::bad(&"not a topic name"))
}

fn absent(topic: &str) -> ApiError {
    ApiError::absent(format!("there is no retained message of topic \"{topic}\""))
}
