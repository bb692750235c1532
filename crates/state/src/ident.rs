//! Identities: who is who in a cluster, and which partition a key belongs to.

use std::fmt;

use magpie_codec::Text;
use serde::{Deserialize, Serialize};

/// Random 64-bit number that a node draws once, at its first start, and keeps in its data directory.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Random 128-bit number drawn by the node that forms the cluster. Messages between nodes that name another cluster are refused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One life of a node's process: the start counter of its data directory and a nonce drawn at that start.
///
/// Of two incarnations of one node the one with the higher counter is the newer. Equal counters with different nonces mean that the
/// directory was copied or restored, and one of the two must not serve.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation {
    /// Starts of this data directory, counted from 1.
    pub counter: u64,
    /// Random, drawn at each start.
    pub nonce: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.counter, self.nonce as u32)
    }
}

/// The origin of an exactly-once stream into a partition: one life of one node.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct StreamId {
    /// The node that sends.
    pub node: NodeId,
    /// Its life. A later life is a new stream, whose sequence starts at 1.
    pub incarnation: Incarnation,
}

/// The node ids above this one stand for partitions, as senders of their outboxes. Nodes draw lower ones.
const OUTBOX_NODES: u64 = u64::MAX << 16;

impl StreamId {
    /// The stream of what a partition wants another to do. It never ends, and no fence stops it.
    #[must_use]
    pub const fn outbox(source: PartitionId) -> Self {
        Self {
            node: NodeId(OUTBOX_NODES | source.0 as u64),
            incarnation: Incarnation {
                counter: 1,
                nonce: 0,
            },
        }
    }

    /// Whether a partition sends this stream, and not a node.
    #[must_use]
    pub const fn is_outbox(self) -> bool {
        self.node.0 >= OUTBOX_NODES && self.incarnation.counter == 1 && self.incarnation.nonce == 0
    }
}

/// One of the cluster's partitions, `0..partitions`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct PartitionId(pub u16);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Client Identifier, cluster-wide name of a Session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub Text);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Age of an attachment of a client: where in the log of the client's partition it stands. Of two attachments of one client the one with
/// the higher epoch is the newer, and only the newest can act.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Of the record with `ordinal` (below [`RECORDS_PER_BATCH_MAX`](crate::RECORDS_PER_BATCH_MAX)) in the entry at `index` (below 2^48).
    #[must_use]
    pub const fn at(index: u64, ordinal: u32) -> Self {
        Self(index << 16 | (ordinal & 0xffff) as u64)
    }

    /// Log index of the attach.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> 16
    }
}

/// Place of a message in the log of its partition. The order is that of the log.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position(pub u64);

impl Position {
    /// Before every message.
    pub const START: Self = Self(0);

    /// Of the record with `ordinal` (below [`RECORDS_PER_BATCH_MAX`](crate::RECORDS_PER_BATCH_MAX)) in the entry at `index` (below 2^48).
    #[must_use]
    pub const fn at(index: u64, ordinal: u32) -> Self {
        Self(index << 16 | (ordinal & 0xffff) as u64)
    }

    /// The last place of the entry at `index`: everything in it and before is at or below this.
    #[must_use]
    pub const fn end_of(index: u64) -> Self {
        Self::at(index, 0xffff)
    }

    /// Log index of the entry.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> 16
    }

    /// Ordinal (0-based) of the record in its entry.
    #[must_use]
    pub const fn ordinal(self) -> u32 {
        (self.0 & 0xffff) as u32
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.ordinal())
    }
}

/// A share group of a partition, from its first member to its last: where the record stands that founded it. One of the same name that is
/// founded later is another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareGroupId(pub Position);

/// A membership of a share group in one partition, of a Session for as long as it is subscribed, or of a connection: where the record
/// stands that began it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MembershipId(pub Position);

/// The partition that a key (Topic Name or Client Identifier) belongs to, of `partitions` in all.
///
/// The function is part of the stored format: it never changes for a cluster's life. FNV-1a of 64 bits, folded, since keys are short
/// and an adversary gains nothing but an unevenly loaded partition.
///
/// # Panics
/// If `partitions` is 0.
#[must_use]
pub fn partition_of(key: &str, partitions: u16) -> PartitionId {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The low bits of FNV-1a mix poorly for keys that differ in one place; fold and multiply once more.
    let folded = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    PartitionId(u16::try_from(folded % u64::from(partitions)).expect("below a u16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_evenly_loaded_by_numbered_topics() {
        let mut counts = [0u32; 8];
        for n in 0..8_000 {
            counts[partition_of(&format!("chat/u/{n}/inbox"), 8).0 as usize] += 1;
        }
        assert!(
            counts.iter().all(|&c| (800..1200).contains(&c)),
            "{counts:?}"
        );
    }

    #[test]
    fn positions_are_ordered_as_the_log_is() {
        assert!(Position::at(7, 65_535) < Position::at(8, 0));
        assert_eq!(Position::end_of(7), Position::at(7, 65_535));
        let position = Position::at(1 << 40, 77);
        assert_eq!((position.index(), position.ordinal()), (1 << 40, 77));
    }

    #[test]
    fn outboxes_are_no_nodes() {
        assert!(StreamId::outbox(PartitionId(0)).is_outbox());
        assert!(StreamId::outbox(PartitionId(u16::MAX)).is_outbox());
        assert!(!StreamId::default().is_outbox());
        assert_ne!(
            StreamId::outbox(PartitionId(1)),
            StreamId::outbox(PartitionId(2))
        );
    }

    #[test]
    fn the_partition_of_a_key_never_changes() {
        // Stored data depends on these numbers.
        assert_eq!(
            [
                partition_of("a", 8),
                partition_of("b", 8),
                partition_of("", 8)
            ]
            .map(|p| p.0),
            [4, 3, 4]
        );
    }
}
