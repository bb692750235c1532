//! Writing forward what still counts in an old segment, so that a slow group does not keep the
//! segments of all others from being dropped.
//!
//! Segments go in order, oldest first. The oldest is emptied when little in it counts, or when less
//! than half of all sealed segments counts. In the second case each byte that is written makes
//! room for another one at least.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::group::{Entry, GroupCell};
use super::keeper::Keeper;
use super::queue::What;
use super::read::read_run;
use super::segment::Segment;
use super::slots::Slot;
use crate::error::Error;

/// So much is moved by one operation: others should not wait long behind it.
const MOVE_BYTES: u64 = 256 << 10;
/// Slots that are looked at under one lock.
const LOOK_ENTRIES: u64 = 8192;
/// A segment with less than this part of it that counts is emptied at once.
const LITTLE_FRACTION: u64 = 64;

impl Keeper {
    /// Empties the oldest segments, as long as that pays.
    pub(super) fn compact(&mut self) -> Result<(), Error> {
        // Moving needs room first.
        while self.shared.spares.count() > 0 {
            let Some(segment) = self.pays() else {
                break;
            };
            let groups: Vec<_> = {
                let groups = self.shared.groups.read();
                let groups = groups.unwrap_or_else(std::sync::PoisonError::into_inner);
                groups.values().cloned().collect()
            };
            for group in groups {
                self.move_entries(&group, &segment)?;
                self.move_registers(&group, &segment)?;
            }
            let is_empty = segment.live_bytes() == 0;
            drop(segment);
            if !is_empty {
                // Something landed in between; the next round takes it.
                break;
            }
            self.drop_unneeded()?;
            self.prepare()?;
        }
        Ok(())
    }

    /// The oldest segment, if it is worth emptying.
    fn pays(&self) -> Option<Arc<Segment>> {
        let landed = self.shared.landed_segment.load(Ordering::Acquire);
        let mut sealed = self.shared.segments.all();
        sealed.retain(|segment| segment.number < landed);
        let oldest = sealed.first()?;
        let total: u64 = sealed.iter().map(|s| u64::from(s.bytes)).sum();
        let live: u64 = sealed.iter().map(|s| s.live_bytes()).sum();
        let little = u64::from(oldest.bytes) / LITTLE_FRACTION;
        let pays = oldest.live_bytes() <= little || (sealed.len() > 1 && live * 2 < total);
        pays.then(|| oldest.clone())
    }

    fn move_entries(&mut self, group: &Arc<GroupCell>, segment: &Segment) -> Result<(), Error> {
        let mut next = 0;
        while let Some(slots) = entries_in(group, segment.number, &mut next) {
            if slots.is_empty() {
                continue;
            }
            let mut entries: Vec<Entry> = Vec::with_capacity(slots.len());
            for run in slots.chunk_by(|a, b| b.1.offset >= a.1.offset) {
                // Moved in any order before: read runs that go forward in the file.
                let (_, last) = run[run.len() - 1];
                let end = last.offset + last.place().bytes;
                if u64::from(end - run[0].1.offset) <= 4 * MOVE_BYTES {
                    read_run(group.id, segment, run, end, &mut entries)?;
                    continue;
                }
                for one in run {
                    let end = one.1.offset + one.1.place().bytes;
                    read_run(group.id, segment, &[*one], end, &mut entries)?;
                }
            }
            let slots = slots.into_iter().map(|(_, slot)| slot);
            self.wait_for(What::Move {
                group: group.clone(),
                entries: entries.into_iter().zip(slots).collect(),
            })?;
        }
        Ok(())
    }

    fn move_registers(&mut self, group: &Arc<GroupCell>, segment: &Segment) -> Result<(), Error> {
        let state = group.lock();
        let places = [state.vote.place, state.committed.place, state.purged.place];
        drop(state);
        if places.iter().any(|place| place.segment == segment.number) {
            self.wait_for(What::MoveRegisters(group.clone(), segment.number))?;
        }
        Ok(())
    }
}

/// The next entries of a group from `next` on that lie in a segment; none when all were seen.
fn entries_in(group: &GroupCell, segment: u32, next: &mut u64) -> Option<Vec<(u64, Slot)>> {
    let state = group.lock();
    *next = (*next).max(state.slots.first());
    if *next >= state.slots.next() {
        return None;
    }
    let mut found = Vec::new();
    let mut bytes = 0;
    let end = state.slots.next().min(*next + LOOK_ENTRIES);
    while *next < end && bytes < MOVE_BYTES {
        if let Some(slot) = state.slots.get(*next).filter(|s| s.segment == segment) {
            found.push((*next, *slot));
            bytes += u64::from(slot.place().bytes);
        }
        *next += 1;
    }
    Some(found)
}
