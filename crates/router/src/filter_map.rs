//! A map from topic filters to anything, which can be asked by topic.
//!
//! Filters without a wildcard are found by one look into a hash index; those with one by a walk through a trie. What a
//! match costs depends on the topic's levels and on how differently filters place their `+`, not on their number.

mod levels;
mod shapes;
#[cfg(test)]
mod tests;
mod trie;

use std::hash::BuildHasher;
use std::ops::ControlFlow;

use foldhash::fast::RandomState;
use magpie_codec::{TopicFilter, TopicName};

use crate::Error;
use crate::index::Index;
use crate::short_text::ShortText;
use crate::slots::Slots;
use shapes::{Shape, Shapes};
use trie::Trie;

/// Topic filter -> `V`.
///
/// The key is [`TopicFilter::filter`]: the share name of a shared subscription is not part of it.
/// All orders that can be seen (of iteration, of matches) follow from the order of the calls alone.
#[derive(Clone, Debug)]
pub struct FilterMap<V> {
    entries: Slots<Entry<V>>,
    /// The entries without a wildcard, by the hash of their text.
    exact: Index,
    hasher: RandomState,
    /// The entries with a wildcard.
    trie: Trie,
    shapes: Shapes,
    limits: Limits,
}

/// The number of a filter in its [`FilterMap`], valid until the filter is removed; then another filter may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(u32);

/// How much a [`FilterMap`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Filters in the map. Default 2^30, which is also the most.
    pub filters_max: usize,
    /// Levels of one filter. Default 128, which is also the most.
    pub levels_max: usize,
    /// Different placements of `+` among the filters, beside those with one or two `+` in the first 16 levels, which are
    /// always taken: these 137 and the others together bound what a match costs, in trie nodes per topic level.
    /// Default 256.
    pub shapes_max: usize,
}

#[derive(Clone, Debug)]
struct Entry<V> {
    text: ShortText,
    value: V,
}

impl<V> FilterMap<V> {
    /// An empty map with the default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty map.
    pub fn with_limits(limits: Limits) -> Self {
        let most = Limits::default();
        Self {
            entries: Slots::new(),
            exact: Index::new(),
            hasher: RandomState::default(),
            trie: Trie::new(),
            shapes: Shapes::default(),
            limits: Limits {
                filters_max: limits.filters_max.min(most.filters_max),
                levels_max: limits.levels_max.min(most.levels_max),
                ..limits
            },
        }
    }

    /// Sets the value of a filter and gives the previous one.
    ///
    /// # Errors
    /// When the filter is new and a limit is reached.
    pub fn insert(&mut self, filter: &TopicFilter, value: V) -> Result<Option<V>, Error> {
        if let Some(present) = self.get_mut(filter) {
            return Ok(Some(std::mem::replace(present, value)));
        }
        self.add(filter, value)?;
        Ok(None)
    }

    /// The value of a filter, made by `make` if the filter is new.
    ///
    /// # Errors
    /// When the filter is new and a limit is reached.
    pub fn get_or_insert_with(
        &mut self,
        filter: &TopicFilter,
        make: impl FnOnce() -> V,
    ) -> Result<(FilterId, &mut V), Error> {
        let id = match self.id_of(filter) {
            Some(id) => id,
            None => self.add(filter, make())?,
        };
        let value = self.value_mut(id).expect("it was found or added above");
        Ok((id, value))
    }

    /// The value of exactly this filter.
    pub fn get(&self, filter: &TopicFilter) -> Option<&V> {
        self.value(self.id_of(filter)?)
    }

    /// The value of exactly this filter.
    pub fn get_mut(&mut self, filter: &TopicFilter) -> Option<&mut V> {
        self.value_mut(self.id_of(filter)?)
    }

    /// Removes exactly this filter.
    pub fn remove(&mut self, filter: &TopicFilter) -> Option<V> {
        self.remove_id(self.id_of(filter)?)
    }

    /// The number of exactly this filter.
    pub fn id_of(&self, filter: &TopicFilter) -> Option<FilterId> {
        let text = filter.filter();
        let slot = if filter.is_exact() {
            self.find_exact(text)
        } else {
            self.trie.find(text)
        };
        slot.map(FilterId)
    }

    /// The text of a filter, without a share name.
    pub fn filter(&self, id: FilterId) -> Option<&str> {
        Some(self.entries.get(id.0)?.text.as_str())
    }

