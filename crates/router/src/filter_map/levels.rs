//! Topic levels as numbers: each level text is kept once, however many filters have it.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::index::Index;
use crate::short_text::ShortText;
use crate::slots::Slots;

#[derive(Clone, Debug)]
pub(super) struct Levels {
    index: Index,
    levels: Slots<Level>,
    hasher: RandomState,
}

#[derive(Clone, Debug)]
struct Level {
    text: ShortText,
    /// Trie nodes that stand for this level.
    uses: u32,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self {
            index: Index::new(),
            levels: Slots::new(),
            hasher: RandomState::default(),
        }
    }

    /// # Panics
    /// When the number is not acquired.
    pub(super) fn text(&self, slot: u32) -> &[u8] {
        let level = self.levels.get(slot).expect("nodes name acquired levels");
        level.text.as_bytes()
    }

    pub(super) fn hash(&self, text: &[u8]) -> u64 {
        self.hasher.hash_one(text)
    }

    /// The number of `text`, which is counted as used once more.
    pub(super) fn acquire(&mut self, text: &str) -> u32 {
        let hash = self.hash(text.as_bytes());
        if let Some(slot) = self.find_hashed(hash, text) {
            self.levels
                .get_mut(slot)
                .expect("the index names filled slots")
                .uses += 1;
            return slot;
        }
        let slot = self.levels.insert(Level {
            text: ShortText::new(text),
            uses: 1,
        });
        self.index.insert(hash, slot);
        slot
    }

    /// Takes back one [`acquire`](Self::acquire).
    pub(super) fn release(&mut self, slot: u32) {
        let level = self
            .levels
            .get_mut(slot)
            .expect("released as often as acquired");
        level.uses -= 1;
        if level.uses == 0 {
            let level = self.levels.remove(slot).expect("it was there above");
            self.index.remove(self.hash(level.text.as_bytes()), slot);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.levels.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let texts: usize = self
            .levels
            .iter()
            .map(|(_, level)| level.text.heap_bytes())
            .sum();
        texts + self.levels.table_bytes() + self.index.table_bytes()
    }

    fn find_hashed(&self, hash: u64, text: &str) -> Option<u32> {
        let is_it = |slot| {
            self.levels
                .get(slot)
                .is_some_and(|level| level.text.as_bytes() == text.as_bytes())
        };
        self.index.find(hash, is_it)
    }
}
