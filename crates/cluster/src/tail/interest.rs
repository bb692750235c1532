//! What the tails of this node are wanted for: the filters of its subscribers, counted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use magpie_codec::TopicFilter;
use magpie_state::PartitionId;
use tokio::sync::watch;

use crate::proto;

/// Changes remembered; a remote tail that is further behind sends the whole set again.
const CHANGES_KEPT: usize = 4096;

/// The node's interest. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Interest {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    version: watch::Sender<u64>,
    /// Partitions whose tail comes from another node, with the version of the interest that holds there.
    remote: watch::Sender<HashMap<PartitionId, u64>>,
}

#[derive(Default)]
struct Table {
    /// Filters without share name, with the number of subscriptions.
    filters: HashMap<String, u32>,
    /// The latest changes, oldest first; the last one made the table what it is in the present version.
    changes: VecDeque<proto::InterestChange>,
    version: u64,
}

impl Interest {
    /// Counts one more subscription; the returned version contains it.
    pub(crate) fn add(&self, filter: &TopicFilter) -> u64 {
        self.change(filter, false)
    }

    /// Counts one less.
    pub(crate) fn remove(&self, filter: &TopicFilter) {
        self.change(filter, true);
    }

    /// Resolves when a version holds for the tail of a partition: at once for one that is read here, where no filter is applied.
    pub(crate) async fn in_force(&self, partition: PartitionId, version: u64) {
        let mut remote = self.inner.remote.subscribe();
        let holds = |known: &HashMap<PartitionId, u64>| {
            known.get(&partition).is_none_or(|holds| *holds >= version)
        };
        // The sender lives in `self`.
        let _ = remote.wait_for(holds).await;
    }

    /// The tail of a partition now comes from another node (`Some`: with this version in force), or is read here.
    pub(super) fn set_remote(&self, partition: PartitionId, version: Option<u64>) {
        self.inner.remote.send_if_modified(|known| match version {
            Some(version) => known.insert(partition, version) != Some(version),
            None => known.remove(&partition).is_some(),
        });
    }

    /// Changes whenever a filter comes or goes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Changes since a version, and the version that they lead to. `None` for `since`, or one too long ago: every filter.
    pub(super) fn since(&self, since: Option<u64>) -> (Vec<proto::InterestChange>, bool, u64) {
        let table = self
            .inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let missing =
            since.map(|since| usize::try_from(table.version - since).unwrap_or(usize::MAX));
        match missing.filter(|missing| *missing <= table.changes.len()) {
            Some(missing) => {
                let changes = table.changes.iter().skip(table.changes.len() - missing);
                (changes.cloned().collect(), false, table.version)
            }
            None => {
                let all = table.filters.keys().map(|filter| proto::InterestChange {
                    filter: filter.clone(),
                    remove: false,
                });
                (all.collect(), true, table.version)
            }
        }
    }

    fn change(&self, filter: &TopicFilter, remove: bool) -> u64 {
        let mut table = self
            .inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let filter = filter.filter().to_owned();
        let count = table.filters.entry(filter.clone()).or_insert(0);
        *count = if remove {
            count.saturating_sub(1)
        } else {
            *count + 1
        };
        let (now, first) = (*count, !remove && *count == 1);
        if now == 0 {
            table.filters.remove(&filter);
        }
        if now == 0 || first {
            table
                .changes
                .push_back(proto::InterestChange { filter, remove });
            if table.changes.len() > CHANGES_KEPT {
                table.changes.pop_front();
            }
            table.version += 1;
        }
        let version = table.version;
        drop(table);
        self.inner
            .version
            .send_if_modified(|known| std::mem::replace(known, version) != version);
        version
    }
}
