//! One durable log for all Raft groups of a node.
//!
//! Callers put operations into one ordered queue and see their effect at once in memory. One
//! thread, the committer, takes all that is queued, writes it with one write, makes it durable with
//! one sync, and completes the waiters in order:
//!
//! ```text
//! callers --> queue --> committer --> segment files
//!                  ^           ^
//!                  moves       spares
//!                  `- keeper --'
//! ```
//! Votes, truncations and purges are records in the same order as entries. When a write or sync
//! fails, the log stops for good: what is on disk is unknown until a new process has recovered it.

mod committer;
mod compaction;
mod group;
mod keeper;
mod metrics;
mod queue;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod slots;
mod space;
mod spares;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;

pub use group::{Entry, GroupId, Purged};
pub use metrics::{FsyncHistogram, Metrics};
pub use recovery::TornTail;
pub use space::Space;

use crate::disk::Disk;
use crate::error::Error;
use committer::Committer;
use group::{Counted, Group, GroupCell};
use keeper::Keeper;
use queue::{Done, Operation, Queue, What};
use segment::Segments;
use spares::Spares;

/// The watermark of the last sync is on disk so long after it at the latest.
const IDLE_AFTER: Duration = Duration::from_millis(10);

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of a segment file, a multiple of 4096, at least 64 KiB. Default 64 MiB.
    pub segment_bytes: u32,
    /// Segments kept ready beside the one being written. They are the reserve when the disk is
    /// full. Default 2.
    pub spare_segments: usize,
    /// Durable entries kept in memory, of all groups: their payloads, and what each costs beside. Default 64 MiB.
    pub cache_bytes: usize,
    /// Bytes that may wait for the committer; appends beyond wait. Default 64 MiB.
    pub queue_bytes: usize,
    /// With less room on the disk, space is [`Space::Soft`]. Default 256 MiB.
    pub soft_free_bytes: u64,
    /// With less room on the disk, space is [`Space::Hard`]. Default 64 MiB.
    pub hard_free_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 2,
            cache_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            soft_free_bytes: 256 << 20,
            hard_free_bytes: 64 << 20,
        }
    }
}

impl Options {
    /// The longest payload of an entry, vote or note: what fits into a segment of its own.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        let room = self.segment_bytes.saturating_sub(segment::DATA_START) as usize;
        room.saturating_sub(2 * record::HEADER_BYTES + record::ALIGN)
            .min(record::PAYLOAD_BYTES_LIMIT)
    }
}

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The groups that have any record, in order.
    pub groups: Vec<GroupId>,
    /// Records that were read.
    pub records: u64,
    /// The incomplete last write, if there was one. Ordinary after a crash.
    pub torn_tail: Option<TornTail>,
}

/// A handle to the log; clones share it. The log closes with the last one, after what is queued
/// is durable.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    /// Ends the threads when the last handle goes.
    threads: Arc<Threads>,
}

struct Shared {
    options: Options,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    queue: Queue,
    segments: Segments,
    spares: Spares,
    /// The segment that was written when the last batch had been accounted for.
    landed_segment: AtomicU32,
    groups: RwLock<HashMap<u32, Arc<GroupCell>, foldhash::fast::RandomState>>,
    metrics: metrics::Counters,
    space: space::Watched,
}