    /// The value of a filter by its number.
    pub fn value(&self, id: FilterId) -> Option<&V> {
        Some(&self.entries.get(id.0)?.value)
    }

    /// The value of a filter by its number.
    pub fn value_mut(&mut self, id: FilterId) -> Option<&mut V> {
        Some(&mut self.entries.get_mut(id.0)?.value)
    }

    /// Removes a filter by its number.
    pub fn remove_id(&mut self, id: FilterId) -> Option<V> {
        let Entry { text, value } = self.entries.remove(id.0)?;
        let text = text.as_str();
        if is_exact(text) {
            self.exact.remove(self.hasher.hash_one(text), id.0);
        } else {
            self.trie.remove(text);
            self.shapes.remove(Shape::of(text));
        }
        Some(value)
    }

    /// Calls `f` once with every filter that matches the topic (section 4.7).
    pub fn for_each_match<'a>(&'a self, topic: &TopicName, mut f: impl FnMut(FilterId, &'a V)) {
        // Never breaks.
        let _ = self.walk_matches(topic.as_str(), |id| {
            f(
                FilterId(id),
                &self
                    .entries
                    .get(id)
                    .expect("the indexes name filled slots")
                    .value,
            );
            ControlFlow::Continue(())
        });
    }

    /// Whether any filter matches the topic.
    pub fn any_match(&self, topic: &TopicName) -> bool {
        self.walk_matches(topic.as_str(), |_| ControlFlow::Break(()))
            .is_break()
    }

    /// How many filters there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All filters with their values, ordered by number.
    pub fn iter(&self) -> impl Iterator<Item = (FilterId, &str, &V)> {
        self.entries
            .iter()
            .map(|(slot, entry)| (FilterId(slot), entry.text.as_str(), &entry.value))
    }

    /// All numbers ever given lie below this one: for walks over the map in portions, with [`id_at`](Self::id_at).
    pub fn id_end(&self) -> u32 {
        self.entries.end()
    }

    /// The filter with this number, if there is one.
    pub fn id_at(&self, number: u32) -> Option<FilterId> {
        self.entries.get(number).map(|_| FilterId(number))
    }

    /// Different placements of `+` among the filters: what the cost of a match can grow with.
    pub fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// Bytes allocated by the map, without what values own. Walks the whole map: for tests and benches.
    pub fn heap_bytes(&self) -> usize {
        let texts: usize = self
            .entries
            .iter()
            .map(|(_, entry)| entry.text.heap_bytes())
            .sum();
        texts + self.entries.table_bytes() + self.exact.table_bytes() + self.trie.heap_bytes()
    }

    /// Adds a filter that is not in the map.
    fn add(&mut self, filter: &TopicFilter, value: V) -> Result<FilterId, Error> {
        let text = filter.filter();
        let levels = 1 + text.bytes().filter(|byte| *byte == b'/').count();
        if levels > self.limits.levels_max {
            return Err(Error::TooManyLevels);
        }
        if self.len() >= self.limits.filters_max || !self.trie.has_room(levels) {
            return Err(Error::TooManyFilters);
        }
        let shape = (!filter.is_exact()).then(|| Shape::of(text));
        if shape.is_some_and(|shape| !self.shapes.admits(shape, self.limits.shapes_max)) {
            return Err(Error::TooManyShapes);
        }
        let slot = self.entries.insert(Entry {
            text: ShortText::new(text),
            value,
        });
        if let Some(shape) = shape {
            self.shapes.add(shape);
            self.trie.insert(text, slot);
        } else {
            self.exact.insert(self.hasher.hash_one(text), slot);
        }
        Ok(FilterId(slot))
    }

    fn find_exact(&self, text: &str) -> Option<u32> {
        let is_it = |slot| {
            self.entries
                .get(slot)
                .is_some_and(|entry| entry.text.as_bytes() == text.as_bytes())
        };
        self.exact.find(self.hasher.hash_one(text), is_it)
    }

    fn walk_matches(
        &self,
        topic: &str,
        mut f: impl FnMut(u32) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(id) = self.find_exact(topic) {
            f(id)?;
        }
        self.trie.for_each_match(topic, f)
    }
}

impl<V> Default for FilterMap<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            filters_max: 1 << 30,
            levels_max: 128,
            shapes_max: 256,
        }
    }
}

impl FilterId {
    /// For tables that keep numbers in their own form.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// In a valid filter, these characters occur as wildcards only.
fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}
