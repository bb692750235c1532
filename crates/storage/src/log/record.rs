//! The bytes of one record.
//!
//! ```text
//! 0   u32  checksum of bytes 4..40, seeded with the segment's salt and the record's offset
//! 4   u32  checksum of the payload
//! 8   u32  payload bytes (28 bits), kind (4 bits)
//! 12  u32  group
//! 16  u64  index
//! 24  u64  term
//! 32  u64  watermark: everything before this position was synced when the record was written
//! 40       payload, then zeros up to a multiple of 8
//! ```
//! All numbers are little endian. The seed makes a record valid only at its place and in one life
//! of its segment: neither what an earlier life left behind nor a copy inside a payload passes.
//! The header has its own checksum, so that a search for headers in damaged bytes never trusts a
//! length that an outsider chose.

pub(super) const HEADER_BYTES: usize = 40;
pub(super) const ALIGN: usize = 8;
/// Payload lengths have 28 bits.
pub(super) const PAYLOAD_BYTES_LIMIT: usize = (1 << 28) - 1;

/// A place in the log: segment in the upper half, byte offset in the lower. Orders as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position(pub(super) u64);

impl Position {
    pub(super) fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    pub(super) fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A new entry of a group.
    Entry = 1,
    /// An entry that still counted when its segment was to be dropped, written again.
    Moved = 2,
    Vote = 3,
    Committed = 4,
    /// Entries from `index` on are void.
    Truncate = 5,
    /// Entries up to `index` are gone; the payload is the caller's note about them.
    Purge = 6,
    /// The group is gone.
    Remove = 7,
    /// Segments below `index` are about to be dropped.
    Drop = 8,
    /// Nothing but its watermark.
    Watermark = 9,
    /// The last record of a segment.
    Seal = 10,
}

impl Kind {
    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            1 => Self::Entry,
            2 => Self::Moved,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Truncate,
            6 => Self::Purge,
            7 => Self::Remove,
            8 => Self::Drop,
            9 => Self::Watermark,
            10 => Self::Seal,
            _ => return None,
        })
    }
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) group: u32,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) watermark: Position,
}

/// The space a record takes, with its padding.
pub(super) fn record_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// Appends a record that will lie at `offset` of the segment with this salt.
pub(super) fn encode(buffer: &mut Vec<u8>, salt: u64, offset: u32, header: Header, payload: &[u8]) {
    debug_assert!(payload.len() <= PAYLOAD_BYTES_LIMIT);
    let mut bytes = [0; HEADER_BYTES];
    bytes[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let length_and_kind = payload.len() as u32 | (header.kind as u32) << 28;
    bytes[8..12].copy_from_slice(&length_and_kind.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.group.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.index.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.term.to_le_bytes());
    bytes[32..40].copy_from_slice(&header.watermark.0.to_le_bytes());
    let checksum = header_checksum(salt, offset, &bytes);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());

    let end = buffer.len() + record_bytes(payload.len());
    buffer.extend_from_slice(&bytes);
    buffer.extend_from_slice(payload);
    buffer.resize(end, 0);
}

/// A header that passed its checksum. The payload is not checked yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) payload_bytes: usize,
    payload_checksum: u32,
}

impl Found {
    pub(super) fn record_bytes(&self) -> usize {
        record_bytes(self.payload_bytes)
    }

    /// The payload, if all of it is in `bytes` (which start at the record) and it is whole.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + self.payload_bytes)?;
        (crc32fast::hash(payload) == self.payload_checksum).then_some(payload)
    }
}

/// Reads the header at the start of `bytes`, which lie at `offset` of the segment with this salt.
pub(super) fn decode_header(bytes: &[u8], salt: u64, offset: u32) -> Option<Found> {
    let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let length_and_kind = u32_at(bytes, 8);
    // Cheap, and false for zeros: a search through an empty tail ends here.
    let kind = Kind::from_bits(length_and_kind >> 28)?;
    if u32_at(bytes, 0) != header_checksum(salt, offset, bytes) {
        return None;
    }
    Some(Found {
        header: Header {
            kind,
            group: u32_at(bytes, 12),
            index: u64_at(bytes, 16),
            term: u64_at(bytes, 24),
            watermark: Position(u64_at(bytes, 32)),
        },
        payload_bytes: (length_and_kind & PAYLOAD_BYTES_LIMIT as u32) as usize,
        payload_checksum: u32_at(bytes, 4),
    })
}

fn header_checksum(salt: u64, offset: u32, bytes: &[u8; HEADER_BYTES]) -> u32 {
    let mixed = (salt ^ u64::from(offset)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut hasher = crc32fast::Hasher::new_with_initial((mixed >> 32) as u32);
    hasher.update(&bytes[4..]);
    hasher.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: Kind::Entry,
        group: 7,
        index: 1 << 40,
        term: 9,
        watermark: Position(123),
    };

    #[test]
    fn a_record_reads_back() {
        let mut buffer = Vec::new();
        encode(&mut buffer, 42, 4096, HEADER, b"hello");
        assert_eq!(buffer.len(), 48);
        let found = decode_header(&buffer, 42, 4096).expect("valid");
        assert_eq!(found.header, HEADER);
        assert_eq!(found.payload(&buffer), Some(&b"hello"[..]));
    }

    #[test]
    fn a_record_is_valid_only_at_its_place_and_in_its_life() {
        let mut buffer = Vec::new();
        encode(&mut buffer, 42, 4096, HEADER, b"hello");
        assert!(decode_header(&buffer, 42, 4104).is_none());
        assert!(decode_header(&buffer, 43, 4096).is_none());
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut buffer = Vec::new();
        encode(&mut buffer, 42, 4096, HEADER, b"hello");
        for bit in 0..(HEADER_BYTES + 5) * 8 {
            let mut damaged = buffer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let whole = decode_header(&damaged, 42, 4096).and_then(|f| f.payload(&damaged));
            assert_eq!(whole, None, "bit {bit}");
        }
    }
}
