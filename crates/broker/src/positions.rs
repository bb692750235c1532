//! How far the delivery of each partition's log is on this node.

use std::sync::atomic::{AtomicU64, Ordering};

use magpie_codec::TopicFilter;
use magpie_state::{PartitionId, Position, partition_of};

/// Written by the task of each partition's tail, read by whoever inserts a subscription or reports progress.
#[derive(Debug)]
pub(crate) struct Positions {
    by_partition: Vec<Place>,
}

/// Log indexes.
#[derive(Debug, Default)]
struct Place {
    /// The entry that is being delivered, or was delivered last.
    begun: AtomicU64,
    /// Everything up to this entry was offered to the mailboxes.
    passed: AtomicU64,
}

/// Log indexes by partition; only those that matter.
pub(crate) type Indexes = Vec<(PartitionId, u64)>;

impl Positions {
    pub(crate) fn new(partitions: u16) -> Self {
        let mut by_partition = Vec::new();
        by_partition.resize_with(usize::from(partitions), Place::default);
        Self { by_partition }
    }

    /// How many partitions there are.
    pub(crate) fn partitions(&self) -> u16 {
        u16::try_from(self.by_partition.len()).expect("a number of partitions")
    }

    /// To be called before the subscribers of anything in the entry at `index` are looked up.
    pub(crate) fn begin(&self, partition: PartitionId, index: u64) {
        self.place(partition).begun.store(index, Ordering::SeqCst);
    }

    /// Everything up to `index` was offered.
    pub(crate) fn pass(&self, partition: PartitionId, index: u64) {
        self.place(partition).passed.store(index, Ordering::SeqCst);
    }

    /// Everything up to here was offered to the mailboxes.
    pub(crate) fn passed(&self, partition: PartitionId) -> Position {
        Position::end_of(self.place(partition).passed.load(Ordering::SeqCst))
    }

    /// [`passed`](Self::passed) of every partition, in order.
    pub(crate) fn all_passed(&self) -> Vec<Position> {
        (0..self.partitions())
            .map(|partition| self.passed(PartitionId(partition)))
            .collect()
    }

    /// The last entry whose delivery has begun, at least `at_least`, for each partition that the filter can match.
    pub(crate) fn begun(&self, filter: &TopicFilter, at_least: &[(PartitionId, u64)]) -> Indexes {
        let begun = |partition: PartitionId| {
            let least = at_least.iter().find(|(of, _)| *of == partition);
            let begun = self.place(partition).begun.load(Ordering::SeqCst);
            (partition, begun.max(least.map_or(0, |(_, index)| *index)))
        };
        self.concerned(filter).map(begun).collect()
    }

    /// The partitions with topics that the filter can match.
    pub(crate) fn concerned(&self, filter: &TopicFilter) -> impl Iterator<Item = PartitionId> {
        let partitions = self.partitions();
        let range = if filter.is_exact() {
            let only = partition_of(filter.filter(), partitions).0;
            only..only + 1
        } else {
            0..partitions
        };
        range.map(PartitionId)
    }

    fn place(&self, partition: PartitionId) -> &Place {
        &self.by_partition[usize::from(partition.0)]
    }
}
