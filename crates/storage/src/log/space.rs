//! Room on the disk, as the log sees it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// How much room there is. The caller acts on it; the log takes what it is given as long as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Space {
    /// There is room.
    #[default]
    Ok,
    /// New messages should be refused: what room is left is for votes, membership, purges and
    /// acknowledgements.
    Soft,
    /// The reserve is nearly used up: this node should not count as ready.
    Hard,
}

/// The space as it is now, and who waits for it to change.
#[derive(Debug, Default)]
pub(super) struct Watched {
    state: Mutex<(Space, Vec<Waker>)>,
}

impl Watched {
    pub(super) fn now(&self) -> Space {
        self.lock().0
    }

    pub(super) fn set(&self, space: Space) {
        let mut state = self.lock();
        if state.0 == space {
            return;
        }
        let before = std::mem::replace(&mut state.0, space);
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        if space > before {
            tracing::warn!(?before, now = ?space, "the disk fills up");
        } else {
            tracing::info!(?before, now = ?space, "the disk has room again");
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn poll(&self, known: Space, waker: &Waker) -> Poll<Space> {
        let mut state = self.lock();
        if state.0 != known {
            return Poll::Ready(state.0);
        }
        if !state.1.iter().any(|old| old.will_wake(waker)) {
            state.1.push(waker.clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, (Space, Vec<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
