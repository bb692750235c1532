//! The exactly-once, ordered stream of this node into each partition (DESIGN: "publish").
//!
//! Whatever is queued becomes a batch; a batch has a number; the partition takes numbers in order, once. So a retry, a change of leader
//! or a lost answer neither doubles nor reorders. [`sender`] keeps the stream going, whoever leads; [`service`] is its other end, on the
//! leader.

mod append;
mod overdue;
mod sender;
mod service;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_state::partition::Attached;
use magpie_state::{ClientId, PartitionId, Record, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::rpc::Channels;

pub(crate) use append::propose_append;
use overdue::Overdue;
pub(crate) use service::PartitionService;

/// Submissions queued before the sender takes them over; more wait. Bytes are bounded apart.
const QUEUED_MAX: usize = 1024;
/// A submission counts at least so much towards the queue's bytes, for its bookkeeping.
const SUBMISSION_BYTES_MIN: usize = 256;

/// The longest submission: what surely fits into an entry of the log, which holds 16 MiB.
const SUBMISSION_BYTES_MAX: usize = 15 << 20;

/// What became of the records of one submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// Committed. Ordinals count within the submission.
    Taken {
        /// Publishes refused because their client has a newer connection.
        refused: Vec<u32>,
        /// Publishes that were taken before.
        repeated: Vec<u32>,
        /// Publishes that a limit of retained messages does not admit.
        full: Vec<u32>,
        /// Attaches to a session of another user.
        foreign: Vec<u32>,
        /// Answers to attaches.
        attached: Vec<Attached>,
    },
    /// Provably never proposed.
    NotProposed,
    /// May or may not have been committed.
    Unknown,
}

/// Called once with the outcome, from another task; must not block.
pub(crate) type OnDone = Box<dyn FnOnce(Done) + Send>;

/// Records on their way into a stream.
pub(crate) struct Records {
    /// Encoded, one after the other.
    pub(crate) bytes: Bytes,
    /// How many.
    pub(crate) count: u32,
    /// Whether one of them must be read when it is applied.
    pub(crate) has_control: bool,
    /// Not given up once they are proposed: somebody waits as long as it takes.
    pub(crate) is_patient: bool,
    /// Whose messages they are: noted while they may still commit after their submitter was told that nothing is known.
    pub(crate) client: Option<ClientId>,
}

/// Records that are to be committed together, in order.
struct Item {
    records: Records,
    queued: Instant,
    done: OnDone,
    _bytes: OwnedSemaphorePermit,
}

/// The way into one partition. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stream {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    overdue: Arc<Overdue>,
}

/// What a stream needs to know of its node.
#[derive(Clone)]
pub(crate) struct StreamParts {
    /// This node, in this life.
    pub(crate) stream: StreamId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    /// Bound on the bytes queued and under way.
    pub(crate) queue_bytes: usize,
    /// Bound on the wait for a commit.
    pub(crate) deadline: Duration,
    /// Told when a partition says that this life is over.
    pub(crate) ended: Arc<dyn Fn() + Send + Sync>,
    pub(crate) stop: CancellationToken,
}

/// The node is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopping;

impl Stream {
    /// Starts the stream into `partition`.
    pub(crate) fn start(partition: PartitionId, parts: StreamParts) -> Self {
        let overdue = Arc::new(Overdue::new());
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let bytes_max = parts.queue_bytes;
        tokio::spawn(sender::Sender::new(partition, parts, queued, Arc::clone(&overdue)).run());
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            overdue,
        }
    }

    /// Whether something of `client` may still commit whose submitter was told that nothing is known of it.
    pub(crate) fn is_overdue(&self, client: &ClientId) -> bool {
        self.overdue.has(client)
    }

    /// Resolves when that is not so.
    pub(crate) async fn settled(&self, client: &ClientId) -> Result<(), Stopping> {
        self.overdue.settled(client).await
    }

    /// Queues encoded records behind everything queued before; waits while too many bytes are queued or under way. If the future is
    /// dropped before it resolves, nothing was queued and `done` is not called.
    pub(crate) async fn submit(&self, records: Records, done: OnDone) -> Result<(), Stopping> {
        let bytes = records.bytes.len();
        if bytes > SUBMISSION_BYTES_MAX {
            // It would fit into no entry, and hold up what comes behind it.
            tracing::warn!(
                bytes,
                "records too long for an entry of the log are refused"
            );
            done(Done::NotProposed);
            return Ok(());
        }
        let weight = (bytes + SUBMISSION_BYTES_MIN).min(self.bytes_max);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes)
            .acquire_many_owned(weight)
            .await
            .map_err(|_| Stopping)?;
        let item = Item {
            records,
            queued: Instant::now(),
            done,
            _bytes: permit,
        };
        self.queue.send(item).await.map_err(|_| Stopping)
    }

    /// [`submit`](Self::submit) of control records, waiting for the outcome.
    pub(crate) async fn commit(&self, records: &[Record]) -> Result<Done, Stopping> {
        self.commit_records(Records::control(records)).await
    }

    /// [`commit`](Self::commit), but once the records are proposed it waits as long as it takes to know what became of them.
    pub(crate) async fn commit_for_certain(&self, records: &[Record]) -> Result<Done, Stopping> {
        let records = Records {
            is_patient: true,
            ..Records::control(records)
        };
        self.commit_records(records).await
    }

    async fn commit_records(&self, records: Records) -> Result<Done, Stopping> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        // Whoever waits may be gone by then.
        let done = Box::new(move |done| drop(answer.send(done)));
        self.submit(records, done).await?;
        Ok(answered.await.unwrap_or(Done::Unknown))
    }
}

impl Records {
    /// Records that must be read when they are applied.
    pub(crate) fn control(records: &[Record]) -> Self {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        Self {
            bytes: bytes.freeze(),
            count: u32::try_from(records.len()).unwrap_or(u32::MAX),
            has_control: true,
            is_patient: false,
            client: None,
        }
    }
}
