//! The ordered queue between the callers and the committer.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::group::{Counted, Entry, GroupCell, GroupId, Purged};
use super::record::{HEADER_BYTES, record_bytes};
use super::slots::Slot;
use crate::error::Error;

/// A guess at the length of the values that a committed or moved record takes when it is written.
const NOTE_BYTES: usize = 256;

/// Called when an operation is durable, or will never be.
pub(super) type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What is to be written, in order.
pub(super) struct Operation {
    pub(super) what: What,
    pub(super) done: Option<Done>,
}

pub(super) enum What {
    Append {
        group: Arc<GroupCell>,
        entries: Vec<Entry>,
        /// Truncations of the group before this append.
        truncations: u64,
    },
    Vote(Arc<GroupCell>, Bytes),
    /// The value is taken when the record is written: only the newest matters.
    Committed(Arc<GroupCell>),
    Truncate(Arc<GroupCell>, u64, Counted),
    Purge {
        group: Arc<GroupCell>,
        purged: Purged,
        freed: Counted,
        /// Everything it purges was durable when it was queued.
        is_durable: bool,
    },
    Remove(Arc<GroupCell>, Counted),
    /// Entries that still counted in a segment that is to be dropped, with where they lay.
    Move {
        group: Arc<GroupCell>,
        entries: Vec<(Entry, Slot)>,
    },
    /// Write the group's vote, committed and purge records again if they lie in this segment.
    MoveRegisters(Arc<GroupCell>, u32),
    /// Segments below this number are about to be dropped.
    Drop(u32),
}

impl What {
    /// The most that the records of it take.
    pub(super) fn records_bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => {
                entries.iter().map(|e| record_bytes(e.payload.len())).sum()
            }
            Self::Move { entries, .. } => entries
                .iter()
                .map(|(e, _)| record_bytes(e.payload.len()))
                .sum(),
            Self::Vote(_, bytes) => record_bytes(bytes.len()),
            Self::Purge { purged, .. } => record_bytes(purged.note.len()),
            // Their values are taken later; caller's notes are short.
            Self::Committed(_) => record_bytes(NOTE_BYTES),
            Self::MoveRegisters(..) => 3 * record_bytes(NOTE_BYTES),
            _ => HEADER_BYTES,
        }
    }

    /// Whether it may overtake what waits for room on a full disk: in its group only purges of what
    /// is durable may. Adds its group to `waiting` if it must wait.
    fn may_overtake(&self, waiting: &mut HashSet<GroupId>) -> bool {
        let group = match self {
            Self::Drop(_) | Self::MoveRegisters(..) => return true,
            Self::Purge {
                is_durable: true, ..
            } => return true,
            Self::Append { group, .. } | Self::Move { group, .. } => {
                waiting.insert(group.id);
                return false;
            }
            Self::Purge { group, .. }
            | Self::Vote(group, _)
            | Self::Committed(group)
            | Self::Truncate(group, ..)
            | Self::Remove(group, _) => group.id,
        };
        !waiting.contains(&group)
    }

    fn queued_bytes(&self) -> usize {
        let payload = match self {
            Self::Append { entries, .. } => {
                entries.iter().map(|e| e.payload.len() + HEADER_BYTES).sum()
            }
            Self::Move { entries, .. } => entries
                .iter()
                .map(|(e, _)| e.payload.len() + HEADER_BYTES)
                .sum(),
            Self::Vote(_, bytes) => bytes.len(),
            Self::Purge { purged, .. } => purged.note.len(),
            _ => 0,
        };
        payload + HEADER_BYTES
    }

    /// Whether somebody waits for it to be durable. What can wait rides along with what cannot.
    fn is_urgent(&self) -> bool {
        !matches!(self, Self::Committed(_))
    }
}

