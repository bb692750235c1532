//! Reads one segment: its records up to the first bad one, and what follows it.

use bytes::Bytes;

use super::group::Place;
use super::record::{ALIGN, HEADER_BYTES, Header, Kind, Position, decode_header};
use super::segment::{DATA_START, Segment};
use crate::error::Error;

const WINDOW_BYTES: usize = 512 << 10;

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
    Sealed,
    /// No valid record at this offset: the end of the log, or a damage.
    Bad {
        offset: u32,
        /// Something of this life was written here or further on.
        is_torn: bool,
        /// The highest watermark of the headers found further on.
        later_watermark: Option<Position>,
    },
}

/// Scans a segment. `buffer` is only there to be used again.
pub(super) fn scan(segment: &Segment, buffer: &mut Vec<u8>) -> Result<Scan, Error> {
    let mut window = Window::new(segment, buffer);
    let mut scan = Scan {
        records: Vec::new(),
        notes: Vec::new(),
        watermark: Position::default(),
        end: End::Sealed,
    };
    let mut offset = DATA_START as usize;
    loop {
        let found = decode_header(
            window.at(offset, HEADER_BYTES)?,
            segment.salt,
            offset as u32,
        );
        let payload = match &found {
            Some(found) => found.payload(window.at(offset, found.record_bytes())?),
            None => None,
        };
        let (Some(found), Some(payload)) = (found, payload) else {
            let later_watermark = later_watermark(&mut window, segment, offset)?;
            scan.end = End::Bad {
                offset: offset as u32,
                is_torn: found.is_some() || later_watermark.is_some(),
                later_watermark,
            };
            return Ok(scan);
        };
        let header = found.header;
        scan.watermark = scan.watermark.max(header.watermark);
        if header.kind == Kind::Seal {
            return Ok(scan);
        }
        if !matches!(header.kind, Kind::Entry | Kind::Moved) {
            scan.notes.push(Bytes::copy_from_slice(payload));
        }
        let record = scanned(segment, offset, header, found.payload_bytes);
        scan.records.push(record);
        offset += found.record_bytes();
    }
}

/// A part of a segment in memory: small enough to stay in the processor's cache.
struct Window<'a> {
    segment: &'a Segment,
    buffer: &'a mut Vec<u8>,
    start: usize,
    filled: usize,
}

impl<'a> Window<'a> {
    fn new(segment: &'a Segment, buffer: &'a mut Vec<u8>) -> Self {
        Self {
            segment,
            buffer,
            start: 0,
            filled: 0,
        }
    }

    /// The bytes from `offset` on, at least this many if the file has them.
    fn at(&mut self, offset: usize, bytes: usize) -> Result<&[u8], Error> {
        let end = (offset + bytes).min(self.segment.bytes as usize);
        if offset < self.start || end > self.start + self.filled {
            let wanted = WINDOW_BYTES.max(bytes);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            let limit = wanted.min((self.segment.bytes as usize).saturating_sub(offset));
            self.filled = self
                .segment
                .file
                .read_at(&mut self.buffer[..limit], offset as u64)
                .map_err(Error::io("read", &self.segment.path))?;
            self.start = offset;
        }
        let at = (offset - self.start).min(self.filled);
        Ok(&self.buffer[at..self.filled])
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
fn later_watermark(
    window: &mut Window<'_>,
    segment: &Segment,
    bad: usize,
) -> Result<Option<Position>, Error> {
    let mut highest = None;
    let mut offset = bad + ALIGN;
    loop {
        let bytes = window.at(offset, HEADER_BYTES)?;
        if bytes.len() < HEADER_BYTES {
            return Ok(highest);
        }
        for at in (0..=bytes.len() - HEADER_BYTES).step_by(ALIGN) {
            let found = decode_header(&bytes[at..], segment.salt, (offset + at) as u32);
            highest = highest.max(found.map(|found| found.header.watermark));
        }
        offset += (bytes.len() - HEADER_BYTES) / ALIGN * ALIGN + ALIGN;
    }
}
