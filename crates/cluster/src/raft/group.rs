//! The handle to one Raft group on this node.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use magpie_state::{NodeId, StateMachine};
use magpie_storage::{GroupId, KeyValue, Log};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::{Instant as _, ServerState};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::checkpoint;
use super::config::Config;
use super::driver::{Driver, Observer, Raft, Shared};
use super::entry::{Command, Types};
use super::log_store::LogStore;
use super::metrics::{Metrics, Replication};
use super::proposal::{self, Completion, ProposeError};
use super::read_index::{ReadError, ReadQueue};
use super::read_log::{self, LogRange};
use super::retention::Retention;
use super::service::Registry;
use super::stored::Stored;
use super::transport::Transport;
use crate::rpc::Channels;

/// A command counts at least so much towards the bytes in flight.
const COMMAND_BYTES_MIN: usize = 256;

/// Commands are at most so long: well below what a message between nodes can hold.
const COMMAND_BYTES_MAX: usize = 16 << 20;

/// What a group is made of.
pub struct GroupParts<M: StateMachine> {
    /// Which group; the same on all nodes.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// The node-wide log.
    pub log: Log,
    /// The store for checkpoints.
    pub store: Arc<dyn KeyValue>,
    /// Connections to the other nodes.
    pub channels: Channels,
    /// Where calls from other nodes find the group.
    pub registry: Registry,
    /// Settings.
    pub config: Config,
    /// Told of everything that is applied.
    pub observer: Arc<dyn Observer<M>>,
    /// The lowest index that somebody still reads from the log, up to a limit in bytes; `u64::MAX`: nobody.
    pub hold: Arc<AtomicU64>,
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log or the checkpoint cannot be read.
    #[error("group {group}: {source}")]
    Storage {
        /// The group.
        group: GroupId,
        /// Where and why.
        source: io::Error,
    },
    /// The settings contradict each other.
    #[error("group {group}: {reason}")]
    Config {
        /// The group.
        group: GroupId,
        /// Which ones.
        reason: String,
    },
}

/// Who leads a group, as far as this node knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term, growing.
    pub term: u64,
    /// The leader of that term; `None` while there is none or it is not known.
    pub leader: Option<NodeId>,
    /// Whether that is this node. A leader that was cut off may still believe it; only [`RaftGroup::read_index`] and a commit prove it.
    pub is_here: bool,
}

/// Handle to one Raft group; cheap to clone. The group runs until [`stop`](Self::stop).
pub struct RaftGroup<M: StateMachine> {
    pub(super) inner: Arc<Inner<M>>,
}

impl<M: StateMachine> Clone for RaftGroup<M> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

pub(super) struct Inner<M: StateMachine> {
    group: GroupId,
    node: NodeId,
    pub(super) raft: Raft<M>,
    shared: Arc<Shared<M>>,
    store: LogStore,
    registry: Registry,
    config: Arc<Config>,
    reads: ReadQueue,
    inflight: Arc<Semaphore>,
    leadership: watch::Receiver<Leadership>,
    fatal: watch::Receiver<Option<Arc<str>>>,
    stop: CancellationToken,
}

