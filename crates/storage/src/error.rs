//! What can go wrong with storage, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::GroupId;

/// A failure of the log, the key-value store or the data directory.
///
/// Cloneable, because one failed sync is the answer to every waiter behind it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The file or directory it failed on.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A write or sync failed earlier. What reached the disk is unknown, so that nothing more is
    /// accepted; the process should end and recover from disk.
    #[error("the log stopped itself: {reason}")]
    Stopped {
        /// The first failure.
        reason: Arc<str>,
    },
    /// The log was closed; no operation is accepted any more.
    #[error("the log is closed")]
    Closed,
    /// The log holds something that was synced once and cannot be read now. Starting from it could
    /// take back what was promised: this replica has to be replaced, or the file restored.
    #[error("{}: damaged at byte {offset}: {reason}", file.display())]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file the damage starts, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// An append that does not follow the last entry of its group, or whose own indexes have a gap.
    #[error("group {group}: expected entry {expected}, got {found}")]
    OutOfOrder {
        /// The group of the append.
        group: GroupId,
        /// The only index that can come next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// A payload or batch above the limit.
    #[error("{bytes} is above the limit of {bytes_max}")]
    TooLarge {
        /// Size that was asked for: bytes, or keys of a batch.
        bytes: u64,
        /// The largest that is accepted.
        bytes_max: u64,
    },
    /// Another process has this data directory open.
    #[error("{}: in use by another process{}", path.display(), holder(*pid))]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process that wrote the lock file last, if it can be read.
        pid: Option<u32>,
    },
    /// The data directory was written by a newer version of this software.
    #[error(
        "{}: data format {found}, but this version knows only up to {known}: start a newer version", path.display()
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format that this version can read.
        known: u32,
    },
    /// The directory has files in it, but none that says it is a data directory.
    #[error("{}: not empty, and not a data directory of this broker", path.display())]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The key-value store failed or is damaged.
    #[error("key-value store: {reason}")]
    KeyValue {
        /// The store's own words.
        reason: Arc<str>,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            what,
            path,
            source: Arc::new(source),
        }
    }

    /// Whether this is a full disk, which passes when there is room again.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}
