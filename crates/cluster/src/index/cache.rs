//! Commands that were read from disk lately: sessions that come back at the same time read the same ones.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashbrown::HashMap;

/// Commands kept, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Commands by log index; the oldest to come is the first to go.
#[derive(Default)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    commands: HashMap<u64, Bytes, foldhash::fast::RandomState>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl Cache {
    pub(super) fn get(&self, index: u64) -> Option<Bytes> {
        self.lock().commands.get(&index).cloned()
    }

    pub(super) fn put(&self, index: u64, command: &Bytes) {
        let mut inner = self.lock();
        if command.len() > CACHE_BYTES / 8 {
            return;
        }
        // A copy: the command is a slice of all that was read at once.
        let command = Bytes::copy_from_slice(command);
        inner.bytes += command.len();
        if let Some(before) = inner.commands.insert(index, command) {
            inner.bytes -= before.len();
        } else {
            inner.order.push_back(index);
        }
        while inner.bytes > CACHE_BYTES {
            let Some(oldest) = inner.order.pop_front() else {
                break;
            };
            if let Some(gone) = inner.commands.remove(&oldest) {
                inner.bytes -= gone.len();
            }
        }
    }

    /// What is cached is of a log that a snapshot replaced.
    pub(super) fn clear(&self) {
        *self.lock() = Inner::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
