//! Having the cluster watch filters, so that their messages come to this node.

use std::sync::Arc;

use futures::future;
use magpie_cluster::{Cluster, Error};
use magpie_codec::{QoS, ReasonCode, TopicFilter};
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::positions::Indexes;
use crate::shares::Shares;

/// Filters of one SUBSCRIBE that are watched at the same time.
const WATCHES_MAX: usize = 64;

/// Log indexes that this node's tails have passed after the watch, or the reason for SUBACK.
pub(crate) type Watched = Result<Indexes, ReasonCode>;

/// A filter to be watched, and the QoS of its subscription.
pub(crate) type Wanted = (TopicFilter, QoS);

pub(super) async fn watch_all(
    cluster: Cluster,
    shares: Arc<Shares>,
    handle: Arc<Handle>,
    filters: Vec<Wanted>,
    number: u32,
) {
    let watched = watch_some(&cluster, &shares, &handle, &filters).await;
    if let Err(Post::Watched { watched, .. }) =
        handle.mailbox.post(Post::Watched { number, watched })
    {
        give_back(&cluster, &shares, &handle, &filters, &watched);
    }
}

pub(super) async fn watch_some(
    cluster: &Cluster,
    shares: &Shares,
    handle: &Arc<Handle>,
    filters: &[Wanted],
) -> Vec<Watched> {
    let mut outcomes = Vec::with_capacity(filters.len());
    for some in filters.chunks(WATCHES_MAX) {
        let watching = some
            .iter()
            .map(|wanted| watch(cluster, shares, handle, wanted));
        let watched = future::join_all(watching).await.into_iter();
        outcomes.extend(watched.map(|it| it.map_err(|error| refusal(&error))));
    }
    outcomes
}

async fn watch(
    cluster: &Cluster,
    shares: &Shares,
    handle: &Arc<Handle>,
    (filter, qos): &Wanted,
) -> Result<Indexes, Error> {
    let barrier = cluster.watch(filter).await?;
    let indexes = barrier.indexes().to_vec();
    let passed = cluster.passed(barrier).await;
    let joined = match passed {
        Ok(()) if filter.is_shared() => shares.join(handle, filter, *qos).await,
        passed => passed,
    };
    joined
        .map(|()| indexes)
        .inspect_err(|_| cluster.unwatch(filter))
}

/// Gives back what was watched and joined, since the connection is gone. The membership of a session waits for it, if it is subscribed.
pub(super) fn give_back(
    cluster: &Cluster,
    shares: &Shares,
    handle: &Handle,
    filters: &[Wanted],
    watched: &[Watched],
) {
    for ((filter, _), watched) in filters.iter().zip(watched) {
        if filter.is_shared() {
            shares.part_late(handle, filter);
        }
        if watched.is_ok() {
            cluster.unwatch(filter);
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
