//! Reads a local replica's entries in order, from memory while it keeps up, else from the log.

use std::sync::Arc;

use bytes::Bytes;
use magpie_state::partition::{PartitionState, Skip};
use tokio::sync::watch;

use super::feed::{Fed, Feed};
use crate::raft::RaftGroup;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// A log entry with records.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    /// A command of the partition.
    pub(crate) command: Bytes,
    pub(crate) refused: Refused,
    /// Of a command that was thinned out: the ordinals that its records had. `None`: it is whole.
    pub(crate) ordinals: Option<Vec<u32>>,
}

/// Ordinals of records to pass over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(pub(crate) Vec<u32>);

/// What a read brought.
pub(crate) enum Read {
    /// Entries; everything up to `upto` is among them or holds no messages.
    Entries { entries: Vec<Entry>, upto: u64 },
    /// Entries up to this index are not in this replica's log any more, or never were.
    Gap { upto: u64 },
    /// The replica is gone.
    Stopped,
}

/// One reader's place.
pub(crate) struct Reader {
    group: RaftGroup<PartitionState>,
    feed: Arc<Feed>,
    applied: watch::Receiver<u64>,
    id: u64,
    /// Everything up to here was read.
    position: u64,
}

impl Reader {
    pub(crate) fn new(group: RaftGroup<PartitionState>, feed: Arc<Feed>, position: u64) -> Self {
        let id = feed.add_reader(position);
        Self {
            applied: group.watch_applied(),
            group,
            feed,
            id,
            position,
        }
    }

    /// Index up to which everything was read.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// What comes next, waiting for it.
    pub(crate) async fn next(&mut self) -> Read {
        loop {
            let applied = *self.applied.borrow_and_update();
            match self.feed.read(self.position + 1, applied, READ_BYTES) {
                Fed::Entries { entries, upto } if upto > self.position => {
                    self.move_to(upto);
                    return Read::Entries { entries, upto };
                }
                Fed::Entries { .. } => {
                    if !self.more_applied().await {
                        return Read::Stopped;
                    }
                }
                Fed::Behind { complete_from } => return self.read_log(complete_from).await,
            }
        }
    }

    async fn read_log(&mut self, end: u64) -> Read {
        let from = self.position + 1;
        let range = match self.group.read_log(from..end, READ_BYTES).await {
            Ok(range) => range,
            Err(error) => {
                tracing::error!(group = %self.group.group().0, %error, "the log cannot be read back");
                return Read::Stopped;
            }
        };
        let readable_from = self.group.with_state(PartitionState::readable_from);
        let first = range.first.max(readable_from);
        if first > from {
            // Only what the log and memory lack is a gap; what comes behind it is read next.
            return Read::Gap {
                upto: first.min(end) - 1,
            };
        }
        let entries: Vec<Entry> = self.group.with_state(|state| {
            let kept = range.commands.into_iter().filter_map(|(index, command)| {
                let refused = match state.skip(index) {
                    Skip::Whole => return None,
                    Skip::Nothing => Vec::new(),
                    Skip::Records(ordinals) => ordinals.to_vec(),
                };
                Some(Entry {
                    index,
                    command,
                    refused: Refused(refused),
                    ordinals: None,
                })
            });
            kept.collect()
        });
        let upto = range.next.max(from) - 1;
        if upto < from {
            // The log's end is before what memory has: a replica that is starting.
            if !self.more_applied().await {
                return Read::Stopped;
            }
            return Read::Entries {
                entries: Vec::new(),
                upto: self.position,
            };
        }
        self.move_to(upto);
        Read::Entries { entries, upto }
    }

    /// Goes on behind a gap.
    pub(crate) fn pass_over(&mut self, upto: u64) {
        self.move_to(self.position.max(upto));
    }

    /// Waits until more is applied; false when the replica is stopped. The state that tells of what is applied outlives the group, so
    /// that its silence alone would never end.
    async fn more_applied(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.group.stopped() => false,
            changed = self.applied.changed() => changed.is_ok(),
        }
    }

    fn move_to(&mut self, position: u64) {
        self.position = position;
        self.feed.move_reader(self.id, Some(position));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.move_reader(self.id, None);
    }
}
