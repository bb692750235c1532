//! From a partition's log to the mailboxes: one task per partition.

use std::sync::Arc;

use magpie_cluster::{Tail, TailBatch, TailItem, TailLost, Tailed};
use magpie_router::CacheLimits;
use magpie_session::Eviction;
use magpie_state::Position;
use tracing::warn;

use crate::deliver::{Deliverer, Published};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::subscribers::Subscribers;

/// A tail sees all topics of its partition.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 16 * 1024,
    bytes_max: 8 << 20,
};

/// Delivers what a partition commits, in its order, until the node stops.
pub(crate) async fn run(
    mut tail: Tail,
    subscribers: Arc<Subscribers>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
) {
    let mut deliverer = Deliverer::new(Arc::clone(&subscribers), CACHE, metrics);
    while let Some(tailed) = tail.next().await {
        let index = match tailed {
            Tailed::Batch(batch) => {
                deliver_all(&mut deliverer, &subscribers, &batch);
                batch.index
            }
            Tailed::Lost(lost) => {
                pass_over(&subscribers, &registry, lost);
                lost.upto
            }
        };
        // Barriers of SUBSCRIBEs pass only now: the messages are in the mailboxes.
        tail.done(index);
    }
}

fn deliver_all(deliverer: &mut Deliverer, subscribers: &Subscribers, batch: &TailBatch) {
    let positions = &subscribers.positions;
    positions.begin(batch.partition, batch.index);
    for item in &batch.items {
        deliver(deliverer, item);
    }
    deliverer.flush();
    positions.pass(batch.partition, batch.index);
}

fn deliver(deliverer: &mut Deliverer, item: &TailItem) {
    let published = Published::new(
        &item.publisher,
        item.qos,
        item.retain,
        item.published_ms,
        &item.message,
    )
    .at(item.position);
    deliverer.deliver(published);
}

/// Messages are gone before this node could have them. Sessions that last read what they need of them, which is kept; other subscribers are
/// closed. All know before the next message is offered, also those that are just being closed: to them, too, it would look like the next.
fn pass_over(subscribers: &Subscribers, registry: &Registry, lost: TailLost) {
    let TailLost {
        partition,
        after,
        upto,
    } = lost;
    warn!(%partition, after, upto, "messages were gone before they were on this node; sessions read them, other subscribers are closed");
    let positions = &subscribers.positions;
    // First: who subscribes from here on begins behind them.
    positions.begin(partition, upto);
    let (after, missed) = (Position::end_of(after), Position::end_of(upto));
    for handle in registry.handles() {
        let lasts = handle.mailbox.miss(partition, after, missed);
        if !lasts && subscribers.count_of(&handle) > 0 {
            handle.mailbox.evict(Eviction::Busy);
        }
    }
    positions.pass(partition, upto);
}

#[cfg(test)]
mod tests;
