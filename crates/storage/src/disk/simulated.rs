//! A disk in memory that loses what was not synced, fills up, and fails when told to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

const PAGE_BYTES: usize = 4096;

/// A disk in memory. Clones share it.
///
/// Contents survive a [`power_loss`](Self::power_loss) only as far as they were synced; of the
/// pages written since, any subset survives. Of creations, renames and removals since the last
/// `sync_dir` a prefix survives, as on a journaling file system.
#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// `names` after each change that is not durable yet.
    name_changes: Vec<BTreeMap<PathBuf, usize>>,
    files: Vec<Contents>,
    capacity_bytes: u64,
    /// Writes and syncs that still work; then every operation fails.
    operations_left: Option<u64>,
    /// Files whose next sync fails.
    failing_syncs: std::collections::BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: std::collections::BTreeSet<usize>,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl SimulatedDisk {
    /// An empty disk on which files of this many bytes in all have room.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                capacity_bytes,
                ..Inner::default()
            })),
        }
    }

    /// Changes how many bytes have room. What is there already stays.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// After this many further writes and syncs, every operation fails, as if the machine had
    /// stopped there.
    pub fn stop_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// The next sync of each file that is there now fails, and what it should have made durable is lost at a power loss. Each file
    /// for itself: which one is synced first depends on what a log prepares in the background.
    pub fn fail_next_syncs(&self) {
        let mut inner = self.lock();
        inner.failing_syncs = (0..inner.files.len()).collect();
    }

    /// The disk as found after a loss of power now. Which unsynced pages and names survive
    /// follows from the seed. The old disk and its open files fail from here on.
    #[must_use]
    pub fn power_loss(&self, seed: u64) -> Self {
        let mut inner = self.lock();
        inner.operations_left = Some(0);
        let mut random = Random(seed);
        // Zero, some or all of what was not synced: each is a case of its own.
        let keep_in_256 = [0, 64, 128, 192, 256][random.below(5)];
        let kept = random.below(inner.name_changes.len() + 1);
        let names = match kept {
            0 => inner.durable_names.clone(),
            n => inner.name_changes[n - 1].clone(),
        };
        let files = inner
            .files
            .iter()
            .map(|file| file.after_power_loss(&mut random, keep_in_256))
            .collect();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                durable_names: names.clone(),
                names,
                files,
                capacity_bytes: inner.capacity_bytes,
                ..Inner::default()
            })),
        }
    }

    /// The disk as found by the next process after a kill: everything written is there, synced or
    /// not. The old disk fails from here on.
    #[must_use]
    pub fn process_killed(&self) -> Self {
        let mut inner = self.lock();
        inner.operations_left = Some(0);
        let taken = std::mem::take(&mut *inner);
        inner.operations_left = Some(0);
        Self {
            inner: Arc::new(Mutex::new(Inner {
                operations_left: None,
                failing_syncs: Default::default(),
                ..taken
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            Some(0) => Err(io::Error::other("the simulated machine stopped")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn running(&self) -> io::Result<()> {
        if self.operations_left == Some(0) {
            return Err(io::Error::other("the simulated machine stopped"));
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn used_bytes(&self) -> u64 {
        self.names
            .values()
            .map(|&file| self.files[file].current.len() as u64)
            .sum()
    }

    fn grow(&mut self, file: usize, bytes: usize) -> io::Result<()> {
        let old = self.files[file].current.len();
        if bytes <= old {
            return Ok(());
        }
        if self.used_bytes() + (bytes - old) as u64 > self.capacity_bytes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let contents = &mut self.files[file];
        contents.current.resize(bytes, 0);
        contents
            .dirty
            .extend(old / PAGE_BYTES..bytes.div_ceil(PAGE_BYTES));
        Ok(())
    }

    fn rename_done(&mut self) {
        self.name_changes.push(self.names.clone());
    }
}

impl Contents {
    fn after_power_loss(&self, random: &mut Random, keep_in_256: usize) -> Self {
        let mut found = self.durable.clone();
        for &page in &self.dirty {
            if random.below(256) >= keep_in_256 {
                continue;
            }
            let start = page * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(self.current.len());
            if start < end {
                if found.len() < end {
                    found.resize(end, 0);
                }
                found[start..end].copy_from_slice(&self.current[start..end]);
            }
        }
        Self {
            current: found.clone(),
            durable: found,
            dirty: std::collections::BTreeSet::new(),
        }
    }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.lock().running()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.lock();
        inner.running()?;
        Ok(inner
            .names
            .keys()
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.operate()?;
        inner.files.push(Contents::default());
        let file = inner.files.len() - 1;
        inner.names.insert(path.to_owned(), file);
        inner.rename_done();
        Ok(self.handle(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.lock();
        inner.running()?;
        let file = inner.find(path)?;
        drop(inner);
        Ok(self.handle(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        let file = inner.find(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_owned(), file);
        inner.rename_done();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        inner.find(path)?;
        inner.names.remove(path);
        inner.rename_done();
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operate()?;
        inner.durable_names = inner.names.clone();
        inner.name_changes.clear();
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.lock();
        inner.running()?;
        Ok(inner.capacity_bytes.saturating_sub(inner.used_bytes()))
    }
}

impl SimulatedDisk {
    fn handle(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile {
            disk: self.clone(),
            file,
        })
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
}

impl DiskFile for SimulatedFile {
    fn bytes(&self) -> io::Result<u64> {
        let inner = self.disk.lock();
        inner.running()?;
        Ok(inner.files[self.file].current.len() as u64)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.operate()?;
        inner.grow(self.file, bytes as usize)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.disk.lock();
        inner.running()?;
        let contents = &inner.files[self.file].current;
        let start = (offset as usize).min(contents.len());
        let read = buffer.len().min(contents.len() - start);
        buffer[..read].copy_from_slice(&contents[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.operate()?;
        let start = offset as usize;
        let end = start + bytes.len();
        inner.grow(self.file, end)?;
        let contents = &mut inner.files[self.file];
        contents.current[start..end].copy_from_slice(bytes);
        contents
            .dirty
            .extend(start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        inner.operate()?;
        if inner.failing_syncs.remove(&self.file) {
            // As Linux does: the error is told once, and the pages count as clean afterwards.
            inner.files[self.file].dirty.clear();
            return Err(io::Error::other("simulated sync failure"));
        }
        let Contents {
            current,
            durable,
            dirty,
        } = &mut inner.files[self.file];
        durable.resize(current.len(), 0);
        for page in std::mem::take(dirty) {
            let start = page * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(current.len());
            if start < end {
                durable[start..end].copy_from_slice(&current[start..end]);
            }
        }
        Ok(())
    }
}

/// SplitMix64: enough to choose which pages survive, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z % limit as u64) as usize
    }
}
