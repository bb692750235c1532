//! The filters of a session that goes on take effect on its node.

use std::sync::Arc;
use std::time::Duration;

use magpie_cluster::Cluster;
use magpie_session::{Session, Subscription};
use magpie_state::{PartitionId, Position};
use tracing::debug;

use super::Place;
use super::watch::{Wanted, Watched, give_back, watch_some};
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::shares::Shares;
use crate::task;

/// Pause before filters of a resumed session are watched again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Filters of a resumed session that are watched now, or not, in their order.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) filters: Vec<Wanted>,
    pub(crate) watched: Vec<Watched>,
}

impl Resumed {
    /// The connection is gone.
    pub(crate) fn undo(self, place: Place<'_>) {
        give_back(
            place.cluster,
            place.shares,
            place.handle,
            &self.filters,
            &self.watched,
        );
    }
}

/// Watches the filters of a session that goes on; the outcome comes by the mailbox.
pub(crate) fn resume(place: Place<'_>, filters: Vec<Wanted>) {
    task::spawn(watch_resumed(
        place.cluster.clone(),
        Arc::clone(place.shares),
        Arc::clone(place.handle),
        filters,
        Duration::ZERO,
    ));
}

/// The same for those that could not be watched.
pub(crate) fn resume_later(place: Place<'_>, filters: Vec<Wanted>) {
    task::spawn(watch_resumed(
        place.cluster.clone(),
        Arc::clone(place.shares),
        Arc::clone(place.handle),
        filters,
        RETRY_AFTER,
    ));
}

async fn watch_resumed(
    cluster: Cluster,
    shares: Arc<Shares>,
    handle: Arc<Handle>,
    filters: Vec<Wanted>,
    after: Duration,
) {
    tokio::time::sleep(after).await;
    if handle.mailbox.is_closed() {
        return;
    }
    let watched = watch_some(&cluster, &shares, &handle, &filters).await;
    let resumed = Box::new(Resumed { filters, watched });
    if let Err(Post::Resumed(resumed)) = handle.mailbox.post(Post::Resumed(resumed)) {
        let Resumed { filters, watched } = *resumed;
        give_back(&cluster, &shares, &handle, &filters, &watched);
    }
}

/// The filters of a resumed session take effect on this node; gives those that could not be watched, to be tried again. `offered` tells
/// from where on the tails offer everything for those that could.
pub(crate) fn resumed(
    place: Place<'_>,
    session: &Session,
    resumed: Resumed,
    offered: &mut Vec<(PartitionId, Position)>,
) -> Vec<Wanted> {
    let Resumed { filters, watched } = resumed;
    let mut again = Vec::new();
    for ((filter, _), watched) in filters.into_iter().zip(watched) {
        let Some(state) = session.subscription(&filter) else {
            // Unsubscribed meanwhile.
            if filter.is_shared() {
                place.shares.leave(place.handle, &filter);
            }
            if watched.is_ok() {
                place.cluster.unwatch(&filter);
            }
            continue;
        };
        let subscription = Subscription {
            filter,
            options: state.options,
            id: state.id,
            replaces: false,
        };
        match place.insert_resumed(&subscription, watched) {
            Ok(after) => after.into_iter().for_each(|(partition, index)| {
                let after = Position::end_of(index);
                match offered.iter_mut().find(|(of, _)| *of == partition) {
                    Some((_, known)) => *known = after.max(*known),
                    None => offered.push((partition, after)),
                }
            }),
            Err(reason) => {
                debug!(
                    ?reason,
                    "a filter of a resumed session cannot be watched now"
                );
                again.push((subscription.filter, subscription.options.qos));
            }
        }
    }
    again
}