impl Log {
    /// Opens the log in `dir`, or creates it, and recovers what is there.
    ///
    /// Blocks: up to a second for a gigabyte.
    ///
    /// # Errors
    /// [`Error::Damaged`] if something that was synced cannot be read any more; [`Error::Io`].
    pub fn open(
        dir: impl AsRef<Path>,
        options: Options,
        disk: impl Disk,
    ) -> Result<(Self, Recovered), Error> {
        let dir = dir.as_ref().to_owned();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let found = recovery::recover(&*disk, &dir, &options)?;
        let recovered = Recovered {
            groups: recovery::group_ids(&found.groups),
            records: found.records,
            torn_tail: found.torn_tail,
        };
        let groups = found
            .groups
            .into_iter()
            .map(|(id, group)| (id, Arc::new(GroupCell::new(GroupId(id), group))))
            .collect();
        let shared = Arc::new(Shared {
            queue: Queue::new(options.queue_bytes),
            options,
            disk,
            dir,
            segments: found.segments,
            spares: Spares::default(),
            landed_segment: AtomicU32::new(found.active.number),
            groups: RwLock::new(groups),
            metrics: metrics::Counters::default(),
            space: space::Watched::default(),
        });
        for spare in found.spares {
            shared.spares.add(spare);
        }
        let committer = Committer::new(shared.clone(), found.active, found.end);
        let keeper = Keeper::new(shared.clone(), found.next, found.free);
        let threads = Threads {
            committer: spawn("log-committer", &shared.dir, move || committer.run())?,
            keeper: spawn("log-keeper", &shared.dir, move || keeper.run())?,
            shared: shared.clone(),
        };
        let log = Self {
            shared,
            threads: Arc::new(threads),
        };
        Ok((log, recovered))
    }

    /// Appends entries that follow the last one of the group. They can be read at once; `done` is
    /// called when they are durable, on the committer's thread, in the order of all operations (on a
    /// full disk, other groups' operations and purges of what is durable may overtake). It must be
    /// short and must not wait for the log.
    ///
    /// Payloads stay in memory for a while: copy small ones out of big buffers before.
    /// Waits while more than [`Options::queue_bytes`] are queued; [`poll_room`](Self::poll_room)
    /// tells when it would not.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] and [`Error::TooLarge`] change nothing. [`Error::Stopped`] and
    /// [`Error::Closed`] are final. `done` is not called when an error is returned.
    pub fn append(
        &self,
        group: GroupId,
        entries: Vec<Entry>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let bytes_max = self.shared.options.payload_bytes_max();
        for entry in &entries {
            check_size(&entry.payload, bytes_max)?;
        }
        self.shared.queue.wait_for_room();
        self.change(group, |cell, state| {
            let first = entries.first().map_or(0, |entry| entry.index);
            let expected = state.expected().unwrap_or(first);
            for (entry, expected) in entries.iter().zip(expected..) {
                if entry.index != expected {
                    return Err(Error::OutOfOrder {
                        group,
                        expected,
                        found: entry.index,
                    });
                }
            }
            let what = What::Append {
                group: cell.clone(),
                entries: entries.clone(),
                truncations: state.truncations(),
            };
            self.push(what, Box::new(done))?;
            entries.iter().for_each(|entry| state.append(entry));
            Ok(())
        })
    }

