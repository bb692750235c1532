//! What bounds the cost of a match.
//!
//! At each level a topic can follow a trie node to its literal child and to its `+` child, so the number of nodes it
//! stands on could double per level: with filters like `a/+/a/+` and `+/a/+/a` in all mixtures, 17 levels reach 130,000
//! nodes. But of all nodes at one depth that a topic can stand on, no two have their `+` at the same places: where both
//! have a literal level, it is the topic's. So the number of different placements of `+` among the filters, their
//! *shapes*, bounds the nodes per level, exactly; and that is what is limited. Real deployments have a few dozen.

use std::collections::HashMap;

/// Filters with at most this many `+`, all of them in the first [`LEVELS_FREE`] levels, are always taken. They are 137
/// shapes, so that nobody who fills the table with odd ones keeps ordinary filters out.
const PLUS_FREE: u32 = 2;
const LEVELS_FREE: u32 = 16;

/// A bit per level that is `+`, lowest first. Where the filter ends does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape(u128);

impl Shape {
    /// Of a filter with at most 128 levels.
    pub(super) fn of(filter: &str) -> Self {
        let bit = |(at, level)| if level == "+" { 1_u128 << at } else { 0 };
        Self(
            filter
                .split('/')
                .enumerate()
                .map(bit)
                .fold(0, |all, one| all | one),
        )
    }

    /// Whether filters of this shape are always taken.
    const fn is_free(self) -> bool {
        self.0.count_ones() <= PLUS_FREE && self.0 >> LEVELS_FREE == 0
    }
}

/// How many filters have each shape.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    counts: HashMap<Shape, u32>,
    /// Shapes that count against the limit.
    limited: usize,
}

impl Shapes {
    /// Whether a filter of this shape may come in when `max` shapes are allowed.
    pub(super) fn admits(&self, shape: Shape, max: usize) -> bool {
        shape.is_free() || self.limited < max || self.counts.contains_key(&shape)
    }

    pub(super) fn add(&mut self, shape: Shape) {
        let count = self.counts.entry(shape).or_insert(0);
        *count += 1;
        if *count == 1 && !shape.is_free() {
            self.limited += 1;
        }
    }

    pub(super) fn remove(&mut self, shape: Shape) {
        let Some(count) = self.counts.get_mut(&shape) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&shape);
            if !shape.is_free() {
                self.limited -= 1;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }
}
