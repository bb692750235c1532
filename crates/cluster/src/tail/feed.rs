//! The latest entries of a partition in memory, as its replica here applies them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use magpie_state::partition::{AppendAnswer, PartitionAnswer, PartitionState};
use magpie_state::{PartitionId, Position};

use super::reader::{Entry, Refused};
use super::{TailItem, decode};
use crate::raft::Observer;

/// Bytes of commands that a feed keeps; a reader that is further behind reads the log.
const FEED_BYTES: usize = 8 << 20;
/// An entry counts at least so much.
const ENTRY_BYTES_MIN: usize = 256;

/// The feed of one partition: written by its apply, read by the local tail and by tails of nodes without a replica.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    /// Where readers are, by reader; what they have not read yet holds the log.
    positions: Mutex<HashMap<u64, u64>>,
    next_reader: AtomicU64,
    hold: Arc<AtomicU64>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Every entry with messages at or above this index, and applied, is here.
    complete_from: u64,
}

/// The feeds of all partitions of a node, whether or not a replica is here now. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feeds {
    by_partition: Arc<Mutex<HashMap<PartitionId, Arc<Feed>>>>,
}

impl Feeds {
    pub(crate) fn of(&self, partition: PartitionId) -> Arc<Feed> {
        let mut feeds = self
            .by_partition
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(feeds.entry(partition).or_default())
    }

    /// Before a replica starts anew: what an earlier one fed is forgotten, since entries will come again from its checkpoint on.
    pub(crate) fn restart(&self, partition: PartitionId) -> Arc<Feed> {
        let feed = self.of(partition);
        feed.clear(0);
        feed
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            positions: Mutex::default(),
            next_reader: AtomicU64::new(0),
            hold: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }
}

impl Observer<PartitionState> for Feed {
    fn applied(&self, index: u64, command: &Bytes, answer: &PartitionAnswer) {
        let mut ring = self.lock();
        if ring.complete_from == 0 {
            // Whatever it is: a reader that is before the first messages lacks nothing.
            ring.complete_from = index;
        }
        if let PartitionAnswer::Append(AppendAnswer::Taken(outcome)) = answer {
            ring.push(Entry {
                index,
                command: command.clone(),
                refused: Refused(outcome.passed_over()),
                ordinals: None,
            });
        }
    }

    fn jumped(&self, to_index: u64) {
        self.clear(to_index + 1);
    }
}

/// What a feed has from an index on.
pub(super) enum Fed {
    /// These entries; everything up to `upto` is among them or holds no messages.
    Entries { entries: Vec<Entry>, upto: u64 },
    /// Entries before this index are not in memory.
    Behind { complete_from: u64 },
}

impl Feed {
    /// The lowest index that somebody still reads from the log.
    pub(crate) fn hold(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.hold)
    }

    /// What there is from `from` on, about `bytes_max` bytes of it. `applied` was read from the group before: what was applied up to it has
    /// been fed.
    pub(super) fn read(&self, from: u64, applied: u64, bytes_max: usize) -> Fed {
        let ring = self.lock();
        // Nothing fed since the replica started: what it had applied before is in the log only.
        let complete_from = match ring.complete_from {
            0 => applied + 1,
            complete_from => complete_from,
        };
        if from < complete_from {
            return Fed::Behind { complete_from };
        }
        let start = ring.entries.partition_point(|entry| entry.index < from);
        let (mut bytes, mut entries) = (0, Vec::new());
        for entry in ring.entries.range(start..) {
            if bytes >= bytes_max {
                let upto = entry.index - 1;
                return Fed::Entries { entries, upto };
            }
            bytes += entry.command.len();
            entries.push(entry.clone());
        }
        let last = entries.last().map_or(0, |entry: &Entry| entry.index);
        Fed::Entries {
            upto: applied.max(last),
            entries,
        }
    }

    /// Those of the messages at these positions (ascending) that are in memory, in order.
    pub(crate) fn messages_at(&self, positions: &[Position]) -> Vec<TailItem> {
        let mut found = Vec::new();
        let mut rest = positions;
        while let Some(first) = rest.first() {
            let here = rest.partition_point(|position| position.index() == first.index());
            let (wanted, later) = rest.split_at(here);
            rest = later;
            let entry = {
                let ring = self.lock();
                let at = ring
                    .entries
                    .binary_search_by_key(&first.index(), |it| it.index);
                at.ok().map(|at| ring.entries[at].clone())
            };
            let items = entry.map_or_else(Vec::new, |entry| decode::items(&entry));
            found.extend(
                items
                    .into_iter()
                    .filter(|item| wanted.binary_search(&item.position).is_ok()),
            );
        }
        found
    }

    pub(super) fn add_reader(&self, position: u64) -> u64 {
        let reader = self.next_reader.fetch_add(1, Ordering::Relaxed);
        self.move_reader(reader, Some(position));
        reader
    }

    /// A reader got on, or went (`None`).
    pub(super) fn move_reader(&self, reader: u64, position: Option<u64>) {
        let mut positions = self
            .positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match position {
            Some(position) => positions.insert(reader, position),
            None => positions.remove(&reader),
        };
        let lowest = positions
            .values()
            .min()
            .map_or(u64::MAX, |position| position + 1);
        self.hold.store(lowest, Ordering::Release);
    }

    fn clear(&self, complete_from: u64) {
        *self.lock() = Ring {
            complete_from,
            ..Ring::default()
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, entry: Entry) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        while self.bytes > FEED_BYTES && self.entries.len() > 1 {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= weight(&oldest);
                self.complete_from = oldest.index + 1;
            }
        }
    }
}

fn weight(entry: &Entry) -> usize {
    entry.command.len().max(ENTRY_BYTES_MIN)
}
