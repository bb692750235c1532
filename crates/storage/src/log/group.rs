//! What the log knows about one group, in memory.
//!
//! A change shows here as soon as it is queued; [`Group::landed`] and its like follow when it is
//! durable. Since callers may truncate what is still queued, an append remembers how many
//! truncations came before it, and lands only below those that came after.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::record::record_bytes;
use super::slots::{Slot, Slots};

/// A Raft group of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One entry of a group's log.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the group's log.
    pub index: u64,
    /// The caller's 64 bits per entry, kept in memory: enough to tell the log id of an entry
    /// without reading it.
    pub term: u64,
    /// The content; at most [`Options::payload_bytes_max`](super::Options::payload_bytes_max).
    pub payload: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("index", &self.index)
            .field("term", &self.term)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// How far a group's log was purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// The last entry that is gone.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The caller's note.
    pub note: Bytes,
}

/// Where a record lies that still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// 0 if there is no such record.
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// With header and padding.
    pub(super) bytes: u32,
}

impl Place {
    pub(super) const NONE: Self = Self {
        segment: 0,
        offset: 0,
        bytes: 0,
    };

    pub(super) fn is_some(self) -> bool {
        self.segment != 0
    }
}

/// Bytes per segment that begin or stop to count when an operation is durable.
#[derive(Debug, Default)]
pub(super) struct Counted(pub(super) Vec<(u32, u64)>);

impl Counted {
    pub(super) fn one(place: Place) -> Self {
        let mut counted = Self::default();
        counted.add(place);
        counted
    }

    pub(super) fn add(&mut self, place: Place) {
        let bytes = u64::from(place.bytes);
        match self.0.last_mut() {
            Some((segment, sum)) if *segment == place.segment => *sum += bytes,
            _ if place.is_some() => self.0.push((place.segment, bytes)),
            _ => {}
        }
    }
}

impl Counted {
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Slot {
    /// Nowhere, while the entry is not durable.
    pub(super) fn place(&self) -> Place {
        Place {
            segment: self.segment,
            offset: self.offset,
            bytes: record_bytes(self.payload_bytes as usize) as u32,
        }
    }
}

/// One of the values of a group that a newer one replaces.
#[derive(Debug)]
pub(super) struct Register<T> {
    pub(super) value: Option<T>,
    /// The newest durable record of it, which may hold an older value.
    pub(super) place: Place,
    /// Records of it that wait to become durable.
    queued: u32,
}

impl<T> Register<T> {
    /// Takes a value whose record is queued.
    pub(super) fn set(&mut self, value: T) {
        self.value = Some(value);
        self.queued += 1;
    }

