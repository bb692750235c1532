//! Which clients are connected to this node, and which of two connections of one client may act.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use magpie_cluster::Handover;
use magpie_session::Eviction;
use magpie_state::{ClientId, Epoch};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::handle::Handle;
use crate::mailbox::Gone;

const SHARDS: usize = 32;

/// Client id -> connections of this node, those included that wait for their attach or close.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

type Shard = HashMap<ClientId, Entry, RandomState>;

#[derive(Debug, Default)]
struct Entry {
    handles: SmallVec<[Arc<Handle>; 1]>,
    /// The newest attachment of the client elsewhere that we heard of while it had a connection here.
    newest: Epoch,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
        }
    }

    /// A connection begins its attach.
    pub(crate) fn enter(&self, client: &ClientId, handle: &Arc<Handle>) {
        // [MQTT-3.1.3-2], [MQTT-3.1.3-2 v3.1.1]
        let mut shard = self.shard(client);
        shard
            .entry(client.clone())
            .or_default()
            .handles
            .push(Arc::clone(handle));
    }

    /// The connection is attached under `epoch`. False if a newer one was heard of meanwhile: it must not act.
    ///
    /// Older connections of the client on this node are closed, if the cluster has not done so yet.
    pub(crate) fn attached(&self, client: &ClientId, handle: &Arc<Handle>, epoch: Epoch) -> bool {
        let mut shard = self.shard(client);
        handle.set_epoch(epoch);
        let Some(entry) = shard.get_mut(client) else {
            return false;
        };
        if epoch < entry.newest {
            return false;
        }
        entry.newest = epoch;
        for older in entry.below(epoch) {
            older.mailbox.evict(Eviction::TakenOver);
        }
        true
    }

    /// The connection is closed and can append nothing more.
    pub(crate) fn leave(&self, client: &ClientId, handle: &Arc<Handle>) {
        let mut shard = self.shard(client);
        if let Some(entry) = shard.get_mut(client) {
            entry.handles.retain(|other| !Arc::ptr_eq(other, handle));
            if entry.handles.is_empty() {
                shard.remove(client);
            }
        }
    }

    /// Ends every connection of `client` below `epoch`, and sends what is left of the session when all of them can append nothing more. One that waits for
    /// its attach has appended nothing; it finds out by [`attached`](Self::attached).
    pub(crate) fn supersede(
        &self,
        client: &ClientId,
        epoch: Epoch,
        gone: oneshot::Sender<Option<Handover>>,
    ) {
        let gone = Gone::new(gone);
        let mut shard = self.shard(client);
        if let Some(entry) = shard.get_mut(client) {
            entry.newest = entry.newest.max(epoch);
            for older in entry.below(epoch) {
                // [MQTT-3.1.4-3], [MQTT-3.1.4-2 v3.1.1]: the older connection learns that it was taken over.
                older.mailbox.evict(Eviction::TakenOver);
                older.mailbox.when_gone(Arc::clone(&gone));
            }
        }
    }

    /// Ends the connections of a client. False if it has none here.
    pub(crate) fn evict(&self, client: &ClientId, why: Eviction) -> bool {
        let shard = self.shard(client);
        let Some(entry) = shard.get(client) else {
            return false;
        };
        entry
            .handles
            .iter()
            .for_each(|handle| handle.mailbox.evict(why));
        true
    }

    /// All connections that have said who they are.
    pub(crate) fn handles(&self) -> Vec<Arc<Handle>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().flat_map(|entry| &entry.handles).cloned());
        }
        all
    }

    fn shard(&self, client: &ClientId) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(client);
        // The map below uses the same bits from the other end.
        let at = (hash >> 40) as usize % SHARDS;
        self.shards[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The attached connections below `epoch`.
    fn below(&self, epoch: Epoch) -> impl Iterator<Item = &Arc<Handle>> {
        self.handles
            .iter()
            .filter(move |handle| handle.epoch().is_some_and(|it| it < epoch))
    }
}

#[cfg(test)]
mod tests;
