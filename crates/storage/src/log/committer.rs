//! The one thread that writes: take what is queued, one write, one sync, complete in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use magpie_failpoint::fail_point;

use super::IDLE_AFTER;
use super::Shared;
use super::group::{Counted, Entry, Group, GroupCell, Landing, Place};
use super::queue::{Operation, What, Work};
use super::record::{HEADER_BYTES, Header, Kind, Position, encode, record_bytes};
use super::segment::Segment;
use super::slots::Slot;
use super::space::Space;
use crate::error::Error;

/// Writes end on a page, so that the next page need not be read before it is written.
const PAGE_BYTES: usize = 4096;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// This part of a segment is not for entries as long as there is no spare: purges need it to make
/// room.
const RESERVE_FRACTION: u32 = 16;
/// What an entry costs in memory beside its payload: its place in a queue that may be half empty, the head of its allocation, the room
/// that its maker left in it, and the counter that its readers share.
pub(super) const CACHED_ENTRY_BYTES: usize = 2 * size_of::<bytes::Bytes>() + 128;
const WAIT_FOR_ROOM: Duration = Duration::from_millis(50);

pub(super) struct Committer {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    /// Where the buffer will be written.
    offset: u32,
    buffer: Vec<u8>,
    /// Everything before it survives a loss of power.
    synced: Position,
    /// The highest watermark in a written record.
    announced: Position,
    /// Where each record of the batch lies, in order.
    places: Vec<Place>,
    cached: VecDeque<Cached>,
    cached_bytes: usize,
}

/// Payloads in memory, in the order in which they go.
struct Cached {
    group: Arc<GroupCell>,
    upto: u64,
    bytes: usize,
}

impl Committer {
    /// Continues after the last record found, at `offset` of `segment`; all before is synced.
    pub(super) fn new(shared: Arc<Shared>, segment: Arc<Segment>, offset: u32) -> Self {
        Self {
            shared,
            synced: Position::new(segment.number, offset),
            segment,
            offset,
            buffer: Vec::new(),
            announced: Position::default(),
            places: Vec::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
        }
    }

    /// Runs until the log is closed, or a write or sync fails.
    pub(super) fn run(mut self) {
        let _guard = StopOnPanic(self.shared.clone());
        loop {
            let idle_after = (self.announced < self.synced).then_some(IDLE_AFTER);
            let (mut batch, result) = match self.shared.queue.take(self.batch_bytes(), idle_after) {
                Work::Batch(batch) if !self.has_room_for(&batch) => {
                    self.shared.queue.put_back(batch);
                    if let Err(error) = self.wait_for_room() {
                        return self.stop(Vec::new(), &error);
                    }
                    continue;
                }
                Work::Batch(batch) => {
                    let result = self.commit(&batch);
                    (batch, result)
                }
                Work::Idle(batch) => {
                    let result = self.write_idle(&batch);
                    (batch, result)
                }
                Work::Closed => break,
            };
            if let Err(error) = result {
                return self.stop(batch, &error);
            }
            self.land(&mut batch);
        }
        // The last words: a clean stop leaves nothing that a reader could doubt.
        if let Err(error) = self.write_idle(&[]).and_then(|()| self.sync()) {
            tracing::warn!(%error, "last watermark not written");
        }
    }

    /// A batch spans two segments at most, unless a single operation is longer.
    fn batch_bytes(&self) -> usize {
        BATCH_BYTES_MAX.min(self.segment.bytes as usize / 4)
    }

    fn has_room_for(&self, batch: &[Operation]) -> bool {
        let needed: usize = batch.iter().map(|o| o.what.records_bytes()).sum();
        let reserve = (self.segment.bytes / RESERVE_FRACTION) as usize;
        self.end() as usize + needed + reserve <= self.segment.bytes as usize
            || self.shared.spares.wait(Duration::ZERO)
    }

