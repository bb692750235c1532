//! Having the cluster watch filters, so that their messages come to this node.

use std::sync::Arc;

use futures::future;
use magpie_cluster::{Cluster, Error};
use magpie_codec::{ReasonCode, TopicFilter};
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::positions::Indexes;

/// Filters of one SUBSCRIBE that are watched at the same time.
const WATCHES_MAX: usize = 64;

/// Log indexes that this node's tails have passed after the watch, or the reason for SUBACK.
pub(crate) type Watched = Result<Indexes, ReasonCode>;

pub(super) fn leave(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) {
    if filter.is_shared() {
        cluster.leave_share(filter, handle.member());
    }
    cluster.unwatch(filter);
}

pub(super) async fn watch_all(
    cluster: Cluster,
    handle: Arc<Handle>,
    filters: Vec<TopicFilter>,
    number: u32,
) {
    let watched = watch_some(&cluster, &handle, &filters).await;
    if let Err(Post::Watched { watched, .. }) =
        handle.mailbox.post(Post::Watched { number, watched })
    {
        give_back(&cluster, &handle, &filters, &watched);
    }
}

pub(super) async fn watch_some(
    cluster: &Cluster,
    handle: &Handle,
    filters: &[TopicFilter],
) -> Vec<Watched> {
    let mut outcomes = Vec::with_capacity(filters.len());
    for some in filters.chunks(WATCHES_MAX) {
        let watching = some.iter().map(|filter| watch(cluster, handle, filter));
        let watched = future::join_all(watching).await.into_iter();
        outcomes.extend(watched.map(|it| it.map_err(|error| refusal(&error))));
    }
    outcomes
}

async fn watch(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) -> Result<Indexes, Error> {
    let barrier = cluster.watch(filter).await?;
    let indexes = barrier.indexes().to_vec();
    let passed = cluster.passed(barrier).await;
    let joined = match passed {
        Ok(()) if filter.is_shared() => cluster.join_share(filter, handle.member()).await,
        passed => passed,
    };
    joined
        .map(|()| indexes)
        .inspect_err(|_| cluster.unwatch(filter))
}

/// Gives back what was watched and joined, since the connection is gone.
pub(super) fn give_back(
    cluster: &Cluster,
    handle: &Handle,
    filters: &[TopicFilter],
    watched: &[Watched],
) {
    for (filter, watched) in filters.iter().zip(watched) {
        match watched {
            Ok(_) => leave(cluster, handle, filter),
            Err(_) if filter.is_shared() => cluster.leave_share(filter, handle.member()),
            Err(_) => {}
        }
    }
}

fn refusal(error: &Error) -> ReasonCode {
    debug!(%error, "subscription refused");
    match error {
        Error::Refused(_) | Error::Full(_) => ReasonCode::QuotaExceeded,
        _ => ReasonCode::UnspecifiedError,
    }
}
