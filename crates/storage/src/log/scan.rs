//! Reads one segment: its records up to the first bad one, and what follows it.

use bytes::Bytes;

use super::group::Place;
use super::record::{ALIGN, HEADER_BYTES, Header, Kind, Position, decode_header};
use super::segment::{DATA_START, Segment};
use crate::error::Error;

/// What one segment holds.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) records: Vec<Scanned>,
    /// The payloads of all but entries, in order.
    pub(super) notes: Vec<Bytes>,
    /// The highest watermark of the valid records.
    pub(super) watermark: Position,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) header: ScannedHeader,
    pub(super) place: Place,
    pub(super) payload_bytes: u32,
}

/// A header without its watermark: millions of them are in memory for a moment.
#[derive(Debug)]
pub(super) struct ScannedHeader {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) index: u64,
    pub(super) term: u64,
}

/// Where the records end, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A seal: the log goes on in the next segment.
    Sealed(u32),
    /// No valid record at this offset: the end of the log, or a damage.
    Bad {
        offset: u32,
        /// The highest watermark of the headers found further on.
        later_watermark: Option<Position>,
    },
}

/// Scans a segment. `buffer` is only there to be used again.
pub(super) fn scan(segment: &Segment, buffer: &mut Vec<u8>) -> Result<Scan, Error> {
    buffer.resize(segment.bytes as usize, 0);
    let read = segment
        .file
        .read_at(buffer, 0)
        .map_err(Error::io("read", &segment.path))?;
    let bytes = &buffer[..read];

    let mut scan = Scan {
        records: Vec::new(),
        notes: Vec::new(),
        watermark: Position::default(),
        end: End::Sealed(0),
    };
    let mut offset = DATA_START as usize;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        let found = decode_header(rest, segment.salt, offset as u32);
        let whole = found.and_then(|found| Some((found, found.payload(rest)?)));
        let Some((found, payload)) = whole else {
            scan.end = End::Bad {
                offset: offset as u32,
                later_watermark: later_watermark(bytes, segment.salt, offset),
            };
            return Ok(scan);
        };
        let header = found.header;
        scan.watermark = scan.watermark.max(header.watermark);
        if header.kind == Kind::Seal {
            scan.end = End::Sealed(offset as u32);
            return Ok(scan);
        }
        if !matches!(header.kind, Kind::Entry | Kind::Moved) {
            scan.notes.push(Bytes::copy_from_slice(payload));
        }
        scan.records
            .push(scanned(segment, offset, header, found.payload_bytes));
        offset += found.record_bytes();
    }
}

fn scanned(segment: &Segment, offset: usize, header: Header, payload_bytes: usize) -> Scanned {
    Scanned {
        header: ScannedHeader {
            kind: header.kind,
            group: header.group,
            index: header.index,
            term: header.term,
        },
        place: Place {
            segment: segment.number,
            offset: offset as u32,
            bytes: super::record::record_bytes(payload_bytes) as u32,
        },
        payload_bytes: payload_bytes as u32,
    }
}

/// Searches behind a bad record. A header alone is proof enough that later bytes were written in
/// this life of the segment.
fn later_watermark(bytes: &[u8], salt: u64, bad: usize) -> Option<Position> {
    (bad + ALIGN..bytes.len().saturating_sub(HEADER_BYTES - 1))
        .step_by(ALIGN)
        .filter_map(|offset| decode_header(&bytes[offset..], salt, offset as u32))
        .map(|found| found.header.watermark)
        .max()
}