    /// There is no spare. If that is because the disk is full, entries wait, in order, and what
    /// makes room overtakes them.
    fn wait_for_room(&mut self) -> Result<(), Error> {
        self.shared.spares.call_keeper();
        while !self.shared.spares.wait(WAIT_FOR_ROOM) {
            if !self.shared.spares.is_full() {
                continue;
            }
            if self.shared.queue.is_closed() {
                return Err(Error::Closed);
            }
            self.shared.space.set(Space::Hard);
            let end = self.end() as usize + 2 * HEADER_BYTES;
            let room = (self.segment.bytes as usize).saturating_sub(end);
            let mut batch = self.shared.queue.take_overtaking(room);
            if batch.is_empty() {
                continue;
            }
            if let Err(error) = self.commit(&batch) {
                self.shared.queue.put_back(batch);
                return Err(error);
            }
            self.land(&mut batch);
        }
        Ok(())
    }

    fn commit(&mut self, batch: &[Operation]) -> Result<(), Error> {
        self.encode_all(batch)?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        fail_point!("log.encoded", payloads(batch));
        self.write()?;
        fail_point!("log.written", payloads(batch));
        self.sync()?;
        fail_point!("log.synced", payloads(batch));
        Ok(())
    }

    /// Writes what needs no sync, and the watermark that later records would have carried.
    fn write_idle(&mut self, batch: &[Operation]) -> Result<(), Error> {
        self.encode_all(batch)?;
        if self.announced < self.synced {
            self.encode(record(Kind::Watermark, 0, 0, 0), &[])?;
        }
        self.write()
    }

    fn encode_all(&mut self, batch: &[Operation]) -> Result<(), Error> {
        self.places.clear();
        for operation in batch {
            self.encode_operation(&operation.what)?;
        }
        Ok(())
    }

    fn encode_operation(&mut self, what: &What) -> Result<(), Error> {
        match what {
            What::Append { group, entries, .. } => {
                for entry in entries {
                    let header = record(Kind::Entry, group.id.0, entry.index, entry.term);
                    self.encode(header, &entry.payload)?;
                }
            }
            What::Move { group, entries } => {
                for ((entry, _), is_there) in entries.iter().zip(still_there(group, entries)) {
                    if is_there {
                        let header = record(Kind::Moved, group.id.0, entry.index, entry.term);
                        self.encode(header, &entry.payload)?;
                    } else {
                        self.places.push(Place::NONE);
                    }
                }
            }
            What::Vote(group, bytes) => {
                self.encode(record(Kind::Vote, group.id.0, 0, 0), bytes)?;
            }
            What::Committed(group) => {
                let mut state = group.lock();
                state.committed_is_queued = false;
                let value = state.committed.value.clone();
                drop(state);
                self.encode_if_some(Kind::Committed, group, value)?;
            }
            What::Truncate(group, from, _) => {
                self.encode(record(Kind::Truncate, group.id.0, *from, 0), &[])?;
            }
            What::Purge { group, purged, .. } => {
                let header = record(Kind::Purge, group.id.0, purged.index, purged.term);
                self.encode(header, &purged.note)?;
            }
            What::Remove(group, _) => {
                self.encode(record(Kind::Remove, group.id.0, 0, 0), &[])?;
            }
            What::MoveRegisters(group, segment) => self.encode_registers(group, *segment)?,
            What::Drop(first) => {
                self.encode(record(Kind::Drop, 0, u64::from(*first), 0), &[])?;
            }
        }
        Ok(())
    }

    /// Always takes three places; none for what needs no copy.
    fn encode_registers(&mut self, group: &GroupCell, segment: u32) -> Result<(), Error> {
        let state = group.lock();
        // Where a newer value is queued, its record will do.
        let vote = state.vote.value_in(segment).cloned();
        let committed = state.committed.value_in(segment).cloned();
        let purged = state.purged.value_in(segment).cloned();
        drop(state);
        self.encode_if_some(Kind::Vote, group, vote)?;
        self.encode_if_some(Kind::Committed, group, committed)?;
        match purged {
            Some(purged) => {
                let header = record(Kind::Purge, group.id.0, purged.index, purged.term);
                self.encode(header, &purged.note)
            }
            None => self.encode_if_some(Kind::Purge, group, None),
        }
    }

    fn encode_if_some(
        &mut self,
        kind: Kind,
        group: &GroupCell,
        value: Option<bytes::Bytes>,
    ) -> Result<(), Error> {
        match value {
            Some(bytes) => self.encode(record(kind, group.id.0, 0, 0), &bytes),
            None => {
                self.places.push(Place::NONE);
                Ok(())
            }
        }
    }

