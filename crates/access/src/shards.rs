//! A map in pieces that are shared with whoever took a copy, so that a copy costs next to nothing and a change copies one piece.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// Enough that a million entries make pieces of some thousands.
const SHARDS: usize = 256;

/// A map of many entries. Which piece an entry is in is nobody's business, and not kept.
#[derive(Debug, Clone)]
pub(crate) struct Shards<K, V> {
    shards: Arc<[Arc<BTreeMap<K, V>>]>,
    len: usize,
}

impl<K: Ord + Hash + Clone, V: Clone> Shards<K, V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.shards[shard_of(key)].get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.shard_mut(shard_of(&key)).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove<Q: Ord + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        // Nothing is copied for what is not there.
        self.get(key)?;
        let removed = self.shard_mut(shard_of(key)).remove(key);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The first entries behind `after`, in order, at most `limit`.
    pub(crate) fn page(&self, after: Option<&K>, limit: usize) -> Vec<(&K, &V)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        // Each piece is in order: only their next keys are compared.
        let mut pieces: Vec<_> = self
            .shards
            .iter()
            .map(|shard| BTreeMap::range(&**shard, (from, Bound::Unbounded)).peekable())
            .collect();
        let firsts = pieces.iter_mut().enumerate();
        let mut next: BinaryHeap<Reverse<(&K, usize)>> = firsts
            .filter_map(|(at, piece)| piece.peek().map(|(key, _)| Reverse((*key, at))))
            .collect();
        let mut page = Vec::new();
        while page.len() < limit
            && let Some(Reverse((_, at))) = next.pop()
        {
            page.extend(pieces[at].next());
            next.extend(pieces[at].peek().map(|(key, _)| Reverse((*key, at))));
        }
        page
    }

    fn shard_mut(&mut self, at: usize) -> &mut BTreeMap<K, V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[at])
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            len: 0,
        }
    }
}

fn shard_of(key: &(impl Hash + ?Sized)) -> usize {
    let hash = FixedState::with_seed(0).hash_one(key);
    usize::try_from(hash >> 56).expect("eight bits fit") % SHARDS
}