/// Why the committer was woken.
pub(super) enum Work {
    /// Operations to write and sync.
    Batch(Vec<Operation>),
    /// Nothing urgent came for a while; the operations need no sync.
    Idle(Vec<Operation>),
    /// The log is closed and the queue is empty.
    Closed,
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// The committer took operations: there may be room.
    taken: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    operations: VecDeque<Operation>,
    urgent: usize,
    bytes: usize,
    wakers: Vec<Waker>,
    is_closed: bool,
    stopped: Option<Error>,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            taken: Condvar::new(),
            bytes_max,
        }
    }

    /// Waits until the queue is not full. To be called without a lock that the committer needs.
    pub(super) fn wait_for_room(&self) {
        let mut state = self.lock();
        while state.bytes >= self.bytes_max && state.stopped.is_none() && !state.is_closed {
            state = self
                .taken
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds an operation behind all others.
    pub(super) fn push(&self, operation: Operation) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(stopped) = &state.stopped {
            return Err(stopped.clone());
        }
        if state.is_closed {
            return Err(Error::Closed);
        }
        state.bytes += operation.what.queued_bytes();
        let urgent = operation.what.is_urgent();
        state.urgent += usize::from(urgent);
        state.operations.push_back(operation);
        let wake = state.operations.len() == 1 || (urgent && state.urgent == 1);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Ready when an append would not wait for room.
    pub(super) fn poll_room(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.lock();
        if state.bytes < self.bytes_max || state.stopped.is_some() || state.is_closed {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Poll::Pending
    }

    /// Waits for operations and takes them, as many as fit into `batch_bytes`, at least one.
    /// Without urgent ones it returns after `idle_after`, if given.
    pub(super) fn take(&self, batch_bytes: usize, idle_after: Option<Duration>) -> Work {
        let mut state = self.lock();
        loop {
            if state.urgent > 0 || (state.is_closed && !state.operations.is_empty()) {
                return Work::Batch(self.drain(state, batch_bytes));
            }
            if state.is_closed {
                return Work::Closed;
            }
            // What is not urgent becomes due, too.
            let wait = match (idle_after, state.operations.is_empty()) {
                (None, true) => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                (Some(idle_after), _) => idle_after,
                (None, false) => super::IDLE_AFTER,
            };
            let (woken, timeout) = self
                .changed
                .wait_timeout_while(state, wait, |s| s.urgent == 0 && !s.is_closed)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() && state.urgent == 0 && !state.is_closed {
                return Work::Idle(self.drain(state, batch_bytes));
            }
        }
    }

    /// Puts a batch back to where it was taken from.
    pub(super) fn put_back(&self, batch: Vec<Operation>) {
        let mut state = self.lock();
        for operation in batch.into_iter().rev() {
            state.bytes += operation.what.queued_bytes();
            state.urgent += usize::from(operation.what.is_urgent());
            state.operations.push_front(operation);
        }
    }

    /// Takes, in order, what may overtake entries that wait for room, as much as fits into `room`
    /// bytes of records.
    pub(super) fn take_overtaking(&self, room: usize) -> Vec<Operation> {
        let mut state = self.lock();
        let mut waiting = HashSet::new();
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut left = VecDeque::with_capacity(state.operations.len());
        for operation in std::mem::take(&mut state.operations) {
            let more = operation.what.records_bytes();
            if operation.what.may_overtake(&mut waiting) && bytes + more <= room {
                bytes += more;
                state.bytes -= operation.what.queued_bytes();
                state.urgent -= usize::from(operation.what.is_urgent());
                taken.push(operation);
            } else {
                left.push_back(operation);
            }
        }
        state.operations = left;
        taken
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn drain(&self, mut state: MutexGuard<'_, State>, batch_bytes: usize) -> Vec<Operation> {
        let mut bytes = 0;
        let mut count = 0;
        let mut urgent = 0;
        for operation in &state.operations {
            let more = operation.what.queued_bytes();
            if count > 0 && bytes + more > batch_bytes {
                break;
            }
            bytes += more;
            count += 1;
            urgent += usize::from(operation.what.is_urgent());
        }
        let was_full = state.bytes >= self.bytes_max;
        state.bytes -= bytes;
        state.urgent -= urgent;
        let batch = if count == state.operations.len() {
            std::mem::take(&mut state.operations).into()
        } else {
            state.operations.drain(..count).collect()
        };
        let wakers = if was_full {
            std::mem::take(&mut state.wakers)
        } else {
            Vec::new()
        };
        drop(state);
        if was_full {
            self.taken.notify_all();
            wakers.into_iter().for_each(Waker::wake);
        }
        batch
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
        self.taken.notify_all();
    }

    /// Refuses everything from now on; returns what was queued.
    pub(super) fn stop(&self, error: Error) -> Vec<Operation> {
        let mut state = self.lock();
        state.stopped = Some(error);
        state.bytes = 0;
        state.urgent = 0;
        let left = std::mem::take(&mut state.operations);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.taken.notify_all();
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        left.into()
    }

    pub(super) fn stopped(&self) -> Option<Error> {
        self.lock().stopped.clone()
    }

    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
