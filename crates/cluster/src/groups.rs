//! The Raft groups that have a replica on this node.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use magpie_state::PartitionId;
use magpie_state::control::ControlState;
use magpie_state::partition::PartitionState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::index::PartitionIndex;
use crate::raft::{GroupId, RaftGroup};

/// The control group of every cluster.
pub(crate) const CONTROL: GroupId = GroupId(0);

/// Replicas without a task are looked for so often at least: the task of one before them may take a while to end.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The Raft group of a partition.
pub(crate) const fn group_of(partition: PartitionId) -> GroupId {
    GroupId(1 + partition.0 as u32)
}

/// The groups of this node, as they come and go. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Groups {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    control: OnceLock<RaftGroup<ControlState>>,
    partitions: RwLock<HashMap<PartitionId, Replica>>,
    generation: watch::Sender<u64>,
}

/// A replica of a partition on this node.
struct Replica {
    group: RaftGroup<PartitionState>,
    index: Arc<PartitionIndex>,
}

impl Groups {
    /// The control group, once this node belongs to a cluster.
    pub(crate) fn control(&self) -> Option<&RaftGroup<ControlState>> {
        self.inner.control.get()
    }

    /// The replica of a partition, if one lives here.
    pub(crate) fn partition(&self, partition: PartitionId) -> Option<RaftGroup<PartitionState>> {
        let partitions = self
            .inner
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        partitions
            .get(&partition)
            .map(|replica| replica.group.clone())
    }

    /// The index of the waiting messages of a partition, if a replica of it runs here.
    pub(crate) fn index(&self, partition: PartitionId) -> Option<Arc<PartitionIndex>> {
        let partitions = self
            .inner
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let replica = partitions.get(&partition)?;
        (!replica.group.is_stopped()).then(|| Arc::clone(&replica.index))
    }

    /// Every replica that lives here.
    pub(crate) fn partitions(&self) -> Vec<(PartitionId, RaftGroup<PartitionState>)> {
        let partitions = self
            .inner
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        partitions
            .iter()
            .map(|(partition, replica)| (*partition, replica.group.clone()))
            .collect()
    }

    /// Changes whenever a replica appears or goes.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.inner.generation.subscribe()
    }

    /// Runs `tend` as a task for each replica, those that come later included, until the node stops. The task of a replica that is stopped
    /// has to end; another replica may be in its place.
    pub(crate) async fn tend<F>(
        &self,
        stop: &CancellationToken,
        tend: impl Fn(PartitionId, RaftGroup<PartitionState>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut changed = self.inner.generation.subscribe();
        let mut tended: HashMap<PartitionId, JoinHandle<()>> = HashMap::new();
        loop {
            for (partition, group) in self.partitions() {
                let is_tended = tended.get(&partition).is_some_and(|it| !it.is_finished());
                if !is_tended && !group.is_stopped() {
                    tended.insert(partition, tokio::spawn(tend(partition, group)));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The control group runs. Called once.
    pub(crate) fn set_control(&self, control: RaftGroup<ControlState>) {
        let first = self.inner.control.set(control).is_ok();
        debug_assert!(first, "a node starts its control group once");
        self.inner
            .generation
            .send_modify(|generation| *generation += 1);
    }

    /// A replica runs.
    pub(crate) fn insert(&self, partition: PartitionId, group: RaftGroup<PartitionState>) {
        let index = PartitionIndex::start(group.clone());
        let mut partitions = self
            .inner
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        partitions.insert(partition, Replica { group, index });
        drop(partitions);
        self.inner
            .generation
            .send_modify(|generation| *generation += 1);
    }

    /// A replica is about to be stopped.
    pub(crate) fn remove(&self, partition: PartitionId) -> Option<RaftGroup<PartitionState>> {
        let mut partitions = self
            .inner
            .partitions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let removed = partitions.remove(&partition);
        drop(partitions);
        self.inner
            .generation
            .send_modify(|generation| *generation += 1);
        removed.map(|replica| replica.group)
    }
}
