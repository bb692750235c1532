//! Log entries, or records of them, that readers of the log pass over: repeats, batches out of turn, refused publishes.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::answer::{put_ordinals, read_ordinals};
use super::{Changed, table};
use crate::DecodeError;
use crate::wire::read_u64;

/// What to pass over at a log index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip<'a> {
    /// Nothing.
    Nothing,
    /// The whole entry.
    Whole,
    /// The records with these ordinals.
    Records(&'a [u32]),
}

/// By log index; an empty list means the whole entry. Rare: retries across a change of leaders, and fenced publishers.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    by_index: BTreeMap<u64, Vec<u32>>,
    /// What is before this index is forgotten.
    from: u64,
}

impl Skipped {
    pub(super) const fn from(&self) -> u64 {
        self.from
    }

    pub(super) fn at(&self, index: u64) -> Skip<'_> {
        if self.by_index.is_empty() {
            return Skip::Nothing;
        }
        match self.by_index.get(&index) {
            None => Skip::Nothing,
            Some(ordinals) if ordinals.is_empty() => Skip::Whole,
            Some(ordinals) => Skip::Records(ordinals),
        }
    }

    pub(super) fn whole(&mut self, index: u64, changed: &mut Changed) {
        self.records(index, Vec::new(), changed);
    }

    pub(super) fn records(&mut self, index: u64, ordinals: Vec<u32>, changed: &mut Changed) {
        changed.insert(key(index));
        self.by_index.insert(index, ordinals);
    }

    pub(super) fn forget(&mut self, below: u64, changed: &mut Changed) {
        if below <= self.from {
            return;
        }
        self.from = below;
        changed.insert(vec![table::SKIPPED]);
        let kept = self.by_index.split_off(&below);
        changed.extend(
            std::mem::replace(&mut self.by_index, kept)
                .into_keys()
                .map(key),
        );
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let from = (self.from > 0).then(|| vec![table::SKIPPED]);
        self.by_index.keys().map(|index| key(*index)).chain(from)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        if key.is_empty() {
            return Some(self.from.to_le_bytes().to_vec());
        }
        let ordinals = self
            .by_index
            .get(&u64::from_le_bytes(key.try_into().ok()?))?;
        let mut out = Vec::new();
        put_ordinals(&mut out, ordinals);
        Some(out)
    }

    pub(super) fn load(&mut self, mut key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        if key.is_empty() {
            self.from = read_u64(&mut value, "log index")?;
            return Ok(());
        }
        let index = read_u64(&mut key, "log index")?;
        self.by_index.insert(index, read_ordinals(&mut value)?);
        Ok(())
    }
}

fn key(index: u64) -> Vec<u8> {
    let mut key = vec![table::SKIPPED];
    key.put_u64_le(index);
    key
}
