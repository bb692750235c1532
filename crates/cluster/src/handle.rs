//! The handle through which the rest of the node uses the cluster.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use magpie_access::{Change, Changed, Policy};
use magpie_codec::{TopicFilter, TopicName};
use magpie_router::FilterMap;
use magpie_state::control::ControlState;
use magpie_state::{NodeId, PartitionId, StreamId};
use magpie_storage::{Log, Space};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fatal::FatalSwitch;
use crate::groups::{CONTROL, Groups};
use crate::leaders::Leaders;
use crate::link::{Links, Targets};
use crate::membership::Membership;
use crate::read_index::ReadIndexes;
use crate::routes::Routes;
use crate::rpc::{Channels, Identity, NodeTls};
use crate::session::answer_with;
use crate::stream::{Records, Stream};
use crate::tail::{Feeds, Interest, TailParts};
use crate::takeover::Takeover;
use crate::{
    Barrier, Config, ConfigError, Direct, DirectOutcome, Events, Fatal, Load, NodeLoad,
    ShareTarget, StartError, Status, Submission, Submitted, Tail,
};

/// Longest wait of a barrier for a tail.
const PASSED_WITHIN: Duration = Duration::from_secs(10);

/// Handle to the cluster, cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) stream: StreamId,
    pub(crate) membership: Membership,
    pub(crate) tls: Option<Arc<NodeTls>>,
    pub(crate) routes: Routes,
    pub(crate) links: Links,
    pub(crate) identity: Arc<Identity>,
    pub(crate) interest: Interest,
    /// What exists once the number of partitions is known.
    pub(crate) formed: OnceLock<Formed>,
    pub(crate) is_formed: watch::Sender<bool>,
    /// The list of direct filters, as applied last.
    pub(crate) direct: Arc<Mutex<DirectFilters>>,
    pub(crate) fatal: FatalSwitch,
    pub(crate) log: Log,
    pub(crate) leaders: Leaders,
    pub(crate) groups: Groups,
    pub(crate) feeds: Feeds,
    pub(crate) channels: Channels,
    /// Bound on the wait for a commit, and for an answer of a partition.
    pub(crate) publish_deadline: Duration,
    /// Without a confirmed control leader for so long, the table of routes may be out of date.
    pub(crate) quorum_lost_after: Duration,
    pub(crate) stop: CancellationToken,
    pub(crate) stopped: CancellationToken,
}

/// The parts that there is one of per partition.
pub(crate) struct Formed {
    pub(crate) streams: Vec<Stream>,
    pub(crate) read_indexes: Vec<ReadIndexes>,
    pub(crate) tails: Vec<TailSlot>,
    pub(crate) takeover: Takeover,
}

/// A tail, until its consumer takes it, and how far it is.
pub(crate) struct TailSlot {
    pub(crate) parts: Mutex<Option<(TailParts, watch::Sender<u64>)>>,
    pub(crate) passed: watch::Receiver<u64>,
}

/// Filters whose QoS 1 and 2 messages go the direct way.
#[derive(Default)]
pub(crate) struct DirectFilters {
    /// What `filters` was made of.
    pub(crate) texts: Vec<String>,
    pub(crate) filters: FilterMap<()>,
}