    /// The value, if it is the one that lies in this segment.
    pub(super) fn value_in(&self, segment: u32) -> Option<&T> {
        self.value
            .as_ref()
            .filter(|_| self.queued == 0 && self.place.segment == segment)
    }
}

/// What all registers have.
pub(super) trait Landing {
    /// A newer record counts now; returns the place of the older. `is_copy` if it holds nothing
    /// new.
    fn landed(&mut self, place: Place, is_copy: bool) -> Place;
}

impl<T> Landing for Register<T> {
    fn landed(&mut self, place: Place, is_copy: bool) -> Place {
        if !is_copy {
            self.queued -= 1;
        }
        std::mem::replace(&mut self.place, place)
    }
}

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self {
            value: None,
            place: Place::NONE,
            queued: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct GroupCell {
    pub(super) id: GroupId,
    state: Mutex<Group>,
}

impl GroupCell {
    pub(super) fn new(id: GroupId, group: Group) -> Self {
        Self {
            id,
            state: Mutex::new(group),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Group> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) slots: Slots,
    /// Payloads of the last entries, up to the very last.
    recent: VecDeque<Bytes>,
    /// Entries below are durable.
    durable_next: u64,
    pub(super) vote: Register<Bytes>,
    pub(super) committed: Register<Bytes>,
    pub(super) committed_is_queued: bool,
    pub(super) purged: Register<Purged>,
    /// Truncations so far; those still queued, with the first entry they removed.
    truncations: u64,
    truncations_queued: VecDeque<(u64, u64)>,
    pub(super) is_removed: bool,
}

impl Group {
    /// The only index an append may start with; none if any will do.
    pub(super) fn expected(&self) -> Option<u64> {
        if self.slots.is_empty() {
            return self.purged.value.as_ref().map(|purged| purged.index + 1);
        }
        Some(self.slots.next())
    }

    /// Index and term of the last entry, or of the last purged one.
    pub(super) fn last(&self) -> Option<(u64, u64)> {
        if self.slots.is_empty() {
            return self.purged.value.as_ref().map(|p| (p.index, p.term));
        }
        let index = self.slots.next() - 1;
        self.slots.get(index).map(|slot| (index, slot.term()))
    }

    pub(super) fn truncations(&self) -> u64 {
        self.truncations
    }

    pub(super) fn durable_next(&self) -> u64 {
        self.durable_next
    }

    /// Recovery is over: everything known is durable.
    pub(super) fn all_durable(&mut self) {
        self.durable_next = self.slots.next();
    }

    pub(super) fn append(&mut self, entry: &Entry) {
        let slot = Slot::pending(entry.payload.len() as u32, entry.term);
        if self.slots.is_empty() {
            self.durable_next = entry.index;
        }
        self.slots.insert(entry.index, slot);
        self.recent.push_back(entry.payload.clone());
    }

    /// Entries of one append lie at these segments and offsets now. Returns what counts from now on.
    pub(super) fn landed(
        &mut self,
        first: u64,
        places: &[Place],
        truncations_before: u64,
    ) -> Counted {
        let mut counts = Counted::default();
        if self.is_removed {
            return counts;
        }
        let limit = self
            .truncations_queued
            .iter()
            .filter(|(number, _)| *number > truncations_before)
            .map(|(_, from)| *from)
            .min()
            .unwrap_or(u64::MAX);
        for (index, place) in (first..limit).zip(places) {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.segment = place.segment;
                slot.offset = place.offset;
                counts.add(*place);
            }
        }
        let landed = (first + places.len() as u64).min(limit);
        self.durable_next = self.durable_next.max(landed).min(self.slots.next());
        counts
    }

    pub(super) fn truncate(&mut self, from: u64) -> Counted {
        let mut freed = Counted::default();
        let dropped = self.slots.next().saturating_sub(from) as usize;
        self.slots.truncate(from, |slot| freed.add(slot.place()));
        self.recent
            .truncate(self.recent.len().saturating_sub(dropped));
        self.durable_next = self.durable_next.min(from);
        self.truncations += 1;
        self.truncations_queued.push_back((self.truncations, from));
        freed
    }

    pub(super) fn truncation_landed(&mut self) {
        self.truncations_queued.pop_front();
    }

    pub(super) fn purge(&mut self, purged: Purged) -> Counted {
        let mut freed = Counted::default();
        let upto = purged.index;
        self.slots.purge(upto, |slot| freed.add(slot.place()));
        let kept = (self.slots.next() - self.slots.first()) as usize;
        while self.recent.len() > kept {
            self.recent.pop_front();
        }
        self.durable_next = self.durable_next.max(upto + 1);
        self.purged.set(purged);
        freed
    }

    /// Forgets everything; returns what no longer counts once that is durable.
    pub(super) fn remove(&mut self) -> Counted {
        let mut freed = Counted::default();
        self.slots.truncate(0, |slot| freed.add(slot.place()));
        for place in [self.vote.place, self.committed.place, self.purged.place] {
            freed.add(place);
        }
        *self = Self {
            is_removed: true,
            ..Self::default()
        };
        freed
    }

    pub(super) fn recent(&self, index: u64) -> Option<&Bytes> {
        let first = self.slots.next() - self.recent.len() as u64;
        self.recent.get(index.checked_sub(first)? as usize)
    }

    /// Drops payloads up to `upto` from memory, as far as they are durable; returns their bytes.
    pub(super) fn forget_recent(&mut self, upto: u64) -> usize {
        let mut bytes = 0;
        let limit = self.durable_next.min(upto + 1);
        let mut first = self.slots.next() - self.recent.len() as u64;
        while first < limit {
            let Some(payload) = self.recent.pop_front() else {
                break;
            };
            bytes += payload.len();
            first += 1;
        }
        bytes
    }
}
