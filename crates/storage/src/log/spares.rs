//! Segments prepared in advance, so that the committer never waits for one to be filled.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::segment::Segment;
use crate::error::Error;

#[derive(Debug, Default)]
pub(super) struct Spares {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Segment>,
    /// Something happened that the keeper should look at.
    keeper_called: bool,
    is_closed: bool,
    /// The last attempt to prepare one found the disk full.
    is_full: bool,
    gives_up_when_full: bool,
    failed: Option<Error>,
}

impl Spares {
    /// The next segment. Waits while there is none, that is, while the disk is full.
    pub(super) fn take(&self) -> Result<Segment, Error> {
        let mut state = self.lock();
        loop {
            if let Some(segment) = state.ready.pop_front() {
                state.keeper_called = true;
                self.changed.notify_all();
                return Ok(segment);
            }
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.is_closed || (state.is_full && state.gives_up_when_full) {
                return Err(Error::Closed);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits at most this long; true if there is a spare, or will be none any more.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, at_most, |s| {
                s.ready.is_empty() && s.failed.is_none() && !s.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        !state.ready.is_empty() || state.failed.is_some() || state.is_closed
    }

    pub(super) fn add(&self, segment: Segment) {
        let mut state = self.lock();
        state.ready.push_back(segment);
        state.is_full = false;
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn set_full(&self) {
        self.lock().is_full = true;
        self.changed.notify_all();
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().is_full
    }

    /// The log is to be closed: nobody waits any more for room that may never come.
    pub(super) fn give_up_when_full(&self) {
        self.lock().gives_up_when_full = true;
        self.changed.notify_all();
    }

    pub(super) fn count(&self) -> usize {
        self.lock().ready.len()
    }

    /// No segment can be prepared any more, for another reason than a full disk.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failed = Some(error);
        self.changed.notify_all();
    }

    pub(super) fn call_keeper(&self) {
        self.lock().keeper_called = true;
        self.changed.notify_all();
    }

    /// Waits until the keeper is called, or for this long. False when the log is closed.
    pub(super) fn wait_as_keeper(&self, at_most: Duration) -> bool {
        let state = self.lock();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, at_most, |s| !s.keeper_called && !s.is_closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.keeper_called = false;
        !state.is_closed
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
