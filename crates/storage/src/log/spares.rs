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
            if state.is_closed {
                return Err(Error::Closed);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn add(&self, segment: Segment) {
        self.lock().ready.push_back(segment);
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
