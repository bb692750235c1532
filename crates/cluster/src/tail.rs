//! A partition's log, as it is committed, on its way to this node's subscribers.

use std::sync::Arc;

use magpie_codec::{Message, QoS};
use magpie_state::{ClientId, PartitionId};

use crate::ShareMember;

/// The one consumer of a partition on this node.
pub struct Tail {}

/// Messages of one log entry.
pub struct TailBatch {
    /// Where.
    pub partition: PartitionId,
    /// Log index of the entry; all its messages have `index` as position.
    pub index: u64,
    /// In the order in which they were committed.
    pub items: Vec<TailItem>,
}

/// One message of the log.
pub struct TailItem {
    /// Who published, for No Local.
    pub publisher: ClientId,
    /// QoS of the PUBLISH, 1 or 2.
    pub qos: QoS,
    /// RETAIN flag of the PUBLISH, for Retain As Published.
    pub retain: bool,
    /// Wall clock time of acceptance, milliseconds since 1970, for the message expiry.
    pub published_ms: u64,
    /// The Application Message.
    pub message: Arc<Message>,
    /// Members of share groups on this node that were chosen for it, each with the whole filter text.
    pub shares: Vec<(magpie_codec::TopicFilter, ShareMember)>,
}

impl Tail {
    /// The next entry, waiting for it. `None` when the node stops. Not cancel-safe is no issue: one task does nothing else.
    pub async fn next(&mut self) -> Option<TailBatch> {
        todo!()
    }

    /// Everything up to `index` is in the mailboxes: barriers up to it may pass.
    pub fn done(&mut self, index: u64) {
        let _ = index;
        todo!()
    }
}