    /// Adds one record, in the next segment if it does not fit into this one.
    fn encode(&mut self, header: Header, payload: &[u8]) -> Result<(), Error> {
        let needed = record_bytes(payload.len()) + HEADER_BYTES;
        while self.end() as usize + needed > self.segment.bytes as usize {
            self.begin_segment()?;
        }
        let offset = self.end();
        self.places.push(Place {
            segment: self.segment.number,
            offset,
            bytes: record_bytes(payload.len()) as u32,
        });
        self.encode_at(offset, header, payload);
        Ok(())
    }

    fn encode_at(&mut self, offset: u32, header: Header, payload: &[u8]) {
        let header = Header {
            watermark: self.synced,
            ..header
        };
        encode(&mut self.buffer, self.segment.salt, offset, header, payload);
    }

    fn end(&self) -> u32 {
        self.offset + self.buffer.len() as u32
    }

    /// Seals the segment, makes it durable, and goes on in the next one.
    fn begin_segment(&mut self) -> Result<(), Error> {
        let offset = self.end();
        self.encode_at(offset, record(Kind::Seal, 0, 0, 0), &[]);
        self.write()?;
        self.sync()?;
        let segment = Arc::new(self.shared.spares.take()?);
        self.shared.segments.push(segment.clone());
        self.segment = segment;
        self.offset = super::segment::DATA_START;
        // Nothing of the new segment is written, so that all of the log is synced.
        self.synced = Position::new(self.segment.number, self.offset);
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let records = self.buffer.len();
        let end = self.offset as usize + records;
        let padded = end
            .next_multiple_of(PAGE_BYTES)
            .min(self.segment.bytes as usize);
        self.buffer.resize(padded - self.offset as usize, 0);
        self.segment
            .file
            .write_at(&self.buffer, u64::from(self.offset))
            .map_err(Error::io("write", &self.segment.path))?;
        self.buffer.clear();
        self.offset = end as u32;
        self.announced = self.synced;
        self.shared.metrics.wrote(records as u64);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        self.segment
            .file
            .sync()
            .map_err(Error::io("sync", &self.segment.path))?;
        self.shared.metrics.synced(start.elapsed());
        self.synced = Position::new(self.segment.number, self.offset);
        Ok(())
    }

    /// Everything of the batch is on disk: tells the groups, then whoever waits.
    fn land(&mut self, batch: &mut Vec<Operation>) {
        let places = std::mem::take(&mut self.places);
        let mut rest = places.as_slice();
        for operation in batch.iter() {
            self.land_operation(&operation.what, &mut rest);
        }
        debug_assert!(
            rest.len() <= 1,
            "each record has its operation, a watermark none"
        );
        self.places = places;
        self.forget_oldest();
        self.shared
            .landed_segment
            .store(self.segment.number, Ordering::Release);
        for operation in batch.drain(..) {
            if let Some(done) = operation.done {
                done(Ok(()));
            }
        }
    }

