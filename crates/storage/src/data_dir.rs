//! The directory of a node: one process at a time, one format.
//!
//! ```text
//! LOCK      held while a process runs; its process id
//! FORMAT    the number of the data format
//! log/      the node-wide log
//! db/       the key-value store
//! ```
//! Further small files belong to the caller and are written with [`DataDir::write_file`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::Error;

/// The newest data format that this version reads, and the one it writes.
const FORMAT: u32 = 1;
const LOCK_FILE: &str = "LOCK";
const FORMAT_FILE: &str = "FORMAT";

/// An open data directory. The lock is held until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens a data directory, or creates one where there is none or an empty directory.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NewerFormat`], [`Error::NotADataDirectory`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        refuse_foreign(&path)?;
        let lock = lock(&path)?;
        let dir = Self { path, _lock: lock };
        match dir.read_file(FORMAT_FILE)? {
            None => dir.write_file(FORMAT_FILE, format!("{FORMAT}\n").as_bytes())?,
            Some(content) => dir.check_format(&content)?,
        }
        for sub in [dir.log_dir(), dir.db_dir()] {
            std::fs::create_dir_all(&sub).map_err(Error::io("create", &sub))?;
        }
        dir.sync()?;
        Ok(dir)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the node-wide log lives.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the key-value store lives.
    #[must_use]
    pub fn db_dir(&self) -> PathBuf {
        self.path.join("db")
    }

    /// Reads a small file of the directory; none if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Writes a small file of the directory. When this returns, the new content survives a loss of
    /// power; until then, the old one does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}.new"));
        File::create(&new)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(Error::io("write", &new))?;
        std::fs::rename(&new, &path).map_err(Error::io("rename", &new))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), Error> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(Error::io("sync", &self.path))
    }

    fn check_format(&self, content: &[u8]) -> Result<(), Error> {
        let found = std::str::from_utf8(content)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .ok_or_else(|| Error::Damaged {
                file: self.path.join(FORMAT_FILE),
                offset: 0,
                reason: "not a format number",
            })?;
        if found > FORMAT {
            return Err(Error::NewerFormat {
                path: self.path.clone(),
                found,
                known: FORMAT,
            });
        }
        Ok(())
    }
}

/// Refuses a directory that holds something else, before a file is put into it.
fn refuse_foreign(path: &Path) -> Result<(), Error> {
    let mut is_empty = true;
    for file in std::fs::read_dir(path).map_err(Error::io("list", path))? {
        let name = file.map_err(Error::io("list", path))?.file_name();
        match name.to_str() {
            Some(FORMAT_FILE) => return Ok(()),
            // What a first start may have left, and what a fresh volume has.
            Some(LOCK_FILE | "FORMAT.new" | "lost+found") => {}
            _ => is_empty = false,
        }
    }
    if is_empty {
        return Ok(());
    }
    Err(Error::NotADataDirectory {
        path: path.to_owned(),
    })
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // Only for the message: whatever it says, the directory is in use.
            let _ = file.read_to_string(&mut holder);
            return Err(Error::InUse {
                path: dir.to_owned(),
                pid: holder.trim().parse().ok(),
            });
        }
        Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(Error::io("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_directory_opens_once_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let second = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(second, Error::InUse { pid: Some(pid), .. } if pid == std::process::id()));
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        std::fs::write(dir.path().join(FORMAT_FILE), "2\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NewerFormat { found: 2, .. }));
        std::fs::write(dir.path().join(FORMAT_FILE), "x").unwrap();
        assert!(matches!(
            DataDir::open(dir.path()).unwrap_err(),
            Error::Damaged { .. }
        ));
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NotADataDirectory { .. }));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let dir = DataDir::open(dir.path()).unwrap();
        assert_eq!(dir.read_file("node").unwrap(), None);
        dir.write_file("node", b"one").unwrap();
        dir.write_file("node", b"two").unwrap();
        assert_eq!(dir.read_file("node").unwrap().unwrap(), b"two");
    }
}