impl<M: StateMachine> RaftGroup<M> {
    /// Loads the group's checkpoint, replays what is known to be committed, and takes part in the group. A group that was never
    /// [initialized](Self::initialize) anywhere, or that has not been added here, waits for calls.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(parts: GroupParts<M>) -> Result<Self, StartError> {
        let GroupParts {
            group,
            node,
            log,
            store: key_value,
            channels,
            registry,
            config,
            observer,
            hold,
        } = parts;
        let library_config = config.to_library().map_err(|error| StartError::Config {
            group,
            reason: error.to_string(),
        })?;
        let config = Arc::new(config);
        let store = LogStore::new(log, group, config.append_bytes_max);
        let driver = {
            let store = store.clone();
            tokio::task::spawn_blocking(move || Driver::open(key_value, group, store, observer))
        };
        let driver = driver
            .await
            .map_err(io::Error::other)
            .and_then(|opened| opened)
            .map_err(|source| StartError::Storage { group, source })?;
        let shared = Arc::clone(driver.shared());
        let transport =
            Transport::<M::Carry>::new(group, channels, store.clone(), Arc::clone(&config));
        let raft = Raft::new(node.0, library_config, transport, store.clone(), driver)
            .await
            .map_err(|fatal| StartError::Storage {
                group,
                source: io::Error::other(fatal.to_string()),
            })?;
        let stop = CancellationToken::new();
        let (leadership, fatal) = watch_raft(&raft, group, node, stop.clone());
        let retention = Retention {
            raft: raft.clone(),
            shared: Arc::clone(&shared),
            store: store.clone(),
            config: Arc::clone(&config),
            hold,
        };
        tokio::spawn(retention.run(stop.clone()));
        registry.add(
            group,
            raft.clone(),
            Arc::clone(&shared),
            Arc::clone(&config),
        );
        Ok(Self {
            inner: Arc::new(Inner {
                group,
                node,
                reads: ReadQueue::start(raft.clone(), config.read_within),
                inflight: Arc::new(Semaphore::new(config.inflight_bytes_max)),
                raft,
                shared,
                store,
                registry,
                config,
                leadership,
                fatal,
                stop,
            }),
        })
    }

    /// Which group this is.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.inner.group
    }

    /// Proposes a command without waiting for it. Commands of one caller become entries in the order in which it called, if it awaits
    /// each call before the next. `done` is called exactly once, for answers in log order, on the task that applies: it must be short and
    /// must not block.
    ///
    /// Waits while too many bytes are in flight. If the future is dropped before it resolves, nothing was proposed; `done` is then
    /// dropped, too, or called with [`ProposeError::Unknown`].
    pub async fn submit(
        &self,
        command: Bytes,
        done: impl FnOnce(Result<(u64, M::Answer), ProposeError>) + Send + 'static,
    ) {
        if command.len() > self.command_bytes_max() {
            // The log would refuse it, which Raft takes for a broken disk.
            let bytes = command.len();
            return done(Err(ProposeError::TooLong { bytes }));
        }
        let limit = self.inner.config.inflight_bytes_max;
        let weight = command.len().max(COMMAND_BYTES_MIN).min(limit);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.inner.inflight)
            .acquire_many_owned(weight)
            .await;
        let Ok(permit) = permit else {
            return done(Err(ProposeError::Stopped));
        };
        let completion = Completion::new(move |result| {
            drop(permit);
            done(proposal::outcome(result));
        });
        // If the group is stopped, the completion was dropped, which calls it.
        let _ = self
            .inner
            .raft
            .client_write_ff(Command(command), Some(completion))
            .await;
    }

    /// The longest command, in bytes: 16 MiB, or less if the segments of the node's log are small.
    #[must_use]
    pub fn command_bytes_max(&self) -> usize {
        COMMAND_BYTES_MAX.min(self.inner.store.payload_bytes_max())
    }

    /// Proposes a command and waits for its index and answer, without a deadline of its own.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Bytes) -> Result<(u64, M::Answer), ProposeError> {
        let (answer, answered) = oneshot::channel();
        // The caller may be gone by then.
        self.submit(command, move |outcome| drop(answer.send(outcome)))
            .await;
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// On the leader: an index such that everything committed before this call is at or below it. Read the state after
    /// [`wait_applied`](Self::wait_applied) with it for a linearizable read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.inner.reads.read_index().await
    }

    /// Who leads, now.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.inner.leadership.borrow()
    }

    /// The leader, if one is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leadership().leader
    }

    /// Whether this node believes to lead.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leadership().is_here
    }

    /// Who leads, changing over time.
    #[must_use]
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Index of the last applied entry, growing.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.shared.applied()
    }

    /// Index of the last applied entry.
    #[must_use]
    pub fn applied(&self) -> u64 {
        *self.watch_applied().borrow()
    }

    /// Returns when `index` is applied here.
    ///
    /// # Errors
    /// [`ReadError::Stopped`] when the group stops before.
    pub async fn wait_applied(&self, index: u64) -> Result<(), ReadError> {
        let mut applied = self.watch_applied();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => {
                reached.map(|_| ()).map_err(|_| ReadError::Stopped)
            }
            () = self.inner.stop.cancelled() => Err(ReadError::Stopped),
        }
    }

    /// Reads the applied state. Applying waits meanwhile, so take what is needed and return.
    pub fn with_state<R>(&self, read: impl FnOnce(&M) -> R) -> R {
        self.inner.shared.with_state(read)
    }

    /// Applied commands of `range`, about `bytes_max` bytes of them (at least one entry).
    ///
    /// # Errors
    /// The log's, when an entry cannot be read back.
    pub async fn read_log(&self, range: Range<u64>, bytes_max: usize) -> io::Result<LogRange> {
        // In this order: what the snapshot passed over is known before it counts as applied.
        let applied = self.applied();
        let jumped = self.inner.shared.jumped();
        read_log::read(&self.inner.store, range, applied, jumped, bytes_max).await
    }

    /// What this replica has on disk.
    #[must_use]
    pub fn stored(&self) -> Stored {
        Stored {
            store: self.inner.store.clone(),
            rows: self.inner.shared.rows(),
        }
    }

    /// How many snapshots took the place of what this replica had, since it started.
    #[must_use]
    pub fn installs(&self) -> u64 {
        self.inner.shared.installs()
    }

    /// Index up to which entries are behind the last `bytes` of the log, or were written longer than `age` ago, as far as this process knows.
    #[must_use]
    pub fn settled(&self, bytes: u64, age: Duration) -> Option<u64> {
        self.inner.store.growth().settled(bytes, age)
    }

    /// Index of the last checkpoint that is on disk.
    #[must_use]
    pub fn checkpointed(&self) -> u64 {
        let last = self.inner.shared.latest.meta().last_log_id;
        last.map_or(0, |last| last.index)
    }

    /// Why the group can never work again in this process, once that is so: the disk failed, or a bug was found. The process should exit.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.fatal.clone()
    }

    /// Health, now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let raft = self.inner.raft.metrics().borrow_watched().clone();
        let last_log = raft.last_log_index.unwrap_or(0);
        let replication = raft.replication.unwrap_or_default();
        let heartbeats = raft.heartbeat.unwrap_or_default();
        let others = replication
            .into_iter()
            .filter(|(node, _)| *node != self.inner.node.0);
        Metrics {
            term: raft.current_term,
            leader: raft.current_leader.map(NodeId),
            last_log,
            committed: raft.cluster_committed.map_or(0, |id| id.index),
            applied: self.applied(),
            checkpoint: raft.snapshot.map_or(0, |id| id.index),
            purged: raft.purged.map_or(0, |id| id.index),
            replication: others
                .map(|(node, matched)| {
                    let matched = matched.map(|id| id.index);
                    Replication {
                        node: NodeId(node),
                        matched,
                        lag: last_log.saturating_sub(matched.unwrap_or(0)),
                        since_heartbeat: heartbeats
                            .get(&node)
                            .and_then(|at| at.as_ref().map(|at| at.elapsed())),
                    }
                })
                .collect(),
            since_quorum: raft.last_quorum_acked.map(|at| at.elapsed()),
        }
    }

    /// How long ago this node last had a sign of a working leader: on a follower, a message of its leader that it accepted; on the leader,
    /// the sending of the last message that a majority answered. `None`: never in this process.
    #[must_use]
    pub fn since_contact(&self) -> Option<Duration> {
        if self.is_leader() {
            self.metrics().since_quorum
        } else {
            self.inner.shared.since_leader()
        }
    }

    /// After a start: returns when everything that this node may have applied before the start is applied again. Serve no read before.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] after `within`; [`ReadError::Stopped`].
    pub async fn wait_recovered(&self, within: Duration) -> Result<(), ReadError> {
        let recovered = self.inner.raft.wait_for_recovery(Some(within)).await;
        recovered.map(|_| ()).map_err(|_| {
            if self.inner.fatal.borrow().is_some() || self.inner.stop.is_cancelled() {
                ReadError::Stopped
            } else {
                ReadError::NoQuorum
            }
        })
    }

    /// Resolves when the group is stopped.
    pub(crate) async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Whether the group is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    /// Writes a checkpoint now, in the background.
    pub async fn checkpoint(&self) {
        // An error means that the group is stopped.
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// Leaves the group's calls unanswered from now on and ends its tasks. What was proposed and not answered is [`ProposeError::Unknown`].
    pub async fn stop(&self) {
        self.inner.registry.remove(self.inner.group);
        self.inner.inflight.close();
        self.inner.stop.cancel();
        // It fails if a task panicked, which was reported.
        let _ = self.inner.raft.shutdown().await;
    }
}

