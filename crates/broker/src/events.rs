//! What the cluster asks of this node.

use std::sync::Arc;

use magpie_cluster::{Direct, Event, Events};
use magpie_router::CacheLimits;
use magpie_session::Eviction;
use tracing::info;

use crate::deliver::{Deliverer, Published};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::subscribers::Subscribers;

/// Messages of all nodes come through here.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 64 * 1024,
    bytes_max: 16 << 20,
};

/// Does what the cluster asks, in order, until the node stops. Nothing here waits.
pub(crate) async fn run(
    mut events: Events,
    registry: Arc<Registry>,
    subscribers: Arc<Subscribers>,
    metrics: Arc<Metrics>,
) {
    let mut deliverer = Deliverer::new(subscribers, CACHE, metrics);
    while let Some(event) = events.recv().await {
        match event {
            Event::Supersede {
                client,
                epoch,
                gone,
            } => registry.supersede(&client, epoch, gone),
            Event::Direct { messages, taken } => {
                messages
                    .iter()
                    .for_each(|direct| deliver(&mut deliverer, direct));
                deliverer.flush();
                // The sender may have given up waiting.
                let _ = taken.send(());
            }
            Event::CloseAll { why } => {
                info!(why, "all clients are closed");
                for handle in registry.handles() {
                    handle.mailbox.evict(Eviction::Busy);
                }
            }
        }
    }
}

fn deliver(deliverer: &mut Deliverer, direct: &Direct) {
    let published = Published::new(
        &direct.publisher,
        direct.qos,
        direct.retain,
        direct.published_ms,
        &direct.message,
    );
    if direct.plain {
        deliverer.deliver(published);
    }
    for share in &direct.shares {
        deliverer.deliver_to_any_member(&share.filter, published);
    }
}
