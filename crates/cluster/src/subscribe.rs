//! Subscriptions as the cluster sees them.

use magpie_codec::TopicFilter;
use magpie_state::PartitionId;

/// Positions that this node's tails must reach before a SUBACK may leave.
#[derive(Debug, Clone, Default)]
pub struct Barrier {
    pub(crate) filter: Option<TopicFilter>,
    pub(crate) positions: Vec<(PartitionId, u64)>,
    /// Ticket of the direct route.
    pub(crate) route: u64,
    /// Version of the node's interest that contains the filter.
    pub(crate) interest: u64,
}

impl Barrier {
    /// Indexes of the logs of the partitions concerned, at or above everything that was committed before the watch.
    #[must_use]
    pub fn indexes(&self) -> &[(PartitionId, u64)] {
        &self.positions
    }
}

/// A member of a share group: a number that the broker gives to one of its connections, never used twice in a life of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShareMember(pub u64);
