//! Share groups of the replicated class: the leader of a partition deals their messages to members, and each node learns what was dealt to
//! its connections.
//!
//! ```text
//!  log ──► dealer (leader) ──► Deal ──► state of every replica ──► dealt tail (each node) ──► connections
//!             ▲                          │        ▲                                                 │
//!             └── room, returned ────────┘        └──────────── ShareDone, PartShare, JoinShare ────┘
//! ```
//! What a connection has is read from the state, not from the log: a reader that was away, or whose replica came from a snapshot, asks for
//! what was dealt above the index it knows, and gets what is still open of it.

mod dealer;
mod dealt;
mod pending;
mod sweep;
mod topics;

use std::sync::Arc;
use std::time::Duration;

use magpie_codec::{QoS, TopicFilter};
use magpie_state::partition::PartitionState;
use magpie_state::{NodeId, PartitionId, Record, ShareSession};
use tokio_util::sync::CancellationToken;

use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::membership::Membership;
use crate::raft::RaftGroup;
use crate::rpc::Channels;
use crate::stream::Done;
use crate::tail::Feeds;
use crate::{Cluster, Error, ShareMember};

pub(crate) use dealt::serve_dealt;
pub use dealt::{DealtMessage, DealtTail};
pub(crate) use sweep::serve_subscribed;

/// Pause before a record that was not taken is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

type Partition = RaftGroup<PartitionState>;

/// What the dealing needs to know of its node.
pub(crate) struct ShareParts {
    pub(crate) node: NodeId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    pub(crate) feeds: Feeds,
    /// Which members' nodes can be handed messages now.
    pub(crate) membership: Membership,
    /// Messages that a member has at once.
    pub(crate) window: usize,
    /// How many partitions there are.
    pub(crate) partitions: u16,
    pub(crate) stop: CancellationToken,
}

/// Deals for the replicas of this node that lead, until the node stops.
pub(crate) async fn run(parts: ShareParts) {
    let parts = Arc::new(parts);
    let tend = |partition, group| dealer::tend(Arc::clone(&parts), partition, group);
    parts.groups.tend(&parts.stop, tend).await;
}

impl Cluster {
    /// Commits that `member`, on this node, takes part in the share group of `filter`, in every partition the filter can match: what
    /// commits after this reaches the group. Joining again changes the QoS.
    ///
    /// # Errors
    /// As [`watch`](Self::watch). Then it may have joined all the same, and has to leave.
    pub async fn join_share(
        &self,
        filter: &TopicFilter,
        member: ShareMember,
        qos: QoS,
        session: Option<ShareSession>,
    ) -> Result<(), Error> {
        let record = [Record::JoinShare {
            filter: filter.clone(),
            member: member.0,
            qos,
            session,
        }];
        let partitions = self.partitions_of(filter).into_iter();
        let joined = partitions.map(|partition| self.stream(partition).commit(&record));
        for done in futures::future::join_all(joined).await {
            match done.map_err(|_| Error::Stopping)? {
                Done::Taken { .. } => {}
                Done::NotProposed | Done::Unknown => {
                    return Err(Error::NotProposed(
                        "a partition has no leader that a majority follows",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Commits records about share groups in `partition` ([`Record::LeaveShare`], [`Record::PartShare`], [`Record::ShareDone`]), however
    /// long it takes. Repeating them is harmless.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn commit_shares(
        &self,
        partition: PartitionId,
        records: &[Record],
    ) -> Result<(), Error> {
        loop {
            let done = self.stream(partition).commit(records).await;
            if let Done::Taken { .. } = done.map_err(|_| Error::Stopping)? {
                return Ok(());
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return Err(Error::Stopping),
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }
}
