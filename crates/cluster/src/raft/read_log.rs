//! Reading committed commands back from the log, for tails.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::entry;
use super::log_store::LogStore;

/// Commands of a range of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange {
    /// The first index that the log still has (or would have, if it is empty). If it is above what was asked for, the entries before it
    /// were purged.
    pub first: u64,
    /// Index and command, in order. Raft's own entries are left out, so that indexes may have gaps.
    pub commands: Vec<(u64, Bytes)>,
    /// Where to go on: everything that was asked for below it is in `commands`, or was Raft's own, or is below `first`.
    pub next: u64,
}

/// `jumped` are the indexes that a snapshot passed over last: what the log has there until it is purged was not applied, and may never have
/// been committed.
pub(super) async fn read(
    store: &LogStore,
    range: Range<u64>,
    applied: u64,
    jumped: Range<u64>,
    bytes_max: usize,
) -> io::Result<LogRange> {
    let mut end = range.end.min(applied + 1);
    let mut first = store.range().start;
    if jumped.contains(&range.start.max(first)) {
        first = jumped.end;
    } else if !jumped.is_empty() && range.start.max(first) < jumped.start {
        end = end.min(jumped.start);
    }
    let start = range.start.max(first).min(end);
    let entries = store.read(start..end, bytes_max).await?;
    // Purged while we read: ask again from what is left.
    let first = store.range().start.max(first);
    let next = entries.last().map_or(start, |last| last.index + 1);
    let commands = entries
        .into_iter()
        .filter(|entry| entry::is_command(entry.term))
        .map(|entry| (entry.index, entry.payload))
        .collect();
    Ok(LogRange {
        first,
        commands,
        next,
    })
}