/// Why the cluster could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing was proposed: no leader is known, or the queue to it is full. Repeating is safe.
    #[error("not proposed: {0}")]
    NotProposed(&'static str),
    /// A proposal may or may not commit. Close the connection rather than answer.
    #[error("outcome unknown: {0}")]
    Unknown(&'static str),
    /// A limit of the cluster is reached: provably nothing was changed.
    #[error("a limit is reached: {0}")]
    Full(&'static str),
    /// The session belongs to another user: nothing was changed.
    #[error("the session of this client id belongs to another user")]
    Foreign,
    /// The cluster understood, and will not do it.
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
    /// cluster goes on in the background: wait for [`formed`](Self::formed) before anything of the data path is used;
    /// [`readiness`](Self::readiness) tells when clients may come.
    ///
    /// # Errors
    /// What keeps the node from starting at all: the data directory, the listen address, the configuration.
    pub async fn start(config: Config) -> Result<(Self, Events), StartError> {
        crate::start::start(config).await
    }

    /// Resolves when this node knows its cluster and the number of partitions, which may take as long as it takes other nodes to come.
    pub async fn formed(&self) {
        // The sender lives in `self`.
        let _ = self
            .inner
            .is_formed
            .subscribe()
            .wait_for(|formed| *formed)
            .await;
    }

    /// Resolves when the node must stop by itself: a disk that failed, a data directory that another life has superseded, or a life that
    /// was declared over.
    pub async fn fatal(&self) -> Fatal {
        self.inner.fatal.tripped().await
    }

    /// Reads the files for TLS between nodes again, if it is configured. New connections use what was read. Reads files: not for a worker
    /// thread that serves.
    ///
    /// # Errors
    /// What is wrong with them; then everything stays as it was.
    pub fn reload_tls(&self) -> Result<(), ConfigError> {
        self.inner.tls.as_ref().map_or(Ok(()), |tls| tls.reload())
    }

    /// What operators see: members, groups, this node's part in them.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.inner.membership.status();
        if let Some(formed) = self.inner.formed.get() {
            for group in &mut status.groups {
                let partition = group.group.parse::<usize>().ok();
                let slot = partition.and_then(|partition| formed.tails.get(partition));
                group.tail = slot.map(|slot| *slot.passed.borrow());
            }
        }
        status
    }

    /// Takes what the broker knows of this node's load, for the others to be told.
    pub fn tell_load(&self, load: Load) {
        self.inner.membership.tell_load(load);
    }

    /// What the members carry that are up and were heard within some seconds, this node first.
    #[must_use]
    pub fn loads(&self) -> Vec<NodeLoad> {
        self.inner.membership.loads()
    }

    /// Messages queued or unacknowledged on the links to other nodes.
    #[must_use]
    pub fn link_depths(&self) -> Vec<(NodeId, usize)> {
        self.inner.links.depths()
    }

    /// Moves leaderships to other nodes, so that stopping this one interrupts nobody; at most `deadline`.
    pub async fn hand_over(&self, deadline: Duration) {
        self.inner.membership.hand_over(deadline).await;
    }

    /// Stops the groups and the listeners; the log is synced when this returns.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.stopped.cancelled().await;
    }

    /// Removes a member that is down, for good.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), Error> {
        self.inner.membership.remove_member(node).await
    }

    /// Who may do what, as this node has applied it last. Compiled when something has changed, before anybody is told that it has.
    #[must_use]
    pub fn policy(&self) -> watch::Receiver<Arc<Policy>> {
        self.inner.membership.policy()
    }

    /// Changes users, rules or bans in the whole cluster. When this returns, the change is committed and, unless it is very late, holds on
    /// this node; others follow within a heartbeat.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason; [`Error::NotProposed`], [`Error::Unknown`] (repeating is safe), [`Error::Stopping`].
    pub async fn change_access(&self, change: Change) -> Result<Changed, Error> {
        self.inner.membership.change_access(change).await
    }

    /// A key for one purpose, the same on all nodes, that nobody outside of the cluster can know.
    #[must_use]
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        self.inner.identity.derive_key(purpose)
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.inner.stream.node
    }

    /// Number of partitions, fixed for the cluster's life.
    ///
    /// # Panics
    /// Before [`formed`](Self::formed).
    #[must_use]
    pub fn partitions(&self) -> u16 {
        u16::try_from(self.parts().streams.len()).expect("at most 1024 partitions")
    }

    /// Whether this node may accept clients, changing over time.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.inner.membership.readiness()
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
        let Submission {
            records,
            count,
            must_read,
            client,
            done,
        } = submission;
        if self.inner.log.space() != Space::Ok {
            // What room is left is for votes, membership, purges and acknowledgements.
            metrics::counter!("magpie_publishes_refused_total", "reason" => "disk_full")
                .increment(u64::from(count));
            done(Submitted::NoRoom);
            return Ok(());
        }
        let records = Records {
            bytes: records,
            count,
            has_control: must_read,
            is_patient: false,
            client: Some(client),
        };
        self.stream(partition)
            .submit(records, answer_with(done))
            .await
            .map_err(|_| Error::Stopping)
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
        if done.is_some()
            && !self
                .inner
                .leaders
                .confirmed_within(CONTROL, self.inner.quorum_lost_after)
        {
            // A node cut off from the majority does not know who subscribes: it acknowledges nothing.
            if let Some(done) = done {
                done(DirectOutcome::Unknown);
            }
            return;
        }
        let routed = self.inner.membership.state(|state| {
            let others = state.members().len() > 1;
            let routed = messages.into_iter().filter(|_| others).map(|message| {
                let targets = self.targets(state, &message);
                (message, targets)
            });
            routed.filter(|(_, targets)| !targets.is_empty()).collect()
        });
        self.inner.links.send(routed, done);
    }

    /// The other nodes that are to get a message, and whether their plain subscribers are meant.
    fn targets(&self, state: &ControlState, message: &Direct) -> Targets {
        let ours = self.inner.stream.node;
        let mut targets = Targets::new();
        if message.plain {
            let nodes = state.routes().nodes_for(&message.message.topic);
            targets.extend(
                nodes
                    .into_iter()
                    .filter(|node| *node != ours)
                    .map(|node| (node, true)),
            );
        }
        for share in message.shares.iter().filter(|share| share.node != ours) {
            if targets.iter().all(|(node, _)| *node != share.node) {
                targets.push((share.node, false));
            }
        }
        targets
    }

    /// For a message of the direct class: the share groups that match, each with the node chosen for this message. The caller hands the
    /// message to a local member where the choice is this node, and passes the others on to [`forward`](Self::forward).
    #[must_use]
    pub fn choose_direct_shares(&self, topic: &TopicName) -> Vec<ShareTarget> {
        self.inner.membership.state(|state| {
            let mut chosen = Vec::new();
            state.routes().for_each_share(topic, |route| {
                let is_reachable = |node| {
                    let member = state.members().get(&node);
                    member.is_some_and(|member| {
                        let incarnation = member.incarnation;
                        self.inner
                            .membership
                            .is_reachable(StreamId { node, incarnation })
                    })
                };
                let node = route.pick(is_reachable);
                let text = format!("$share/{}/{}", route.name(), route.filter());
                if let (Some(node), Ok(filter)) = (
                    node.or_else(|| route.pick(|_| true)),
                    TopicFilter::try_from(text),
                ) {
                    chosen.push(ShareTarget { filter, node });
                }
            });
            chosen
        })
    }

    /// Whether QoS 1 and 2 messages to `topic` go the direct way (the operator's list).
    #[must_use]
    pub fn is_direct(&self, topic: &TopicName) -> bool {
        let direct = self
            .inner
            .direct
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        !direct.texts.is_empty() && direct.filters.any_match(topic)
    }

    /// The tail of one partition. There is one consumer per partition and node.
    ///
    /// # Panics
    /// If it was taken before, or before [`formed`](Self::formed).
    #[must_use]
    pub fn take_tail(&self, partition: PartitionId) -> Tail {
        let slot = &self.parts().tails[usize::from(partition.0)];
        let parts = slot
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (parts, passed) = parts.expect("a tail has one consumer");
        Tail::new(parts, passed)
    }

    /// Makes this node's interest in `filter` known: to the leaders whose tail this node reads without a replica, and, for the direct
    /// class, to every node. Takes a linearizable read index per partition that the filter can match. Counted: each call is matched by
    /// one [`unwatch`](Self::unwatch), unless it fails. Shared filters (`$share/...`) are watched like any other.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when a leader does not answer within the deadline (a node without quorum acknowledges no SUBSCRIBE).
    pub async fn watch(&self, filter: &TopicFilter) -> Result<Barrier, Error> {
        let watched = Watched {
            cluster: self,
            filter: Some(filter),
        };
        let route = self.inner.routes.add(filter);
        // Members of share groups get what is dealt to them another way.
        let interest = match filter.is_shared() {
            true => 0,
            false => self.inner.interest.add(filter),
        };
        let partitions = self.partitions_of(filter);
        let formed = self.parts();
        let asked = partitions
            .iter()
            .map(|partition| formed.read_indexes[usize::from(partition.0)].ask());
        let indexes = futures::future::join_all(asked).await;
        let mut positions = Vec::with_capacity(partitions.len());
        for (partition, index) in partitions.into_iter().zip(indexes) {
            let index = index.ok_or(Error::NotProposed(
                "a partition has no leader that a majority follows",
            ))?;
            positions.push((partition, index));
        }
        watched.keep();
        Ok(Barrier {
            filter: Some(filter.clone()),
            positions,
            route,
            interest,
        })
    }

    /// Resolves when this node's tails have passed the barrier and every live node has applied the direct route (at most 200 ms for the
    /// latter). After it, insert the subscription and send SUBACK: what commits later has a higher index.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when a tail does not get there within the deadline; [`Error::Refused`] when the other nodes' table of routes
    /// has no room for the filter.
    pub async fn passed(&self, barrier: Barrier) -> Result<(), Error> {
        let Barrier {
            filter,
            positions,
            route,
            interest,
        } = barrier;
        let formed = self.parts();
        let tails = positions.into_iter().map(async |(partition, index)| {
            self.inner.interest.in_force(partition, interest).await;
            let mut passed = formed.tails[usize::from(partition.0)].passed.clone();
            passed.wait_for(|passed| *passed >= index).await.is_ok()
        });
        let tails = tokio::time::timeout(PASSED_WITHIN, futures::future::join_all(tails));
        let (tails, ()) = tokio::join!(tails, self.inner.routes.visible(route));
        if filter.is_some_and(|filter| self.inner.routes.is_refused(&filter)) {
            return Err(Error::Refused(
                "the cluster's table of routes has no room for the filter".to_owned(),
            ));
        }
        match tails {
            Ok(tails) if tails.iter().all(|passed| *passed) => Ok(()),
            _ => Err(Error::NotProposed(
                "a partition's log does not reach this node in time",
            )),
        }
    }

    /// Gives back one [`watch`](Self::watch). The last one of a filter is acted on some seconds later, batched.
    pub fn unwatch(&self, filter: &TopicFilter) {
        self.inner.routes.remove(filter);
        if !filter.is_shared() {
            self.inner.interest.remove(filter);
        }
    }

    /// The partitions that hold topics which the filter can match.
    #[must_use]
    pub fn partitions_of(&self, filter: &TopicFilter) -> Vec<PartitionId> {
        if filter.is_exact() {
            vec![magpie_state::partition_of(
                filter.filter(),
                self.partitions(),
            )]
        } else {
            (0..self.partitions()).map(PartitionId).collect()
        }
    }

    pub(crate) fn stream(&self, partition: PartitionId) -> &Stream {
        &self.parts().streams[usize::from(partition.0)]
    }

    pub(crate) fn parts(&self) -> &Formed {
        self.inner
            .formed
            .get()
            .expect("the data path is used after `formed`")
    }
}

/// Takes a watch back unless it is kept: the caller may give up in the middle.
struct Watched<'a> {
    cluster: &'a Cluster,
    filter: Option<&'a TopicFilter>,
}

impl Watched<'_> {
    fn keep(mut self) {
        self.filter = None;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(filter) = self.filter {
            self.cluster.unwatch(filter);
        }
    }
}
