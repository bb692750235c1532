//! Reading entries that are no longer in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::group::{Entry, GroupCell, GroupId};
use super::record::{HEADER_BYTES, Kind, decode_header, record_bytes};
use super::segment::Segment;
use super::slots::Slot;
use crate::error::Error;

/// Records closer than this are read together with what lies between them.
const GAP_BYTES: u32 = 16 << 10;
const SPAN_BYTES: u32 = 4 << 20;

/// An entry, or where it lies.
enum Piece {
    Entry(Entry),
    OnDisk {
        index: u64,
        slot: Slot,
        segment: Arc<Segment>,
    },
}

/// The entries `range` of a group as far as they exist, at least one if any does, as many as fit
/// into `bytes_max` bytes of payload.
pub(super) fn read(
    shared: &Shared,
    group: &GroupCell,
    range: std::ops::Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, Error> {
    let pieces = locate(shared, group, range, bytes_max);
    let mut entries = Vec::with_capacity(pieces.len());
    let mut pieces = pieces.into_iter().peekable();
    while let Some(piece) = pieces.next() {
        let (index, slot, segment) = match piece {
            Piece::Entry(entry) => {
                entries.push(entry);
                continue;
            }
            Piece::OnDisk {
                index,
                slot,
                segment,
            } => (index, slot, segment),
        };
        let mut run = vec![(index, slot)];
        let mut end = slot.offset + record_bytes(slot.payload_bytes as usize) as u32;
        while let Some(Piece::OnDisk { index, slot, .. }) = pieces.next_if(|piece| match piece {
            Piece::OnDisk { slot: next, .. } => {
                next.segment == slot.segment
                    && next.offset >= end
                    && next.offset - end <= GAP_BYTES
                    && next.offset - slot.offset <= SPAN_BYTES
            }
            Piece::Entry(_) => false,
        }) {
            run.push((index, slot));
            end = slot.offset + record_bytes(slot.payload_bytes as usize) as u32;
        }
        read_run(group.id, &segment, &run, end, &mut entries)?;
    }
    Ok(entries)
}

fn locate(
    shared: &Shared,
    group: &GroupCell,
    range: std::ops::Range<u64>,
    bytes_max: usize,
) -> Vec<Piece> {
    // Segments are taken while the group is locked: as long as an entry counts, its segment stays,
    // and as long as the segment is held, its file is not recycled.
    let state = group.lock();
    let mut pieces = Vec::new();
    let mut bytes = 0;
    let mut last: Option<Arc<Segment>> = None;
    for index in range.start.max(state.slots.first())..range.end.min(state.slots.next()) {
        let Some(&slot) = state.slots.get(index) else {
            break;
        };
        bytes += slot.payload_bytes as usize;
        if bytes > bytes_max && !pieces.is_empty() {
            break;
        }
        if let Some(payload) = state.recent(index) {
            pieces.push(Piece::Entry(Entry {
                index,
                term: slot.term(),
                payload: payload.clone(),
            }));
            continue;
        }
        let segment = match &last {
            Some(segment) if segment.number == slot.segment => segment.clone(),
            _ => match shared.segments.get(slot.segment) {
                Some(segment) => segment,
                None => break,
            },
        };
        last = Some(segment.clone());
        pieces.push(Piece::OnDisk {
            index,
            slot,
            segment,
        });
    }
    pieces
}

pub(super) fn read_run(
    group: GroupId,
    segment: &Segment,
    run: &[(u64, Slot)],
    end: u32,
    entries: &mut Vec<Entry>,
) -> Result<(), Error> {
    let start = run[0].1.offset;
    let mut buffer = vec![0; (end - start) as usize];
    let read = segment
        .file
        .read_at(&mut buffer, u64::from(start))
        .map_err(Error::io("read", &segment.path))?;
    buffer.truncate(read);
    let buffer = Bytes::from(buffer);
    for (index, slot) in run {
        let at = (slot.offset - start) as usize;
        let record = buffer.get(at..).unwrap_or_default();
        let is_whole = decode_header(record, segment.salt, slot.offset).is_some_and(|found| {
            matches!(found.header.kind, Kind::Entry | Kind::Moved)
                && found.header.group == group.0
                && found.header.index == *index
                && found.header.term == slot.term()
                && found.payload(record).is_some()
        });
        if !is_whole {
            return Err(Error::Damaged {
                file: segment.path.clone(),
                offset: u64::from(slot.offset),
                reason: "an entry cannot be read back",
            });
        }
        let payload = at + HEADER_BYTES;
        entries.push(Entry {
            index: *index,
            term: slot.term(),
            payload: buffer.slice(payload..payload + slot.payload_bytes as usize),
        });
    }
    Ok(())
}
