//! A bound on those who wait for something costly.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Refusal;

/// How many wait or are served at a time.
#[derive(Debug)]
pub(crate) struct Turns {
    taken: AtomicUsize,
    max: usize,
}

/// A place among them.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    pub(crate) const fn new(max: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            max,
        }
    }

    /// # Errors
    /// [`Refusal::Busy`] if there is no place.
    pub(crate) fn take(&self) -> Result<Turn<'_>, Refusal> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(self);
        match before < self.max {
            true => Ok(turn),
            false => Err(Refusal::Busy),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
