//! What a replica has on disk, record by record: its part of the log, and the rows of its checkpoint. Everything here may block.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use bytes::Bytes;
use magpie_state::{Position, StateMachine};

use super::checkpoint::Rows;
use super::entry;
use super::log_store::LogStore;

/// Reads a replica's log and the rows of its last checkpoint. Cheap to make, and to be made anew for each use: a snapshot replaces the rows.
pub struct Stored {
    pub(super) store: LogStore,
    pub(super) rows: Rows,
}

/// A row's key and value.
pub type StoredRow = (Vec<u8>, Bytes);

impl Stored {
    /// The indexes that the log has, applied or not.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.store.range()
    }

    /// Whether reading the command at `index` needs the disk. If it does not, neither do those behind it.
    #[must_use]
    pub fn needs_disk(&self, index: u64) -> bool {
        self.store.needs_disk(index..index + 1)
    }

    /// The commands of `range` as far as the log has them, about `bytes_max` bytes of them. Only what is applied is for good.
    ///
    /// # Errors
    /// The log's, when an entry cannot be read back.
    pub fn commands(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<(u64, Bytes)>> {
        let entries = self.store.read_blocking(range, bytes_max)?.into_iter();
        let commands = entries.filter(|entry| entry::is_command(entry.term));
        Ok(commands.map(|entry| (entry.index, entry.payload)).collect())
    }

    /// The value of a row, as the last checkpoint has it.
    ///
    /// # Errors
    /// The store's.
    pub fn row(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.rows.row(key)
    }

    /// The rows whose key begins with `prefix`, after the key `after`: about `bytes_max` bytes of them, at least one if there is one.
    ///
    /// # Errors
    /// The store's.
    pub fn rows_after(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredRow>> {
        self.rows.after(prefix, after, bytes_max)
    }
}

/// Reads records back for the rows that are copies of them, best in log order.
pub(super) struct ReadBack<M> {
    store: LogStore,
    last: Option<(u64, Bytes)>,
    machine: PhantomData<M>,
}

impl<M: StateMachine> ReadBack<M> {
    pub(super) const fn new(store: LogStore) -> Self {
        Self {
            store,
            last: None,
            machine: PhantomData,
        }
    }

    /// The record at a position. `None` if there is none, which only a bug can bring about: it was never there, or the log was purged before
    /// the copy was made. To stop for that would stop every replica, and bring nothing back.
    pub(super) fn record(&mut self, position: Position) -> io::Result<Option<Bytes>> {
        let index = position.index();
        if self.last.as_ref().is_none_or(|(at, _)| *at != index) {
            let entries = self.store.read_blocking(index..index + 1, 1)?.into_iter();
            let mut commands = entries.filter(|entry| entry::is_command(entry.term));
            self.last = commands.next().map(|entry| (index, entry.payload));
        }
        let command = self.last.as_ref().filter(|(at, _)| *at == index);
        let record = command.and_then(|(_, command)| M::extract(command, position.ordinal()));
        if record.is_none() {
            tracing::error!(%position, "a message that is to be kept is not in the log");
        }
        Ok(record)
    }
}
