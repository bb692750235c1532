//! A store in memory that can lose what was not flushed, for simulations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Batch, KeyValue, Tree};
use crate::error::Error;

type Content = BTreeMap<Bytes, Bytes>;

/// A store in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    trees: BTreeMap<String, Content>,
    /// As of the last flush.
    durable: BTreeMap<String, Content>,
    /// What happened since, in order.
    since: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Create(String),
    Apply(String, Batch),
    Drop(String),
}

impl MemoryStore {
    /// The store as found after a loss of power now: the state of the last flush and the first
    /// `kept` changes since (all, if there are fewer). The old handles see it, too.
    pub fn power_loss(&self, kept: usize) {
        let mut inner = self.lock();
        let mut trees = inner.durable.clone();
        let since = std::mem::take(&mut inner.since);
        for change in since.into_iter().take(kept) {
            change.apply(&mut trees);
        }
        inner.durable = trees.clone();
        inner.trees = trees;
    }

    /// How many changes a loss of power could take.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.lock().since.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.trees);
        self.since.push(change);
    }
}

impl Change {
    fn apply(&self, trees: &mut BTreeMap<String, Content>) {
        match self {
            Self::Create(name) => {
                trees.entry(name.clone()).or_default();
            }
            Self::Drop(name) => {
                trees.remove(name);
            }
            Self::Apply(name, batch) => {
                let tree = trees.entry(name.clone()).or_default();
                for (key, value) in &batch.changes {
                    match value {
                        Some(value) => tree.insert(key.clone(), value.clone()),
                        None => tree.remove(key),
                    };
                }
            }
        }
    }
}

impl KeyValue for MemoryStore {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        let mut inner = self.lock();
        if !inner.trees.contains_key(name) {
            inner.change(Change::Create(name.to_owned()));
        }
        Ok(Arc::new(MemoryTree {
            store: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn tree_names(&self) -> Vec<String> {
        self.lock().trees.keys().cloned().collect()
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        self.lock().change(Change::Drop(name.to_owned()));
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for change in inner.since.drain(..) {
            change.apply(&mut inner.durable);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryTree {
    store: MemoryStore,
    name: String,
}

impl Tree for MemoryTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let inner = self.store.lock();
        Ok(inner
            .trees
            .get(&self.name)
            .and_then(|tree| tree.get(key).cloned()))
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        // Copied out (payloads are shared), so that `each` may use the store.
        let content = self.store.lock().trees.get(&self.name).cloned();
        let content = content.unwrap_or_default();
        let start = Bound::Included(prefix.max(from));
        for (key, value) in content.range::<[u8], _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) || !each(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        let change = Change::Apply(self.name.clone(), batch);
        self.store.lock().change(change);
        Ok(())
    }
}
