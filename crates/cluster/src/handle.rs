//! The handle through which the rest of the node uses the cluster.

use std::sync::Arc;

use magpie_codec::{TopicFilter, TopicName};
use magpie_state::{ClientId, Epoch, NodeId, PartitionId};
use tokio::sync::watch;

use crate::{
    Attach, Attached, Barrier, Config, Direct, DirectOutcome, Events, Fatal, ShareMember,
    ShareTarget, StartError, Status, Submission, Tail,
};

/// Handle to the cluster, cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {}

/// Why the cluster could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing was proposed: no leader is known, or the queue to it is full. Repeating is safe.
    #[error("not proposed: {0}")]
    NotProposed(&'static str),
    /// A proposal may or may not commit. Close the connection rather than answer.
    #[error("outcome unknown: {0}")]
    Unknown(&'static str),
    /// Nothing changed, and why.
    #[error("{0}")]
    Refused(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Whether this node may accept clients, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The control group's and every partition's leader answered lately.
    Ready,
    /// One line for the operator.
    NotReady(String),
}

impl Cluster {
    /// Opens the data directory, starts the Raft groups that live here, listens for other nodes, and returns. Forming or joining a
    /// cluster goes on in the background; [`readiness`](Self::readiness) tells when clients may come.
    ///
    /// # Errors
    /// What keeps the node from starting at all: the data directory, the listen address, the configuration.
    pub async fn start(config: Config) -> Result<(Self, Events), StartError> {
        let _ = config;
        todo!()
    }

    /// Resolves when the node must stop by itself: a disk that failed (exit code 70), or a data directory that another life has
    /// superseded (exit code 71).
    pub async fn fatal(&self) -> Fatal {
        todo!()
    }

    /// What operators see: members, groups, this node's part in them.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Moves leaderships to other nodes, so that stopping this one interrupts nobody; at most `deadline`.
    pub async fn hand_over(&self, deadline: std::time::Duration) {
        let _ = deadline;
        todo!()
    }

    /// Stops the groups and the listeners; the log is synced when this returns.
    pub async fn stop(&self) {
        todo!()
    }

    /// Removes a member that is down, for good.
    ///
    /// # Errors
    /// [`Error::NotProposed`] with the reason.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), Error> {
        let _ = node;
        todo!()
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        todo!()
    }

    /// Number of partitions, fixed for the cluster's life.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        todo!()
    }

    /// Whether this node may accept clients, changing over time.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        todo!()
    }

    /// The partition of a Topic Name.
    #[must_use]
    pub fn partition_of(&self, topic: &TopicName) -> PartitionId {
        magpie_state::partition_of(topic.as_ref(), self.partitions())
    }

    /// Queues records for the log of `partition`, behind everything this node queued before. `submission.done` is called once, from
    /// another task, in the order of submissions per partition; it must not block.
    ///
    /// Waits while the queue is full (bounded in bytes). If the future is dropped before it resolves, nothing was queued.
    ///
    /// # Errors
    /// [`Error::Stopping`]; `done` is then not called.
    pub async fn submit(
        &self,
        partition: PartitionId,
        submission: Submission,
    ) -> Result<(), Error> {
        let _ = (partition, submission);
        todo!()
    }

    /// Sends messages of the direct class, in their order, to the other nodes that have a subscriber for them, and hands each to one
    /// member of those of its share groups whose chosen member is elsewhere. Local subscribers are the caller's. A caller gives all
    /// messages of one read burst at once. Of QoS 0, `done` is `None`, and a full link drops (counted); of QoS 1 and 2, `done` is called
    /// once, when all those nodes have received all of them.
    pub fn forward(
        &self,
        messages: Vec<Direct>,
        done: Option<Box<dyn FnOnce(DirectOutcome) + Send>>,
    ) {
        let _ = (messages, done);
        todo!()
    }

    /// For a message of the direct class: the share groups that match, each with the node chosen for this message. The caller hands the
    /// message to a local member where the choice is this node, and passes the others on to [`forward`](Self::forward).
    #[must_use]
    pub fn choose_direct_shares(&self, topic: &TopicName) -> Vec<ShareTarget> {
        let _ = topic;
        todo!()
    }

    /// Whether QoS 1 and 2 messages to `topic` go the direct way (the operator's list).
    #[must_use]
    pub fn is_direct(&self, topic: &TopicName) -> bool {
        let _ = topic;
        todo!()
    }

    /// The tail of one partition. There is one consumer per partition and node.
    ///
    /// # Panics
    /// If it was taken before.
    #[must_use]
    pub fn take_tail(&self, partition: PartitionId) -> Tail {
        let _ = partition;
        todo!()
    }

    /// Makes this node's interest in `filter` known: to the leaders whose tail this node reads without a replica, and, for the direct
    /// class, to every node. Takes a linearizable read index per partition that the filter can match. Counted: each call is matched by
    /// one [`unwatch`](Self::unwatch). Shared filters (`$share/...`) are watched like any other.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when a leader does not answer within the deadline (a node without quorum acknowledges no SUBSCRIBE).
    pub async fn watch(&self, filter: &TopicFilter) -> Result<Barrier, Error> {
        let _ = filter;
        todo!()
    }

    /// Resolves when this node's tails have passed the barrier and every live node has applied the direct route (at most 200 ms for the
    /// latter). After it, insert the subscription and send SUBACK: what commits later has a higher index.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when a tail does not get there within the deadline.
    pub async fn passed(&self, barrier: Barrier) -> Result<(), Error> {
        let _ = barrier;
        todo!()
    }

    /// Gives back one [`watch`](Self::watch). The last one of a filter is acted on some seconds later, batched.
    pub fn unwatch(&self, filter: &TopicFilter) {
        let _ = filter;
        todo!()
    }

    /// Commits that `member`, on this node, takes part in the share group of `filter`, in every partition the filter can match.
    ///
    /// # Errors
    /// As [`watch`](Self::watch).
    pub async fn join_share(&self, filter: &TopicFilter, member: ShareMember) -> Result<(), Error> {
        let _ = (filter, member);
        todo!()
    }

    /// The reverse of [`join_share`](Self::join_share); queued, not waited for.
    pub fn leave_share(&self, filter: &TopicFilter, member: ShareMember) {
        let _ = (filter, member);
        todo!()
    }

    /// Makes a connection the client's only one, cluster-wide. A previous connection elsewhere has been closed, or can get nothing
    /// acknowledged any more, when this returns.
    ///
    /// # Errors
    /// [`Error::NotProposed`], [`Error::Unknown`] (close).
    pub async fn attach(&self, attach: Attach) -> Result<Attached, Error> {
        let _ = attach;
        todo!()
    }

    /// The connection with `epoch` is gone. Queued, repeated until committed or the node stops.
    pub fn detach(&self, client: ClientId, epoch: Epoch) {
        let _ = (client, epoch);
        todo!()
    }
}
