//! From a partition's log to the mailboxes: one task per partition.

use std::sync::Arc;

use magpie_cluster::{Tail, TailItem};
use magpie_router::CacheLimits;

use crate::deliver::{Deliverer, Published};
use crate::metrics::Metrics;
use crate::subscribers::Subscribers;

/// A tail sees all topics of its partition.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 16 * 1024,
    bytes_max: 8 << 20,
};

/// Delivers what a partition commits, in its order, until the node stops.
pub(crate) async fn run(mut tail: Tail, subscribers: Arc<Subscribers>, metrics: Arc<Metrics>) {
    let mut deliverer = Deliverer::new(Arc::clone(&subscribers), CACHE, metrics);
    let positions = &subscribers.positions;
    while let Some(batch) = tail.next().await {
        positions.begin(batch.partition, batch.index);
        for item in &batch.items {
            deliver(&mut deliverer, item);
        }
        deliverer.flush();
        positions.pass(batch.partition, batch.index);
        // Barriers of SUBSCRIBEs pass only now: the messages are in the mailboxes.
        tail.done(batch.index);
    }
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
