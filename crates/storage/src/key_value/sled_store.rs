//! The store on sled 0.34.7.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::fdatasync;

use super::{Batch, KeyValue, Tree};
use crate::error::Error;

const SEGMENT_BYTES: usize = 8 << 20;

/// How long a lock on the store is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// sled's tree that exists always; not one of ours.
const DEFAULT_TREE: &str = "__sled__default";

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    /// The file that holds all trees.
    file: File,
    path: PathBuf,
}

impl SledStore {
    /// Opens the store in `dir`, or creates it. `cache_bytes` bounds sled's page cache.
    ///
    /// # Errors
    /// [`Error::KeyValue`] if it is damaged, or still in use after 10 s; [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, cache_bytes: u64) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            // sled writes a node beyond a quarter of a segment to a file of its own and never syncs
            // that file. A node holds at most 17 values of Batch::VALUE_BYTES_MAX, so with this
            // there are no such files.
            .segment_size(SEGMENT_BYTES)
            // Flushed when the caller says so: a flush in between would make half a checkpoint
            // durable at a time that nobody chose.
            .flush_every_ms(None);
        let db = open_unlocked(&config)?;
        let path = dir.join("db");
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(Error::io("sync", dir))?;
        }
        Ok(Self { db, file, path })
    }
}

/// A store that was dropped keeps its lock until sled's own threads have ended the work that they were
/// given, soon after the drop; so a lock is waited for, and only one that stays belongs to somebody else.
fn open_unlocked(config: &sled::Config) -> Result<sled::Db, Error> {
    let began = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && began.elapsed() < LOCK_WAIT =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.map_err(failed),
        }
    }
}

impl KeyValue for SledStore {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        Ok(Arc::new(SledTree(self.db.open_tree(name).map_err(failed)?)))
    }

    fn tree_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .db
            .tree_names()
            .into_iter()
            .map(|name| String::from_utf8_lossy(&name).into_owned())
            .filter(|name| name != DEFAULT_TREE)
            .collect();
        names.sort_unstable();
        names
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        self.db.drop_tree(name).map_err(failed)?;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.db.flush().map_err(failed)?;
        // sled's flush hands the pages to the disk but does not wait for its cache
        // (spacejam/sled#1452).
        fdatasync(&self.file).map_err(|errno| Error::io("sync", &self.path)(errno.into()))
    }
}

#[derive(Debug)]
struct SledTree(sled::Tree);

impl Tree for SledTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let value = self.0.get(key).map_err(failed)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        for pair in self.0.range(prefix.max(from)..) {
            let (key, value) = pair.map_err(failed)?;
            if !key.starts_with(prefix) || !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), Error> {
        batch.check()?;
        let mut changes = sled::Batch::default();
        for (key, value) in &batch.changes {
            match value {
                Some(value) => changes.insert(&key[..], &value[..]),
                None => changes.remove(&key[..]),
            }
        }
        self.0.apply_batch(changes).map_err(failed)
    }
}

fn failed(error: sled::Error) -> Error {
    Error::KeyValue {
        reason: error.to_string().into(),
    }
}
