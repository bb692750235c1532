//! Drives one state machine: applies what is committed, checkpoints it, and lets snapshots replace it.
//!
//! The state lives in memory. `apply` takes the write lock once per batch of entries; readers take the read lock; nothing else is done
//! under it but collecting the changed rows. Disk work is off the Raft task and on threads that may block.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use magpie_failpoint::fail_point;
use magpie_state::{Position, Row, RowValue, StateMachine};
use magpie_storage::{GroupId, KeyValue};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, alias};
use tokio::sync::watch;

use super::checkpoint::{self, Checkpoint, Latest, Rows, Staging};
use super::entry::{LogId, Reply, SnapshotMeta, StoredMembership, Types};
use super::log_store::LogStore;
use super::snapshot::SnapshotBody;
use super::stored::ReadBack;

pub(super) type Raft<M> = openraft::Raft<Types, Driver<M>>;

/// Entries applied under one write lock.
const APPLY_ENTRIES: usize = 512;
/// Rows read at once while a state is loaded.
const LOAD_BYTES: usize = 1 << 20;

/// Watches what a group applies. Called on the task that applies: it must not block or take long, and must not propose and wait.
pub trait Observer<M: StateMachine>: Send + Sync + 'static {
    /// Entry `index` was applied, with this answer; the state already contains it, [`RaftGroup::applied`](super::RaftGroup::applied) does not
    /// tell of it yet. Every command comes once, in order, except those that
    /// [`jumped`](Self::jumped) tells of. After a start, entries since the last checkpoint come again.
    fn applied(&self, index: u64, command: &Bytes, answer: &M::Answer);

    /// A snapshot was installed: everything up to and including `to_index` is in the state, and not all of it came through
    /// [`applied`](Self::applied).
    fn jumped(&self, to_index: u64);
}

impl<M: StateMachine> Observer<M> for () {
    fn applied(&self, _: u64, _: &Bytes, _: &M::Answer) {}
    fn jumped(&self, _: u64) {}
}

/// The library's side of the driver; clones share the state.
pub(super) struct Driver<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

impl<M: StateMachine> Clone for Driver<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// What the driver and the group's handle share.
pub(super) struct Shared<M: StateMachine> {
    state: RwLock<State<M>>,
    applied: watch::Sender<u64>,
    store: LogStore,
    /// The rows of the checkpoint, also while it is written or sent.
    rows: RwLock<Rows>,
    /// Index up to which the log may be purged, as the last durable checkpoint says.
    purge_bound: AtomicU64,
    /// Snapshots that took the state's place.
    installs: AtomicU64,
    /// What the last one passed over.
    jumped: Mutex<Range<u64>>,
    observer: Arc<dyn Observer<M>>,
    pub(super) checkpoint: checkpoint::Shared,
    pub(super) latest: Latest,
    /// Held while a snapshot is received and installed: there is one place for it.
    pub(super) receiving: Arc<tokio::sync::Mutex<()>>,
    applied_bytes: AtomicU64,
    checkpointed_bytes: AtomicU64,
    started: Instant,
    /// When a leader's message was accepted last, in milliseconds after `started`; 0: never.
    heard_ms: AtomicU64,
}

struct State<M> {
    machine: M,
    last: Option<LogId>,
    membership: StoredMembership,
}

impl<M> State<M> {
    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }
}

