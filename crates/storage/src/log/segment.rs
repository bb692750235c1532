//! One file of the log, and the table of those that hold records.
//!
//! A file begins with a page of its own: magic, format, segment number, a salt drawn anew for each
//! life of the file, its length, and a checksum. Records follow from [`DATA_START`] on.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::record::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile};
use crate::error::Error;

/// Records start on the second page, so that no write of records touches the header's.
pub(super) const DATA_START: u32 = 4096;
const PREFIX_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"magpilog";
const FORMAT: u32 = 1;

/// A file that is ready for records, or has some.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) salt: u64,
    pub(super) bytes: u32,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes of records that still count. Changes only after the change is durable.
    live_bytes: AtomicU64,
}

impl Segment {
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Acquire)
    }

    pub(super) fn add_live(&self, bytes: u64) {
        self.live_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// True if nothing counts any more.
    pub(super) fn remove_live(&self, bytes: u64) -> bool {
        let before = self.live_bytes.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "more removed than was live");
        before == bytes
    }

    /// Opens the file of a segment and checks its header.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, number: u32) -> Result<Self, Error> {
        let path = dir.join(file_name(number));
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        let mut prefix = [0; PREFIX_BYTES];
        let read = file
            .read_at(&mut prefix, 0)
            .map_err(Error::io("read", &path))?;
        let damaged = |reason| Error::Damaged {
            file: path.clone(),
            offset: 0,
            reason,
        };
        if read < PREFIX_BYTES || prefix[..8] != MAGIC {
            return Err(damaged("not a log segment"));
        }
        if u32_at(&prefix, 28) != crc32fast::hash(&prefix[..28]) {
            return Err(damaged("the segment's header has a wrong checksum"));
        }
        if u32_at(&prefix, 8) != FORMAT {
            return Err(damaged("the segment has an unknown format"));
        }
        if u32_at(&prefix, 12) != number {
            return Err(damaged("the segment has another number than its name says"));
        }
        Ok(Self {
            number,
            salt: u64_at(&prefix, 16),
            bytes: u32_at(&prefix, 24),
            path,
            file,
            live_bytes: AtomicU64::new(0),
        })
    }

    /// Gives a prepared file (`from`, its whole length written) a number, a new salt and its name.
    pub(super) fn begin(
        disk: &dyn Disk,
        dir: &Path,
        from: &Path,
        file: Arc<dyn DiskFile>,
        bytes: u32,
        number: u32,
    ) -> Result<Self, Error> {
        let salt = getrandom::u64().map_err(|error| {
            Error::io("draw a salt for", from)(io::Error::other(error.to_string()))
        })?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(&MAGIC);
        prefix[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        prefix[12..16].copy_from_slice(&number.to_le_bytes());
        prefix[16..24].copy_from_slice(&salt.to_le_bytes());
        prefix[24..28].copy_from_slice(&bytes.to_le_bytes());
        let checksum = crc32fast::hash(&prefix[..28]);
        prefix[28..].copy_from_slice(&checksum.to_le_bytes());

        file.write_at(&prefix, 0)
            .map_err(Error::io("write", from))?;
        file.sync().map_err(Error::io("sync", from))?;
        let path = dir.join(file_name(number));
        disk.rename(from, &path)
            .map_err(Error::io("rename", from))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(Self {
            number,
            salt,
            bytes,
            path,
            file,
            live_bytes: AtomicU64::new(0),
        })
    }
}

pub(super) fn file_name(number: u32) -> String {
    format!("{number:010}.log")
}

/// The number in the name of a segment's file.
pub(super) fn number_of(name: &str) -> Option<u32> {
    name.strip_suffix(".log")?.parse().ok()
}

/// The segments that hold records, oldest first, without gaps; the last is being written.
#[derive(Debug, Default)]
pub(super) struct Segments {
    table: RwLock<VecDeque<Arc<Segment>>>,
}

impl Segments {
    pub(super) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let first = table.front()?.number;
        table.get(number.checked_sub(first)? as usize).cloned()
    }

    pub(super) fn oldest(&self) -> Option<Arc<Segment>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.front().cloned()
    }

    pub(super) fn push(&self, segment: Arc<Segment>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(
            table
                .back()
                .is_none_or(|last| last.number + 1 == segment.number)
        );
        table.push_back(segment);
    }

    pub(super) fn pop_oldest(&self) -> Option<Arc<Segment>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.pop_front()
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().cloned().collect()
    }

    pub(super) fn add_live(&self, number: u32, bytes: u64) {
        if let Some(segment) = self.get(number) {
            segment.add_live(bytes);
        }
    }

    /// True if nothing in the segment counts any more.
    pub(super) fn remove_live(&self, number: u32, bytes: u64) -> bool {
        self.get(number)
            .is_some_and(|segment| segment.remove_live(bytes))
    }
}