    /// Saves the group's vote, in place of the one before.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn save_vote(
        &self,
        group: GroupId,
        vote: Bytes,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        check_size(&vote, self.shared.options.payload_bytes_max())?;
        self.change(group, |cell, state| {
            self.push(What::Vote(cell.clone(), vote.clone()), Box::new(done))?;
            state.vote.set(vote);
            Ok(())
        })
    }

    /// Saves how far the group is committed. It becomes durable with the next operation that is, or
    /// soon after; an older value may be found after a crash.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn save_committed(&self, group: GroupId, committed: Bytes) -> Result<(), Error> {
        check_size(&committed, self.shared.options.payload_bytes_max())?;
        self.change(group, |cell, state| {
            if state.committed_is_queued {
                state.committed.value = Some(committed);
                return Ok(());
            }
            self.shared.queue.push(Operation {
                what: What::Committed(cell.clone()),
                done: None,
            })?;
            state.committed_is_queued = true;
            state.committed.set(committed);
            Ok(())
        })
    }

    /// Removes entries from `from` on. No effect on entries that were purged.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn truncate(
        &self,
        group: GroupId,
        from: u64,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.change(group, |cell, state| {
            let purged = state.purged.value.as_ref().map(|purged| purged.index + 1);
            let from = from.max(purged.unwrap_or(0));
            let freed = state.truncate(from);
            self.push(What::Truncate(cell.clone(), from, freed), Box::new(done))
        })
    }

    /// Forgets entries up to and including `purged.index`, which may lie beyond the last entry:
    /// the next one is then `purged.index + 1`. An older purge than the last changes nothing.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn purge(
        &self,
        group: GroupId,
        purged: Purged,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        check_size(&purged.note, self.shared.options.payload_bytes_max())?;
        self.change(group, |cell, state| {
            let newest = match &state.purged.value {
                Some(newest) if newest.index > purged.index => newest.clone(),
                _ => purged,
            };
            let is_durable = newest.index < state.durable_next();
            let freed = state.purge(newest.clone());
            let what = What::Purge {
                group: cell.clone(),
                purged: newest,
                freed,
                is_durable,
            };
            self.push(what, Box::new(done))
        })
    }

    /// Forgets a group. The same id may be used again at once; it starts empty.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn remove_group(
        &self,
        group: GroupId,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let mut groups = self
            .shared
            .groups
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let cell = groups
            .remove(&group.0)
            .unwrap_or_else(|| Arc::new(GroupCell::new(group, Group::default())));
        let freed = cell.lock().remove();
        // Queued while the table is locked: nothing of a new life of this id can come before.
        self.push(What::Remove(cell, freed), Box::new(done))
    }

    /// The groups that have anything, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let groups = self.shared.groups.read();
        let groups = groups.unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = groups.keys().copied().map(GroupId).collect();
        ids.sort_unstable();
        ids
    }

    /// The newest vote, durable or not.
    #[must_use]
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.shared.group(group)?.lock().vote.value.clone()
    }

    /// What [`save_committed`](Self::save_committed) saved last.
    #[must_use]
    pub fn committed(&self, group: GroupId) -> Option<Bytes> {
        self.shared.group(group)?.lock().committed.value.clone()
    }

    /// How far the group's log is purged.
    #[must_use]
    pub fn purged(&self, group: GroupId) -> Option<Purged> {
        self.shared.group(group)?.lock().purged.value.clone()
    }

    /// Index and term of the last entry, durable or not, or of the last purged one if there are no
    /// entries.
    #[must_use]
    pub fn last(&self, group: GroupId) -> Option<(u64, u64)> {
        self.shared.group(group)?.lock().last()
    }

    /// The indexes of the entries that there are, durable or not.
    #[must_use]
    pub fn range(&self, group: GroupId) -> std::ops::Range<u64> {
        self.shared.group(group).map_or(0..0, |cell| {
            let state = cell.lock();
            state.slots.first()..state.slots.next()
        })
    }

    /// The term of an entry, without reading it.
    #[must_use]
    pub fn term(&self, group: GroupId, index: u64) -> Option<u64> {
        let cell = self.shared.group(group)?;
        let state = cell.lock();
        state.slots.get(index).map(slots::Slot::term)
    }

    /// The entries of `range` that there are, in order, durable or not: as many as fit into
    /// `bytes_max` bytes of payload, but at least one. Those that are no longer in memory are read
    /// from disk on the caller's thread; the committer is not held up.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry cannot be read back; [`Error::Io`].
    pub fn read(
        &self,
        group: GroupId,
        range: std::ops::Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, Error> {
        match self.shared.group(group) {
            Some(cell) => read::read(&self.shared, &cell, range, bytes_max),
            None => Ok(Vec::new()),
        }
    }

    /// Whether [`read`](Self::read) of these entries needs the disk, so that a caller on an async
    /// runtime can move it to a thread that may block.
    #[must_use]
    pub fn needs_disk(&self, group: GroupId, range: std::ops::Range<u64>) -> bool {
        self.shared.group(group).is_some_and(|cell| {
            let state = cell.lock();
            // What is in memory are the last entries, without gaps.
            let first = range.start.max(state.slots.first());
            first < range.end.min(state.slots.next()) && state.recent(first).is_none()
        })
    }

    /// How much room the disk has.
    #[must_use]
    pub fn space(&self) -> Space {
        self.shared.space.now()
    }

    /// Ready when the room on the disk is another than `known`. The waker is woken once.
    pub fn poll_space(&self, known: Space, waker: &Waker) -> Poll<Space> {
        self.shared.space.poll(known, waker)
    }

    /// Ready when an operation would not wait for room in the queue. The waker is woken once.
    pub fn poll_room(&self, waker: &Waker) -> Poll<()> {
        self.shared.queue.poll_room(waker)
    }

    /// The longest payload that is accepted, in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.options.payload_bytes_max()
    }

    /// The error that stopped the log, if it stopped.
    #[must_use]
    pub fn stopped(&self) -> Option<Error> {
        self.shared.queue.stopped()
    }

    /// Counters and sizes, now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let shared = &self.shared;
        let segments = shared.segments.all();
        Metrics {
            fsyncs: shared.metrics.fsyncs(),
            written_bytes: shared.metrics.written_bytes(),
            segments: segments.len() as u64,
            spare_segments: shared.spares.count() as u64,
            live_bytes: segments.iter().map(|segment| segment.live_bytes()).sum(),
            queued_bytes: shared.queue.bytes() as u64,
            moved_bytes: shared.metrics.moved_bytes(),
            space: shared.space.now(),
        }
    }

    /// Accepts nothing more, makes durable what is queued, and ends the threads. Blocks.
    pub fn close(&self) {
        self.threads.end();
    }

    /// Changes a group. What is queued meanwhile has the order that memory shows, since the group is
    /// locked.
    fn change<T>(
        &self,
        group: GroupId,
        change: impl FnOnce(&Arc<GroupCell>, &mut Group) -> T,
    ) -> T {
        loop {
            let cell = self.shared.group_or_new(group);
            let mut state = cell.lock();
            // Removed between the two lines above: nothing may be queued behind its removal.
            if !state.is_removed {
                return change(&cell, &mut state);
            }
        }
    }

    fn push(&self, what: What, done: Done) -> Result<(), Error> {
        self.shared.queue.push(Operation {
            what,
            done: Some(done),
        })
    }
}

