//! A table of items under small stable numbers, which are given again after a removal.

use crate::pages::Pages;

#[derive(Clone, Debug)]
pub(crate) struct Slots<T> {
    /// All slots ever used.
    slots: Pages<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Pages::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() as usize - self.free.len()
    }

    /// One more than the highest number ever given.
    pub(crate) const fn end(&self) -> u32 {
        self.slots.len()
    }

    pub(crate) fn insert(&mut self, item: T) -> u32 {
        let Some(slot) = self.free.pop() else {
            return self.slots.push(Some(item));
        };
        self.slots[slot] = Some(item);
        slot
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot)?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let item = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        if self.len() == 0 {
            *self = Self::new();
        }
        Some(item)
    }

    /// All items in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end())
            .zip(self.slots.iter())
            .filter_map(|(slot, item)| Some((slot, item.as_ref()?)))
    }

    /// Memory of the table itself, not of what its items own.
    pub(crate) fn table_bytes(&self) -> usize {
        self.slots.bytes() + self.free.capacity() * size_of::<u32>()
    }
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
