//! Fetching what share groups have dealt to a connection and what its mailbox had no room for: until there is room, it stays in the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use magpie_cluster::{Cluster, TailItem};
use magpie_session::{Delivery, Session};
use magpie_state::PartitionId;
use tracing::debug;

use crate::clock;
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::shared::Wanted;
use crate::shares::Shares;
use crate::task;

/// Messages of one fetch.
const MESSAGES_MAX: usize = 64;
/// Pause after a fetch that brought nothing.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A fetch that came back.
pub(crate) struct Fetched {
    partition: PartitionId,
    wanted: Vec<Wanted>,
    /// In the order of the log; `None`: it cannot be read now.
    items: Option<Vec<TailItem>>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("partition", &self.partition)
            .field("wanted", &self.wanted.len())
            .finish_non_exhaustive()
    }
}

/// Starts the next fetch, if one is wanted and there is room. False if there is nothing that could be fetched later either.
pub(crate) fn start(cluster: &Cluster, handle: &Arc<Handle>, session: &Session) -> bool {
    let room = handle.mailbox.room();
    let has_room = room.messages >= MESSAGES_MAX.min(handle.mailbox.messages_max() / 2).max(1)
        && room.bytes >= handle.mailbox.bytes_max() / 2;
    if !has_room {
        return true;
    }
    let is_subscribed = |filter: &_| session.subscription(filter).is_some();
    let next = handle.mailbox.with_shared(|shared| {
        (
            shared.next_to_fetch(MESSAGES_MAX, is_subscribed),
            shared.has_waiting(),
        )
    });
    match next {
        Some((Some((partition, wanted)), _)) => {
            task::spawn(run(cluster.clone(), Arc::clone(handle), partition, wanted));
            false
        }
        Some((None, has_waiting)) => has_waiting,
        None => false,
    }
}

async fn run(cluster: Cluster, handle: Arc<Handle>, partition: PartitionId, wanted: Vec<Wanted>) {
    let mut positions: Vec<_> = wanted.iter().map(|wanted| wanted.position).collect();
    positions.dedup();
    let items = match cluster.fetch_at(partition, positions).await {
        Ok(items) => Some(items),
        Err(error) => {
            debug!(%partition, %error, "messages of a share group cannot be read now");
            tokio::time::sleep(RETRY_AFTER).await;
            None
        }
    };
    // Not taken by a connection that is gone: its group learns from its parting that it does not have them.
    let _ = handle.mailbox.post(Post::Fetched(Box::new(Fetched {
        partition,
        wanted,
        items,
    })));
}

impl Fetched {
    /// Takes what was fetched into the mailbox. What a limit has removed needs no more.
    pub(crate) fn take(self, handle: &Handle, session: &Session, shares: &Shares) {
        let Self { wanted, items, .. } = self;
        let mut gone = Vec::new();
        if let Some(items) = items {
            let deliveries = wanted.iter().filter_map(|wanted| {
                let at = items.binary_search_by_key(&wanted.position, |item| item.position);
                let Ok(at) = at else {
                    gone.push(wanted.token);
                    return None;
                };
                // Unsubscribed meanwhile: it was given back.
                let state = session.subscription(&wanted.filter)?;
                Some(delivery(wanted, &items[at], state))
            });
            let deliveries: Vec<_> = deliveries.collect();
            handle.mailbox.put_fetched(deliveries.into_iter());
        }
        let gone = handle.mailbox.with_shared(|shared| {
            shared.fetched();
            let gone = gone.into_iter();
            gone.filter_map(|token| shared.finish(token, false))
                .collect::<Vec<_>>()
        });
        gone.into_iter()
            .flatten()
            .for_each(|place| shares.done(place));
    }
}

fn delivery(
    wanted: &Wanted,
    item: &TailItem,
    state: &magpie_session::SubscriptionState,
) -> Delivery {
    Delivery {
        message: Arc::clone(&item.message),
        qos: wanted.qos,
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        retain: item.retain && state.options.retain_as_published,
        subscription_ids: state.id.into_iter().collect(),
        token: wanted.token,
        expires_at: clock::expires_at(&item.message, item.published_ms),
    }
}