/// Removes everything that a group which does not run has on this node, votes included. The node must not be a member any more: it
/// would forget whom it voted for.
///
/// # Errors
/// The log's or the store's.
pub async fn erase(log: &Log, store: &Arc<dyn KeyValue>, group: GroupId) -> io::Result<()> {
    let (done, removed) = oneshot::channel();
    // The log first: a log that begins after a lost checkpoint cannot be opened, a checkpoint without a log can.
    log.remove_group(group, move |outcome| drop(done.send(outcome)))
        .map_err(io::Error::other)?;
    removed
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || checkpoint::remove(&*store, group))
        .await
        .map_err(io::Error::other)?
}

type Watched = (
    watch::Receiver<Leadership>,
    watch::Receiver<Option<Arc<str>>>,
);

/// Turns the library's metrics into what the rest of the node watches.
fn watch_raft<M: StateMachine>(
    raft: &Raft<M>,
    group: GroupId,
    node: NodeId,
    stop: CancellationToken,
) -> Watched {
    let metrics = raft.metrics();
    // These change with the leader and the members only, not with every entry.
    let mut server = raft.server_metrics();
    let (leadership, watched_leadership) = watch::channel(Leadership::default());
    let (fatal, watched_fatal) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let now = {
                let server = server.borrow_watched();
                let leader = server.current_leader.map(NodeId);
                Leadership {
                    term: server.vote.leader_id.term,
                    leader,
                    is_here: server.state == ServerState::Leader && leader == Some(node),
                }
            };
            if leadership.send_if_modified(|then| std::mem::replace(then, now) != now) {
                let leader = now.leader.map(tracing::field::display);
                tracing::info!(%group, term = now.term, leader, "leader of the group");
            }
            tokio::select! {
                changed = server.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        // The library's task has ended, or is about to.
        leadership.send_modify(|then| {
            then.leader = None;
            then.is_here = false;
        });
        let failure = match &metrics.borrow_watched().running_state {
            Ok(()) | Err(Fatal::<Types>::Stopped) => None,
            Err(failure) => Some(failure.to_string()),
        };
        if let Some(failure) = failure {
            tracing::error!(%group, failure, "raft group stopped itself");
            fatal.send_replace(Some(failure.into()));
        }
    });
    (watched_leadership, watched_fatal)
}
