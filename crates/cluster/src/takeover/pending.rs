//! Attaches under way on this node. Until one is through, what it superseded may not be kept out yet: a newer attach must know.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use magpie_state::{ClientId, Epoch};
use tokio::sync::Notify;

/// The attaches under way, by client. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pending {
    table: Arc<Table>,
}

#[derive(Default)]
struct Table {
    attaches: Mutex<Attaches>,
    changed: Notify,
}

#[derive(Default)]
struct Attaches {
    by_client: HashMap<ClientId, Vec<Entry>>,
    last: u64,
}

struct Entry {
    number: u64,
    /// Once the partition has answered.
    epoch: Option<Epoch>,
    /// The highest epoch that was heard to supersede it meanwhile.
    superseded_by: Epoch,
}

/// One attach under way, until it is dropped.
pub(super) struct Attaching {
    pending: Pending,
    client: ClientId,
    number: u64,
}

impl Pending {
    pub(super) fn begin(&self, client: &ClientId) -> Attaching {
        let mut attaches = self.lock();
        attaches.last += 1;
        let number = attaches.last;
        let entries = attaches.by_client.entry(client.clone()).or_default();
        entries.push(Entry {
            number,
            epoch: None,
            superseded_by: Epoch::default(),
        });
        Attaching {
            pending: self.clone(),
            client: client.clone(),
            number,
        }
    }

    /// Somebody attached `client` under `epoch`.
    pub(super) fn note_superseded(&self, client: &ClientId, epoch: Epoch) {
        if let Some(entries) = self.lock().by_client.get_mut(client) {
            for entry in entries {
                entry.superseded_by = entry.superseded_by.max(epoch);
            }
        }
    }

    /// Waits until no attach of `client` below `epoch` is under way; false if that takes longer than `within`.
    pub(super) async fn through(&self, client: &ClientId, epoch: Epoch, within: Duration) -> bool {
        let waiting = async {
            loop {
                let mut changed = pin!(self.table.changed.notified());
                changed.as_mut().enable();
                if !self.is_under_way(client, epoch) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, waiting).await.is_ok()
    }

    fn is_under_way(&self, client: &ClientId, below: Epoch) -> bool {
        let attaches = self.lock();
        let entries = attaches.by_client.get(client);
        entries.is_some_and(|entries| {
            let mut entries = entries.iter();
            entries.any(|entry| entry.epoch.is_none_or(|epoch| epoch < below))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Attaches> {
        self.table
            .attaches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attaching {
    /// The partition has answered.
    pub(super) fn has(&self, epoch: Epoch) {
        self.with_entry(|entry| entry.epoch = Some(epoch));
        self.pending.table.changed.notify_waiters();
    }

    /// The highest epoch that was heard of since it began.
    pub(super) fn superseded_by(&self) -> Epoch {
        self.with_entry(|entry| entry.superseded_by)
            .unwrap_or_default()
    }

    fn with_entry<R>(&self, act: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let mut attaches = self.pending.lock();
        let entries = attaches.by_client.get_mut(&self.client)?;
        let entry = entries
            .iter_mut()
            .find(|entry| entry.number == self.number)?;
        Some(act(entry))
    }
}

impl Drop for Attaching {
    fn drop(&mut self) {
        let mut attaches = self.pending.lock();
        if let Some(entries) = attaches.by_client.get_mut(&self.client) {
            entries.retain(|entry| entry.number != self.number);
            if entries.is_empty() {
                attaches.by_client.remove(&self.client);
            }
        }
        drop(attaches);
        self.pending.table.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_newer_attach_waits_for_older_ones_and_not_for_itself() {
        let client = ClientId("phone".try_into().unwrap());
        let soon = Duration::from_millis(100);
        let pending = Pending::default();
        let (older, newer) = (pending.begin(&client), pending.begin(&client));
        newer.has(Epoch(7));
        assert!(
            !pending.through(&client, Epoch(7), soon).await,
            "it may turn out to be older"
        );
        older.has(Epoch(5));
        assert!(!pending.through(&client, Epoch(7), soon).await);
        assert!(pending.through(&client, Epoch(5), soon).await);
        pending.note_superseded(&client, Epoch(9));
        assert_eq!(older.superseded_by(), Epoch(9));
        drop(older);
        assert!(pending.through(&client, Epoch(7), soon).await);
        drop(newer);
        assert!(pending.lock().by_client.is_empty());
    }
}