    fn land_operation(&mut self, what: &What, places: &mut &[Place]) {
        match what {
            What::Append {
                group,
                entries,
                truncations,
            } => {
                let places = take_front(places, entries.len());
                if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
                    let counts = group.lock().landed(first.index, places, *truncations);
                    self.shared.count(&counts);
                    let bytes = entries.iter().map(|entry| entry.payload.len());
                    let payload_bytes = bytes.sum::<usize>();
                    let bytes = payload_bytes + entries.len() * CACHED_ENTRY_BYTES;
                    self.remember(group, last.index, bytes);
                }
            }
            What::Move { group, entries } => {
                let places = take_front(places, entries.len());
                self.land_moved(group, entries, places);
            }
            What::Vote(group, _) => self.land_register(group, places, false, |g| &mut g.vote),
            What::Committed(group) => {
                self.land_register(group, places, false, |g| &mut g.committed);
            }
            What::Truncate(group, _, freed) => {
                take_front(places, 1);
                group.lock().truncation_landed();
                self.shared.free(freed);
            }
            What::Purge { group, freed, .. } => {
                self.land_register(group, places, false, |g| &mut g.purged);
                self.shared.free(freed);
            }
            What::Remove(_, freed) => {
                take_front(places, 1);
                self.shared.free(freed);
            }
            What::MoveRegisters(group, _) => {
                self.land_register(group, places, true, |g| &mut g.vote);
                self.land_register(group, places, true, |g| &mut g.committed);
                self.land_register(group, places, true, |g| &mut g.purged);
            }
            What::Drop(_) => {
                take_front(places, 1);
            }
        }
    }

    fn land_moved(&self, group: &GroupCell, entries: &[(Entry, Slot)], places: &[Place]) {
        let mut state = group.lock();
        let mut counts = Counted::default();
        let mut freed = Counted::default();
        for ((entry, from), place) in entries.iter().zip(places) {
            let slot = state.slots.get_mut(entry.index);
            let Some(slot) = slot.filter(|slot| place.is_some() && **slot == *from) else {
                continue;
            };
            slot.segment = place.segment;
            slot.offset = place.offset;
            counts.add(*place);
            freed.add(from.place());
        }
        drop(state);
        self.shared.metrics.moved(counts.bytes());
        self.shared.count(&counts);
        self.shared.free(&freed);
    }

    /// A newer record of a group's value takes the place of the older.
    fn land_register(
        &self,
        group: &GroupCell,
        places: &mut &[Place],
        is_copy: bool,
        register: impl Fn(&mut Group) -> &mut dyn Landing,
    ) {
        let [place] = take_front(places, 1) else {
            return;
        };
        let mut state = group.lock();
        if !place.is_some() || state.is_removed {
            return;
        }
        let older = register(&mut state).landed(*place, is_copy);
        drop(state);
        self.shared.count(&Counted::one(*place));
        self.shared.free(&Counted::one(older));
    }

    /// Keeps the payloads of a landed append readable from memory, as long as there is room.
    fn remember(&mut self, group: &Arc<GroupCell>, upto: u64, bytes: usize) {
        let bytes = bytes + 2 * size_of::<Cached>();
        self.cached_bytes += bytes;
        self.cached.push_back(Cached {
            group: group.clone(),
            upto,
            bytes,
        });
    }

    fn forget_oldest(&mut self) {
        while self.cached_bytes > self.shared.options.cache_bytes {
            let Some(oldest) = self.cached.pop_front() else {
                break;
            };
            self.cached_bytes -= oldest.bytes;
            oldest.group.lock().forget_recent(oldest.upto);
        }
    }

    /// A write or sync failed: what is on disk is unknown until the log is recovered.
    fn stop(self, batch: Vec<Operation>, error: &Error) {
        if !matches!(error, Error::Closed) {
            tracing::error!(%error, "the log stops");
        }
        let reason = Error::Stopped {
            reason: error.to_string().into(),
        };
        let left = self.shared.queue.stop(reason.clone());
        self.shared.spares.close();
        for operation in batch.into_iter().chain(left) {
            if let Some(done) = operation.done {
                done(Err(reason.clone()));
            }
        }
    }
}

/// A `done` that panics must not leave a log that accepts and never answers.
struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue.stop(Error::Stopped {
                reason: "the committer panicked".into(),
            });
            self.0.spares.close();
        }
    }
}

/// Which entries still lie where they were: what was purged or truncated since is not brought back.
fn still_there(group: &GroupCell, entries: &[(Entry, Slot)]) -> Vec<bool> {
    let state = group.lock();
    entries
        .iter()
        .map(|(entry, slot)| state.slots.get(entry.index) == Some(slot))
        .collect()
}

fn record(kind: Kind, group: u32, index: u64, term: u64) -> Header {
    Header {
        kind,
        group,
        index,
        term,
        watermark: Position::default(),
    }
}

/// Of the entries of a batch: what fail points tell it by.
fn payloads(batch: &[Operation]) -> impl Iterator<Item = &bytes::Bytes> {
    let entries = batch.iter().filter_map(|operation| match &operation.what {
        What::Append { entries, .. } => Some(entries),
        _ => None,
    });
    entries.flatten().map(|entry| &entry.payload)
}

fn take_front<'a>(places: &mut &'a [Place], count: usize) -> &'a [Place] {
    let (front, rest) = places.split_at(count.min(places.len()));
    *places = rest;
    front
}