impl Shared {
    fn group(&self, group: GroupId) -> Option<Arc<GroupCell>> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group.0).cloned()
    }

    fn group_or_new(&self, group: GroupId) -> Arc<GroupCell> {
        if let Some(cell) = self.group(group) {
            return cell;
        }
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups
            .entry(group.0)
            .or_insert_with(|| Arc::new(GroupCell::new(group, Group::default())))
            .clone()
    }

    fn count(&self, counted: &Counted) {
        for &(segment, bytes) in &counted.0 {
            self.segments.add_live(segment, bytes);
        }
    }

    fn free(&self, freed: &Counted) {
        let mut is_empty = false;
        for &(segment, bytes) in &freed.0 {
            is_empty |= self.segments.remove_live(segment, bytes);
        }
        if is_empty {
            self.spares.call_keeper();
        }
    }
}

fn check_size(payload: &[u8], bytes_max: usize) -> Result<(), Error> {
    if payload.len() > bytes_max {
        return Err(Error::TooLarge {
            bytes: payload.len() as u64,
            bytes_max: bytes_max as u64,
        });
    }
    Ok(())
}

struct Threads {
    committer: Mutex<Option<JoinHandle<()>>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

impl Threads {
    fn end(&self) {
        self.shared.queue.close();
        self.shared.spares.give_up_when_full();
        for thread in [&self.committer, &self.keeper] {
            let handle = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The last handle may go inside a `done`, on the committer's own thread.
            if let Some(handle) = handle
                && handle.thread().id() != std::thread::current().id()
                && handle.join().is_err()
            {
                tracing::error!("a thread of the log panicked");
            }
            // The committer may need a spare for what is queued, and the keeper makes them: it
            // ends second.
            self.shared.spares.close();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(
    name: &str,
    dir: &Path,
    run: impl FnOnce() + Send + 'static,
) -> Result<Mutex<Option<JoinHandle<()>>>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(|handle| Mutex::new(Some(handle)))
        .map_err(Error::io("start a thread for", dir))
}

#[cfg(test)]
mod tests;