impl<M: StateMachine> Driver<M> {
    /// Loads the last checkpoint. Blocks.
    pub(super) fn open(
        key_value: Arc<dyn KeyValue>,
        group: GroupId,
        store: LogStore,
        observer: Arc<dyn Observer<M>>,
    ) -> io::Result<Self> {
        let checkpoint = Checkpoint::open(key_value, group)?;
        let meta = checkpoint.meta().clone();
        let machine: M = load(|after| checkpoint.rows_after(after, LOAD_BYTES))?;
        let applied = meta.last_log_id.map_or(0, |last| last.index);
        let latest = Latest::default();
        latest.set(meta.clone());
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                rows: RwLock::new(checkpoint.rows()),
                purge_bound: AtomicU64::new(machine.purge_bound()),
                installs: AtomicU64::new(0),
                jumped: Mutex::default(),
                state: RwLock::new(State {
                    machine,
                    last: meta.last_log_id,
                    membership: meta.last_membership,
                }),
                applied: watch::Sender::new(applied),
                observer,
                checkpoint: Arc::new(tokio::sync::RwLock::new(checkpoint)),
                latest,
                receiving: Arc::default(),
                applied_bytes: AtomicU64::new(0),
                checkpointed_bytes: AtomicU64::new(0),
                started: Instant::now(),
                heard_ms: AtomicU64::new(0),
            }),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared<M>> {
        &self.shared
    }

    /// Stages the checkpoint of another replica in this process.
    async fn copy(
        &self,
        from: checkpoint::Shared,
    ) -> io::Result<(Staging, tokio::sync::OwnedMutexGuard<()>)> {
        let receiving = Arc::clone(&self.shared.receiving).lock_owned().await;
        let from = from.read_owned().await;
        let own = Arc::clone(&self.shared.checkpoint).read_owned().await;
        tokio::task::spawn_blocking(move || {
            let mut staging = own.stage()?;
            let mut after: Option<Vec<u8>> = None;
            loop {
                let rows = from.rows_after(after.as_deref(), LOAD_BYTES)?;
                let Some((last, _)) = rows.last() else {
                    break;
                };
                after = Some(last.clone());
                staging.put(rows)?;
            }
            staging.finish(from.meta().clone())?;
            Ok((staging, receiving))
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl<M: StateMachine> Shared<M> {
    /// Reads the applied state. Writers wait meanwhile.
    pub(super) fn with_state<R>(&self, read: impl FnOnce(&M) -> R) -> R {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        read(&state.machine)
    }

    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The rows of the last checkpoint.
    pub(super) fn rows(&self) -> Rows {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.clone()
    }

    /// Index up to which the log may be purged: what is behind it is needed to restore the state.
    pub(super) fn purge_bound(&self) -> u64 {
        self.purge_bound.load(Ordering::Acquire)
    }

    /// How many snapshots took the place of what was here, since the start.
    pub(super) fn installs(&self) -> u64 {
        self.installs.load(Ordering::Acquire)
    }

    /// The indexes that the last snapshot passed over: applied, and not from the log. Empty if there was none.
    pub(super) fn jumped(&self) -> Range<u64> {
        let jumped = self.jumped.lock().unwrap_or_else(PoisonError::into_inner);
        jumped.clone()
    }

    /// A snapshot up to `index` is about to take the state's place.
    fn jump(&self, index: u64) {
        let from = *self.applied.borrow() + 1;
        let mut jumped = self.jumped.lock().unwrap_or_else(PoisonError::into_inner);
        let is_purged = self.store.range().start >= jumped.end;
        let from = if is_purged {
            from
        } else {
            from.min(jumped.start)
        };
        *jumped = from..index + 1;
    }

    /// Whether the state waits for rows to be copied out of the log.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.with_state(M::wants_checkpoint)
    }

    /// Bytes of commands applied since the last checkpoint, and whether anything was.
    pub(super) fn since_checkpoint(&self) -> (u64, bool) {
        let applied = self.applied_bytes.load(Ordering::Relaxed);
        let bytes = applied.saturating_sub(self.checkpointed_bytes.load(Ordering::Relaxed));
        let index = self.latest.meta().last_log_id.map_or(0, |last| last.index);
        (bytes, *self.applied.borrow() > index)
    }

    /// A message of the group's leader was accepted.
    pub(super) fn heard_from_leader(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(now.max(1), Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(super) fn since_leader(&self) -> Option<Duration> {
        let heard = self.heard_ms.load(Ordering::Relaxed);
        let heard = (heard > 0).then(|| Duration::from_millis(heard))?;
        Some(self.started.elapsed().saturating_sub(heard))
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<M>> {
        // A panic in `apply` ends the process; nobody reads a half-applied state.
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_checkpoint(&self) -> io::Result<SnapshotMeta> {
        let mut checkpoint = Arc::clone(&self.checkpoint).write_owned().await;
        let (mut rows, meta, purge_bound) = {
            let mut state = self.write();
            let bytes = self.applied_bytes.load(Ordering::Relaxed);
            self.checkpointed_bytes.store(bytes, Ordering::Relaxed);
            let rows = state.machine.take_changed();
            (rows, state.meta(), state.machine.purge_bound())
        };
        let store = self.store.clone();
        let meta = tokio::task::spawn_blocking(move || {
            // What is copied lies in the log in the order of the keys.
            rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            let mut log = ReadBack::<M>::new(store);
            let mut read_back = |position: Position| log.record(position);
            checkpoint
                .write(rows, meta.clone(), &mut read_back)
                .map(|()| meta)
        })
        .await
        .map_err(io::Error::other)??;
        // Only now: what the log loses from here on, the disk has.
        self.purge_bound.store(purge_bound, Ordering::Release);
        self.latest.set(meta.clone());
        Ok(meta)
    }
}

impl<M: StateMachine> RaftStateMachine<Types> for Driver<M> {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.write();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: futures::Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let shared = &*self.shared;
        let mut batches = entries.ready_chunks(APPLY_ENTRIES);
        while let Some(batch) = batches.next().await {
            let mut done = Vec::with_capacity(batch.len());
            let mut bytes = 0;
            let mut failed = None;
            let mut state = shared.write();
            for item in batch {
                let (entry, responder) = match item {
                    Ok(item) => item,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                let index = entry.log_id.index;
                let answer = match entry.payload {
                    EntryPayload::Blank => None,
                    EntryPayload::Normal(command) => {
                        bytes += command.0.len() as u64;
                        let answer = state.machine.apply(index, &command.0);
                        Some((command.0, answer))
                    }
                    EntryPayload::Membership(membership) => {
                        state.membership = StoredMembership::new(Some(entry.log_id), membership);
                        None
                    }
                };
                state.last = Some(entry.log_id);
                done.push((index, answer, responder));
            }
            shared.applied_bytes.fetch_add(bytes, Ordering::Relaxed);
            drop(state);
            fail_point!(
                "applied",
                done.iter()
                    .filter_map(|(_, answer, _)| Some(&answer.as_ref()?.0))
            );
            for (index, answer, _) in &done {
                if let Some((command, answer)) = answer {
                    shared.observer.applied(*index, command, answer);
                }
            }
            // The observer first: whoever sees the index finds what the observer was told.
            if let Some((last, ..)) = done.last() {
                shared.applied.send_replace(*last);
            }
            for (_, answer, responder) in done {
                if let Some(responder) = responder {
                    responder.send(match answer {
                        Some((_, answer)) => Reply::new(answer),
                        None => Reply::empty(),
                    });
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, body: SnapshotBody) -> io::Result<()> {
        let staged = match body {
            SnapshotBody::Staged(staged) => staged,
            // Our own checkpoint, which was loaded at start.
            SnapshotBody::Checkpoint(own) if Arc::ptr_eq(&own, &self.shared.checkpoint) => {
                return Ok(());
            }
            SnapshotBody::Checkpoint(other) => Box::new(self.copy(other).await?),
        };
        let mut checkpoint = Arc::clone(&self.shared.checkpoint).write_owned().await;
        let (machine, checkpoint, receiving) = tokio::task::spawn_blocking(move || {
            let (staging, receiving) = *staged;
            let machine: M = load(|after| staging.rows_after(after, LOAD_BYTES))?;
            checkpoint.install(staging)?;
            Ok::<_, io::Error>((machine, checkpoint, receiving))
        })
        .await
        .map_err(io::Error::other)??;
        let (meta, rows) = (checkpoint.meta().clone(), checkpoint.rows());
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let shared = &self.shared;
        shared.jump(index);
        *shared.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
        shared
            .purge_bound
            .store(machine.purge_bound(), Ordering::Release);
        {
            let mut state = shared.write();
            *state = State {
                machine,
                last: meta.last_log_id,
                membership: meta.last_membership.clone(),
            };
        }
        // Behind the state: whoever read the old one finds that the number has changed.
        shared.installs.fetch_add(1, Ordering::AcqRel);
        self.shared.latest.set(meta);
        self.shared.observer.jumped(index);
        self.shared.applied.send_replace(index);
        fail_point!("snapshot.installed", [index.to_le_bytes()]);
        // Only now: whoever reads the old rows meanwhile finds afterwards that the number has changed.
        tokio::task::spawn_blocking(move || {
            let _receiving = receiving;
            checkpoint.drop_replaced()
        })
        .await
        .map_err(io::Error::other)?
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<alias::SnapshotOf<Types, SnapshotBody>>> {
        let meta = self.shared.latest.meta();
        Ok(meta.last_log_id.is_some().then(|| openraft::Snapshot {
            meta,
            snapshot: SnapshotBody::Checkpoint(Arc::clone(&self.shared.checkpoint)),
        }))
    }
}

impl<M: StateMachine> RaftSnapshotBuilder<Types> for Driver<M> {
    type SnapshotData = SnapshotBody;

    async fn build_snapshot(&mut self) -> io::Result<alias::SnapshotOf<Types, SnapshotBody>> {
        let meta = self.shared.write_checkpoint().await?;
        Ok(openraft::Snapshot {
            meta,
            snapshot: SnapshotBody::Checkpoint(Arc::clone(&self.shared.checkpoint)),
        })
    }
}

fn load<M: StateMachine>(
    mut rows_after: impl FnMut(Option<&[u8]>) -> io::Result<Vec<(Vec<u8>, Bytes)>>,
) -> io::Result<M> {
    let mut machine = M::default();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = rows_after(after.as_deref())?;
        let Some((last, _)) = rows.last() else {
            break;
        };
        after = Some(last.clone());
        for (key, value) in rows {
            let row = Row {
                key,
                value: Some(RowValue::Bytes(value.to_vec())),
            };
            machine.load(row).map_err(io::Error::other)?;
        }
    }
    // What was loaded is on disk already.
    machine.take_changed();
    Ok(machine)
}
