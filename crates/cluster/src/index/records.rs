//! Records of found messages, from the log or from rows of the checkpoint.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use magpie_state::Position;
use magpie_state::partition::PartitionState;

use super::PartitionIndex;
use super::cache::Cache;
use super::topic_index::Found;
use crate::raft::Stored;

/// Bytes read from the log at once.
const READ_BYTES: usize = 1 << 20;

/// Some messages' records, one after the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) positions: Vec<Position>,
    pub(crate) bytes: Bytes,
}

impl PartitionIndex {
    /// The records of messages, in order. A message that nobody needs any more may be gone by now; it is left out.
    pub(super) async fn read(&self, found: Vec<Found>) -> io::Result<Records> {
        let Some(first) = found.first() else {
            return Ok(Records::default());
        };
        let stored = self.group.stored();
        let first = first.position.index();
        let is_row = first < stored.range().start;
        let cache = Arc::clone(&self.cache);
        if !is_row && !stored.needs_disk(first) {
            return collect(&stored, &cache, &found);
        }
        tokio::task::spawn_blocking(move || collect(&stored, &cache, &found))
            .await
            .map_err(io::Error::other)?
    }
}

/// Reads each entry once, and copies the records out of it: what is handed on holds no more memory than it needs.
fn collect(stored: &Stored, cache: &Cache, found: &[Found]) -> io::Result<Records> {
    let bytes = found.iter().map(|found| found.bytes as usize).sum();
    let mut bytes = BytesMut::with_capacity(bytes);
    let mut positions = Vec::with_capacity(found.len());
    let mut ahead: Vec<(u64, Bytes)> = Vec::new();
    let mut rest = found;
    while let Some(first) = rest.first() {
        let index = first.position.index();
        let of_entry = rest.partition_point(|found| found.position.index() == index);
        let (entry, others) = rest.split_at(of_entry);
        let command = match ahead.iter().find(|(at, _)| *at == index) {
            Some((_, command)) => Some(command.clone()),
            None => command(stored, cache, index, others, &mut ahead)?,
        };
        for found in entry {
            let record = match &command {
                Some(command) => {
                    let start = found.offset as usize;
                    let record = command.get(start..start + found.bytes as usize);
                    record.map(|record| command.slice_ref(record))
                }
                // The log was purged: if the message is still needed, the checkpoint has it.
                None => stored.row(&PartitionState::message_row(found.position))?,
            };
            if let Some(record) = record {
                bytes.extend_from_slice(&record);
                positions.push(found.position);
            }
        }
        rest = others;
    }
    Ok(Records {
        positions,
        bytes: bytes.freeze(),
    })
}

/// The command at `index`, if the log has it. Those behind it that are needed next, without a gap, are read along with it.
fn command(
    stored: &Stored,
    cache: &Cache,
    index: u64,
    others: &[Found],
    ahead: &mut Vec<(u64, Bytes)>,
) -> io::Result<Option<Bytes>> {
    ahead.clear();
    if index < stored.range().start {
        return Ok(None);
    }
    if !stored.needs_disk(index) {
        let mut commands = stored.commands(index..index + 1, 1)?;
        return Ok(commands.pop().map(|(_, command)| command));
    }
    if let Some(command) = cache.get(index) {
        return Ok(Some(command));
    }
    let mut end = index + 1;
    for other in others {
        match other.position.index() {
            at if at == end => end += 1,
            at if at > end => break,
            _ => {}
        }
    }
    *ahead = stored.commands(index..end, READ_BYTES)?;
    for (index, command) in &*ahead {
        cache.put(*index, command);
    }
    let first = ahead.first().filter(|(at, _)| *at == index);
    Ok(first.map(|(_, command)| command.clone()))
}
