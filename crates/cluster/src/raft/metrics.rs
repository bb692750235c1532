//! What a group says about its health.

use std::time::Duration;

use magpie_state::NodeId;

/// A moment of a group on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Raft term.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Index of the last entry in this node's log; 0 if there is none.
    pub last_log: u64,
    /// Index up to which the group has committed, as far as this node knows.
    pub committed: u64,
    /// Index up to which this node has applied.
    pub applied: u64,
    /// Index that this node's durable checkpoint covers.
    pub checkpoint: u64,
    /// Index up to which this node's log is purged.
    pub purged: u64,
    /// On the leader: one row per other member.
    pub replication: Vec<Replication>,
    /// On the leader: how long ago the last message was sent that a quorum answered. `None` on others, and before the first answer.
    pub since_quorum: Option<Duration>,
}

/// How far another member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replication {
    /// The member.
    pub node: NodeId,
    /// Index up to which its log is known to be the leader's; `None` before its first answer.
    pub matched: Option<u64>,
    /// Entries of the leader's log that it lacks.
    pub lag: u64,
    /// How long ago the last heartbeat was sent that it answered.
    pub since_heartbeat: Option<Duration>,
}
