//! From a hash to a slot number: the only thing that grows with the filters and must be searched.
//!
//! The index keeps 32 bits of the hash beside the number, so it neither reads the items to grow nor, in nearly all
//! cases, to find that something is absent. When it is large it is split, because growing one table of ten million would
//! hold every message for a good part of a second.

use hashbrown::HashTable;

const SHARDS: usize = 64;
/// An index of more slots than this is split.
const UNSPLIT_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// None until the first insert, then one, and [`SHARDS`] from [`UNSPLIT_MAX`] on.
    shards: Vec<HashTable<Tagged>>,
}

#[derive(Clone, Copy, Debug)]
struct Tagged {
    tag: u32,
    slot: u32,
}

impl Index {
    pub(crate) const fn new() -> Self {
        Self { shards: Vec::new() }
    }

    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        let shard = self.shards.get(self.shard_of(tag))?;
        let found = shard.find(spread(tag), |it| it.tag == tag && is_it(it.slot))?;
        Some(found.slot)
    }

    /// Adds a slot that is not in the index.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) {
        match self.shards.len() {
            0 => self.shards.push(HashTable::new()),
            1 if self.shards[0].len() >= UNSPLIT_MAX => self.split(),
            _ => {}
        }
        self.insert_tagged(Tagged {
            tag: tag_of(hash),
            slot,
        });
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        let tag = tag_of(hash);
        let shard = self.shard_of(tag);
        let Some(shard) = self.shards.get_mut(shard) else {
            return;
        };
        if let Ok(found) = shard.find_entry(spread(tag), |it| it.slot == slot) {
            found.remove();
        }
        // A table that was large once gives its memory back.
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to(shard.len() * 2, |it| spread(it.tag));
        }
    }

    pub(crate) fn table_bytes(&self) -> usize {
        let tables: usize = self.shards.iter().map(HashTable::allocation_size).sum();
        tables + self.shards.capacity() * size_of::<HashTable<Tagged>>()
    }

    fn split(&mut self) {
        let all = std::mem::take(&mut self.shards);
        self.shards.resize_with(SHARDS, HashTable::new);
        for tagged in all.into_iter().flatten() {
            self.insert_tagged(tagged);
        }
    }

    fn insert_tagged(&mut self, tagged: Tagged) {
        let shard = self.shard_of(tagged.tag);
        self.shards[shard].insert_unique(spread(tagged.tag), tagged, |it| spread(it.tag));
    }

    /// The number of shards is a power of two, or none.
    const fn shard_of(&self, tag: u32) -> usize {
        tag as usize & self.shards.len().wrapping_sub(1)
    }
}

const fn tag_of(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// A full hash made of the tag again. `HashTable` takes a place from the low bits and a mark from the high ones. The low
/// six of the tag are the same for a whole shard and would leave most places empty.
const fn spread(tag: u32) -> u64 {
    ((tag >> SHARDS.trailing_zeros()) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
