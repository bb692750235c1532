//! The disk as the log needs it: the real one, and a simulated one that loses what was not synced.

mod real;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub use simulated::SimulatedDisk;

/// A file system. Names become durable with [`sync_dir`](Self::sync_dir), contents with
/// [`DiskFile::sync`].
pub trait Disk: Debug + Send + Sync + 'static {
    /// Creates a directory and its parents; no error if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates an empty file; one of that name is replaced.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; handles that are open keep working.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that can still be allocated on the disk of this directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file. All methods may be called from several threads at once.
pub trait DiskFile: Debug + Send + Sync {
    /// The length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// Reserves room for this length and extends the file to it. Fails with
    /// [`io::ErrorKind::StorageFull`] when there is no room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Reads until the buffer is full or the file ends; returns how much was read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of the bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written so far survives a loss of power.
    fn sync(&self) -> io::Result<()>;
}
