//! A table of items under small stable numbers, which are given again after a removal.
//!
//! Items lie in pages, so that a table of ten million neither stops the world to move nor holds twice its size.

/// Items per page; a power of two.
const PAGE: usize = 4096;

#[derive(Clone, Debug)]
pub(crate) struct Slots<T> {
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    /// Slots ever used: the next new number.
    used: u32,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            used: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// One more than the highest number ever given.
    pub(crate) const fn end(&self) -> u32 {
        self.used
    }

    /// # Panics
    /// When 2^32 - 1 items are in it: the tables above have lower limits.
    pub(crate) fn insert(&mut self, item: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            let (page, place) = split(slot);
            self.pages[page][place] = Some(item);
            return slot;
        }
        let slot = self.used;
        assert!(slot < u32::MAX, "the limits keep tables smaller than this");
        let (page, _) = split(slot);
        if page == self.pages.len() {
            // The first page grows as needed: most tables are small.
            self.pages.push(if page == 0 {
                Vec::new()
            } else {
                Vec::with_capacity(PAGE)
            });
        }
        self.pages[page].push(Some(item));
        self.used += 1;
        slot
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let (page, place) = split(slot);
        self.pages.get(page)?.get(place)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let (page, place) = split(slot);
        self.pages.get_mut(page)?.get_mut(place)?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let (page, place) = split(slot);
        let item = self.pages.get_mut(page)?.get_mut(place)?.take()?;
        self.free.push(slot);
        if self.free.len() == self.used as usize {
            *self = Self::new();
        }
        Some(item)
    }

    /// All items in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.used)
            .zip(self.pages.iter().flatten())
            .filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    /// Memory of the table itself, not of what its items own.
    pub(crate) fn table_bytes(&self) -> usize {
        let slots: usize = self.pages.iter().map(Vec::capacity).sum();
        slots * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }
}

const fn split(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE, slot as usize % PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_given_again() {
        let mut slots = Slots::new();
        for number in 0..10_000_u32 {
            assert_eq!(slots.insert(number), number);
        }
        assert_eq!(slots.remove(5000), Some(5000));
        assert_eq!(slots.remove(5000), None);
        assert_eq!(slots.get(5000), None);
        assert_eq!(slots.get(5001), Some(&5001));
        assert_eq!(slots.len(), 9999);
        assert_eq!(slots.insert(7), 5000);
        assert_eq!(slots.iter().count(), 10_000);
        assert_eq!(slots.get(10_000), None);
    }
}
