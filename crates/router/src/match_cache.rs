//! What a task found for the topics it meets again and again.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use magpie_codec::TopicName;

/// Topic -> what was found for it, as long as the generation of the table it was found in stays.
///
/// Bounded in entries and bytes. There are two halves, a young and an old one; what is asked for is in the young half or
/// moves there, and when the young half is full, the old one is dropped and the young one becomes it. So a burst of
/// topics that come once passes through, and what is in use stays. An unused cache owns no memory.
#[derive(Debug)]
pub struct MatchCache<T> {
    young: Half<T>,
    old: Half<T>,
    generation: u64,
    limits: CacheLimits,
}

/// How much a [`MatchCache`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Topics. Default 1024.
    pub entries_max: usize,
    /// Bytes of topics, values as their makers weigh them, and [`ENTRY_BYTES`] for each. Default 256 KiB. What weighs more
    /// than half of it is not kept.
    pub bytes_max: usize,
}

/// What an entry costs beside topic and value.
pub const ENTRY_BYTES: usize = 64;

#[derive(Debug)]
struct Half<T> {
    entries: HashMap<Box<str>, Kept<T>, RandomState>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept<T> {
    found: Arc<T>,
    bytes: usize,
}

impl<T> MatchCache<T> {
    /// An empty cache.
    pub fn new(limits: CacheLimits) -> Self {
        Self {
            young: Half::default(),
            old: Half::default(),
            generation: 0,
            limits,
        }
    }

    /// What was found for a topic at this `generation` of the table, or what `find` finds now. `find` also weighs it:
    /// the bytes that the value owns.
    pub fn get_or_find(
        &mut self,
        topic: &TopicName,
        generation: u64,
        find: impl FnOnce() -> (T, usize),
    ) -> Arc<T> {
        if generation != self.generation {
            self.clear();
            self.generation = generation;
        }
        let topic = topic.as_str();
        if let Some(kept) = self.young.entries.get(topic) {
            return Arc::clone(&kept.found);
        }
        if let Some((topic, kept)) = self.old.take(topic) {
            let found = Arc::clone(&kept.found);
            self.keep(topic, kept);
            return found;
        }
        let (found, bytes) = find();
        let found = Arc::new(found);
        let kept = Kept {
            found: Arc::clone(&found),
            bytes: bytes.saturating_add(topic.len() + ENTRY_BYTES),
        };
        if kept.bytes <= self.limits.bytes_max / 2 {
            self.keep(topic.into(), kept);
        }
        found
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.young = Half::default();
        self.old = Half::default();
    }

    /// Topics in the cache.
    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    /// Whether nothing is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight of all that is in the cache, as [`CacheLimits::bytes_max`] counts it.
    pub const fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// Puts what is not in the young half into it.
    fn keep(&mut self, topic: Box<str>, kept: Kept<T>) {
        let CacheLimits {
            entries_max,
            bytes_max,
        } = self.limits;
        if self.young.entries.len() + 1 > entries_max / 2
            || self.young.bytes + kept.bytes > bytes_max / 2
        {
            self.old = std::mem::take(&mut self.young);
        }
        if entries_max >= 2 {
            self.young.bytes += kept.bytes;
            self.young.entries.insert(topic, kept);
        }
    }
}

impl<T> Half<T> {
    fn take(&mut self, topic: &str) -> Option<(Box<str>, Kept<T>)> {
        let (topic, kept) = self.entries.remove_entry(topic)?;
        self.bytes -= kept.bytes;
        Some((topic, kept))
    }
}

impl<T> Default for Half<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::default(),
            bytes: 0,
        }
    }
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            entries_max: 1024,
            bytes_max: 256 << 10,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn topic(number: usize) -> TopicName {
        TopicName::try_from(format!("topic/{number}")).unwrap()
    }

    #[test]
    fn finds_once_per_generation() {
        let mut cache = MatchCache::new(CacheLimits::default());
        let mut finds = 0;
        for generation in [1, 1, 2, 2, 1] {
            let found = cache.get_or_find(&topic(0), generation, || {
                finds += 1;
                (generation, 8)
            });
            assert_eq!(*found, generation);
        }
        assert_eq!(finds, 3);
    }

    #[test]
    fn stays_within_its_limits() {
        let limits = CacheLimits {
            entries_max: 100,
            bytes_max: 10_000,
        };
        let mut cache = MatchCache::new(limits);
        for number in 0..1000 {
            cache.get_or_find(&topic(number), 1, || (number, number % 300));
            assert!(cache.len() <= limits.entries_max && cache.bytes() <= limits.bytes_max);
            // Asked for again and again, it stays.
            cache.get_or_find(&topic(0), 1, || {
                assert_eq!(number, 0);
                (0, 0)
            });
        }
        let weight = cache.bytes();
        cache.get_or_find(&topic(5000), 1, || (0, 6000));
        assert_eq!(cache.bytes(), weight, "too heavy to be kept");
        cache.clear();
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn may_be_turned_off() {
        let limits = CacheLimits {
            entries_max: 0,
            bytes_max: 0,
        };
        let mut cache = MatchCache::new(limits);
        assert_eq!(*cache.get_or_find(&topic(0), 1, || (7, 0)), 7);
        assert!(cache.is_empty());
    }
}
