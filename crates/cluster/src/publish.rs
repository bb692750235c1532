//! What travels with a message into a partition, or directly to other nodes.

use std::sync::Arc;

use bytes::Bytes;
use magpie_codec::{Message, QoS, TopicFilter};
use magpie_state::{ClientId, NodeId};

/// Records for one partition, to be committed together and in this order.
pub struct Submission {
    /// Records, each encoded with `magpie_state::Record::encode`, one after the other.
    pub records: Bytes,
    /// How many.
    pub count: u32,
    /// Whether one of them is a publish with the RETAIN flag or of QoS 2 with its [`Dedup`](magpie_state::Dedup): what the partition must
    /// read when it applies it.
    pub must_read: bool,
    /// Whose. While the outcome of what a client was told [`Submitted::Unknown`] of is open, a newer connection of the client is kept from
    /// acting beside it.
    pub client: ClientId,
    /// Called once with the outcome.
    pub done: Box<dyn FnOnce(Submitted) + Send>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// All records are on disk at a majority of the partition, but for those that it did not take.
    Committed {
        /// Ordinals (0-based, ascending) of records that the partition refused, because the client has a newer connection. Usually empty.
        refused: Vec<u32>,
        /// Ordinals of publishes that it had taken before: successes all the same. Usually empty.
        repeated: Vec<u32>,
    },
    /// As [`Committed`](Self::Committed), but for some that a limit of retained messages does not admit.
    Full {
        /// See there.
        refused: Vec<u32>,
        /// See there.
        repeated: Vec<u32>,
        /// Ordinals of messages to be retained for a topic more than there may be. Provably nobody gets them: an error may be answered.
        full: Vec<u32>,
    },
    /// Provably never proposed: an error may be answered.
    NotProposed,
    /// Never proposed either, since this node's disk has too little room for more messages.
    NoRoom,
    /// May or may not have been committed: close the connection, so that the client repeats.
    Unknown,
}

/// A message of the direct class between nodes.
#[derive(Debug, Clone)]
pub struct Direct {
    /// Who published, for No Local.
    pub publisher: ClientId,
    /// QoS of the PUBLISH.
    pub qos: QoS,
    /// RETAIN flag of the PUBLISH, for Retain As Published.
    pub retain: bool,
    /// Wall clock time of acceptance at the first node, milliseconds since 1970, for the message expiry.
    pub published_ms: u64,
    /// The Application Message.
    pub message: Arc<Message>,
    /// Deliver to plain subscribers (false when only share members are meant).
    pub plain: bool,
    /// Share groups of which one member on the receiving node gets it.
    pub shares: Vec<ShareTarget>,
}

/// One share group's choice for one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareTarget {
    /// `$share/{name}/{filter}`, whole.
    pub filter: TopicFilter,
    /// The node whose member gets the message.
    pub node: NodeId,
}

/// How a forwarded message of QoS 1 or 2 ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectOutcome {
    /// Every other node that has a subscriber received it.
    Received,
    /// A node did not answer within the publish deadline, and is not declared down: close, so that the client repeats.
    Unknown,
}
