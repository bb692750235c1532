//! The store for applied state: named trees of bytes to bytes.
//!
//! Between two flushes nothing is promised but order: after a crash, the batches of a tree up to
//! some point since the last flush are there, each wholly or not at all.

mod memory;
mod sled_store;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;

pub use memory::MemoryStore;
pub use sled_store::SledStore;

/// A store of named trees.
pub trait KeyValue: Send + Sync + 'static {
    /// Opens a tree, or creates it empty.
    ///
    /// # Errors
    /// [`Error::KeyValue`].
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error>;

    /// The names of the trees, in order.
    fn tree_names(&self) -> Vec<String>;

    /// Drops a tree with its content; no error if there is none.
    ///
    /// # Errors
    /// [`Error::KeyValue`].
    fn drop_tree(&self, name: &str) -> Result<(), Error>;

    /// Returns when everything applied so far survives a loss of power. Blocks, up to seconds.
    ///
    /// # Errors
    /// [`Error::KeyValue`], [`Error::Io`]: what is durable is then unknown.
    fn flush(&self) -> Result<(), Error>;
}

/// One tree, ordered by key.
pub trait Tree: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::KeyValue`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Calls `each` with the keys that start with `prefix` and are not below `from`, in order, until
    /// it returns false.
    ///
    /// # Errors
    /// [`Error::KeyValue`].
    fn scan_prefix(
        &self,
        prefix: &[u8],
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error>;

    /// Applies all of a batch in one step.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`Batch::KEYS_MAX`] keys or with a value beyond
    /// [`Batch::VALUE_BYTES_MAX`]; [`Error::KeyValue`].
    fn apply(&self, batch: Batch) -> Result<(), Error>;
}

/// Changes that take effect together. The last one of a key counts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// The most keys of a batch: a bigger one holds up readers for too long.
    pub const KEYS_MAX: usize = 512;
    /// The longest value in bytes; longer ones are for the caller to split. sled would keep bigger
    /// nodes in files of their own, which it does not make durable.
    pub const VALUE_BYTES_MAX: usize = 64 << 10;

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Deletes a key; no effect if it does not exist.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push((key.into(), None));
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are no changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn check(&self) -> Result<(), Error> {
        let longest = self.changes.iter().filter_map(|(_, v)| v.as_ref());
        let longest = longest.map(Bytes::len).max().unwrap_or(0);
        for (size, size_max) in [
            (self.changes.len(), Self::KEYS_MAX),
            (longest, Self::VALUE_BYTES_MAX),
        ] {
            if size > size_max {
                return Err(Error::TooLarge {
                    bytes: size as u64,
                    bytes_max: size_max as u64,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
