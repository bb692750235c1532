//! The exactly-once, ordered stream of this node into each partition (DESIGN: "publish").
//!
//! Whatever is queued becomes a batch; a batch has a number; the partition takes numbers in order, once. So a retry, a change of leader
//! or a lost answer neither doubles nor reorders. [`sender`] keeps the stream going, whoever leads; [`service`] is its other end, on the
//! leader; [`chooser`] picks members of share groups there.

mod chooser;
mod sender;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_state::partition::Attached;
use magpie_state::{PartitionId, Record, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::rpc::Channels;

pub(crate) use chooser::Choosers;
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

/// Records that are to be committed together, in order.
struct Item {
    records: Bytes,
    count: u32,
    has_control: bool,
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
    overdue: Arc<AtomicBool>,
}

/// What a stream needs to know of its node.
#[derive(Clone)]
pub(crate) struct StreamParts {
    /// This node, in this life.
    pub(crate) stream: StreamId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    pub(crate) choosers: Choosers,
    /// Bound on the bytes queued and under way.
    pub(crate) queue_bytes: usize,
    /// Bound on the wait for a commit.
    pub(crate) deadline: Duration,
    /// Whether a batch may still commit of which somebody was told that nothing is known; each stream has its own.
    pub(crate) overdue: Arc<AtomicBool>,
    /// Told when a partition says that this life is over.
    pub(crate) ended: Arc<dyn Fn() + Send + Sync>,
    pub(crate) stop: CancellationToken,
}

/// The node is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopping;

impl Stream {
    /// Starts the stream into `partition`.
    pub(crate) fn start(partition: PartitionId, mut parts: StreamParts) -> Self {
        let overdue = Arc::new(AtomicBool::new(false));
        parts.overdue = Arc::clone(&overdue);
        let (queue, queued) = mpsc::channel(QUEUED_MAX);
        let bytes_max = parts.queue_bytes;
        tokio::spawn(sender::Sender::new(partition, parts, queued).run());
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
            overdue,
        }
    }

    /// Whether something may still commit whose submitter was told that nothing is known of it.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Acquire)
    }

    /// Queues encoded records behind everything queued before; waits while too many bytes are queued or under way. If the future is
    /// dropped before it resolves, nothing was queued and `done` is not called.
    pub(crate) async fn submit(
        &self,
        records: Bytes,
        count: u32,
        has_control: bool,
        done: OnDone,
    ) -> Result<(), Stopping> {
        if records.len() > SUBMISSION_BYTES_MAX {
            // It would fit into no entry, and hold up what comes behind it.
            tracing::warn!(
                bytes = records.len(),
                "records too long for an entry of the log are refused"
            );
            done(Done::NotProposed);
            return Ok(());
        }
        let weight = (records.len() + SUBMISSION_BYTES_MIN).min(self.bytes_max);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.bytes)
            .acquire_many_owned(weight)
            .await
            .map_err(|_| Stopping)?;
        let item = Item {
            records,
            count,
            has_control,
            queued: Instant::now(),
            done,
            _bytes: permit,
        };
        self.queue.send(item).await.map_err(|_| Stopping)
    }

    /// [`submit`](Self::submit) of control records, waiting for the outcome.
    pub(crate) async fn commit(&self, records: &[Record]) -> Result<Done, Stopping> {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let (answer, answered) = tokio::sync::oneshot::channel();
        // Whoever waits may be gone by then.
        let done = Box::new(move |done| drop(answer.send(done)));
        self.submit(bytes.freeze(), count, true, done).await?;
        Ok(answered.await.unwrap_or(Done::Unknown))
    }
}
