//! Where each entry of a group lies: 20 bytes an entry, in blocks.

use std::collections::VecDeque;

/// Entries per block.
const BLOCK: u64 = 512;

/// Where one entry lies and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// 0 while the entry is not durable yet.
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) payload_bytes: u32,
    // Two halves: a u64 would pad the slot to 24 bytes.
    term: [u32; 2],
}

impl Slot {
    const EMPTY: Self = Self {
        segment: 0,
        offset: 0,
        payload_bytes: u32::MAX,
        term: [0, 0],
    };

    pub(super) fn new(segment: u32, offset: u32, payload_bytes: u32, term: u64) -> Self {
        Self {
            segment,
            offset,
            payload_bytes,
            term: [term as u32, (term >> 32) as u32],
        }
    }

    pub(super) fn pending(payload_bytes: u32, term: u64) -> Self {
        Self::new(0, 0, payload_bytes, term)
    }

    pub(super) fn term(&self) -> u64 {
        u64::from(self.term[0]) | u64::from(self.term[1]) << 32
    }

    fn is_empty(&self) -> bool {
        self.payload_bytes == u32::MAX
    }
}

/// The entries `first..next` of a group. Only while the log is recovered may some be unknown.
#[derive(Debug, Default)]
pub(super) struct Slots {
    blocks: VecDeque<Box<[Slot]>>,
    /// Number of the first block: entry `i` is in block `i / BLOCK`.
    first_block: u64,
    first: u64,
    next: u64,
}

impl Slots {
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == self.next
    }

    pub(super) fn get(&self, index: u64) -> Option<&Slot> {
        if index < self.first || index >= self.next {
            return None;
        }
        let block = self
            .blocks
            .get((index / BLOCK).checked_sub(self.first_block)? as usize)?;
        Some(&block[(index % BLOCK) as usize]).filter(|slot| !slot.is_empty())
    }

    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut Slot> {
        if index < self.first || index >= self.next {
            return None;
        }
        let block = self
            .blocks
            .get_mut((index / BLOCK).checked_sub(self.first_block)? as usize)?;
        Some(&mut block[(index % BLOCK) as usize]).filter(|slot| !slot.is_empty())
    }

    /// Sets an entry at any index, also before the first or beyond the last.
    pub(super) fn insert(&mut self, index: u64, slot: Slot) {
        let number = index / BLOCK;
        if self.is_empty() {
            self.blocks.clear();
            self.first_block = number;
            self.first = index;
            self.next = index;
        }
        while number < self.first_block {
            self.blocks.push_front(empty_block());
            self.first_block -= 1;
        }
        while number >= self.first_block + self.blocks.len() as u64 {
            self.blocks.push_back(empty_block());
        }
        self.blocks[(number - self.first_block) as usize][(index % BLOCK) as usize] = slot;
        self.first = self.first.min(index);
        self.next = self.next.max(index + 1);
    }

    /// Drops entries from `from` on; `gone` sees each that was known.
    pub(super) fn truncate(&mut self, from: u64, mut gone: impl FnMut(&Slot)) {
        for index in from.max(self.first)..self.next {
            if let Some(slot) = self.get_mut(index) {
                gone(slot);
                *slot = Slot::EMPTY;
            }
        }
        if from < self.next {
            self.next = from.max(self.first);
        }
        if self.is_empty() {
            // Nothing left: the next entry is `from` even if the first was above it.
            self.clear_to(from.min(self.next));
        } else {
            let blocks = (self.next - 1) / BLOCK - self.first_block + 1;
            self.blocks.truncate(blocks as usize);
        }
    }

    /// Drops entries up to and including `upto`; `gone` sees each that was known.
    pub(super) fn purge(&mut self, upto: u64, mut gone: impl FnMut(&Slot)) {
        for index in self.first..self.next.min(upto + 1) {
            if let Some(slot) = self.get(index) {
                gone(slot);
            }
        }
        if upto >= self.next || self.is_empty() {
            self.clear_to(self.next.max(upto + 1));
            return;
        }
        self.first = self.first.max(upto + 1);
        if self.is_empty() {
            self.clear_to(self.first);
            return;
        }
        while self.first / BLOCK > self.first_block {
            self.blocks.pop_front();
            self.first_block += 1;
        }
    }

    fn clear_to(&mut self, next: u64) {
        self.blocks.clear();
        self.first_block = next / BLOCK;
        self.first = next;
        self.next = next;
    }
}

fn empty_block() -> Box<[Slot]> {
    vec![Slot::EMPTY; BLOCK as usize].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(range: std::ops::Range<u64>) -> Slots {
        let mut slots = Slots::default();
        for index in range {
            slots.insert(index, Slot::new(1, index as u32, 0, index << 33));
        }
        slots
    }

    #[test]
    fn an_entry_costs_twenty_bytes() {
        assert_eq!(size_of::<Slot>(), 20);
    }

    #[test]
    fn entries_are_found_and_dropped_at_both_ends() {
        let mut slots = filled(1000..5000);
        let mut gone = 0;
        slots.truncate(4000, |_| gone += 1);
        assert_eq!((gone, slots.next()), (1000, 4000));
        slots.purge(1999, |_| gone += 1);
        assert_eq!((gone, slots.first()), (2000, 2000));
        assert_eq!(slots.get(1999), None);
        assert_eq!(slots.get(4000), None);
        assert_eq!(slots.get(2000).map(Slot::term), Some(2000 << 33));
        assert_eq!(slots.blocks.len(), 5);
    }

    #[test]
    fn moved_entries_may_come_in_front_and_leave_a_gap_for_a_while() {
        let mut slots = filled(3000..3010);
        slots.insert(100, Slot::new(2, 0, 0, 1));
        assert_eq!((slots.first(), slots.next()), (100, 3010));
        assert_eq!(slots.get(101), None);
        assert!(slots.get(3000).is_some());
    }

    #[test]
    fn an_emptied_group_continues_where_it_was() {
        let mut slots = filled(10..20);
        slots.truncate(10, |_| {});
        assert_eq!((slots.is_empty(), slots.next()), (true, 10));
        let mut slots = filled(10..20);
        slots.purge(19, |_| {});
        assert_eq!((slots.is_empty(), slots.next()), (true, 20));
        let mut slots = filled(10..20);
        slots.purge(30, |_| {});
        assert_eq!((slots.is_empty(), slots.next()), (true, 31));
    }
}
