//! The thread that keeps segments: prepares them ahead of the committer, drops those that nobody
//! needs, and recycles their files.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Shared;
use super::queue::{Operation, What};
use super::segment::Segment;
use super::space::Space;
use crate::disk::{Disk, DiskFile};
use crate::error::Error;

const FILL_BYTES: usize = 256 << 10;
/// How long the keeper rests without being called: how soon it sees room on a full disk.
const REST: Duration = Duration::from_millis(200);

/// A file of full length whose content no longer matters.
#[derive(Debug)]
pub(super) struct FreeFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u32,
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    /// Number of the next segment to prepare.
    next: u32,
    free: Vec<FreeFile>,
    /// The last attempt to prepare a segment found no room.
    is_full: bool,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, next: u32, free: Vec<FreeFile>) -> Self {
        Self {
            shared,
            next,
            free,
            is_full: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            // While the log closes, the queue takes nothing more, but the committer may need
            // spares for what is in it.
            let result = unless_closed(self.drop_unneeded())
                .and_then(|()| self.prepare())
                .and_then(|()| unless_closed(self.compact()));
            if let Err(error) = result {
                tracing::error!(%error, "log segments cannot be kept");
                return self.shared.spares.fail(error);
            }
            self.watch_space();
            if !self.shared.spares.wait_as_keeper(REST) {
                return;
            }
        }
    }

    /// Prepares spares. A full disk is not an error: the next round tries again.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        match self.prepare_all() {
            Err(error) if error.is_out_of_space() => {
                self.shared.spares.set_full();
                self.is_full = true;
                Ok(())
            }
            result => {
                self.is_full = false;
                result
            }
        }
    }

    fn watch_space(&self) {
        let options = &self.shared.options;
        // Unknown counts as room: a full disk shows when a spare is prepared.
        let free = self.shared.disk.free_bytes(&self.shared.dir);
        let free = free.unwrap_or(u64::MAX);
        let has_spare = self.shared.spares.count() > 0;
        self.shared.space.set(
            if free < options.hard_free_bytes || (self.is_full && !has_spare) {
                Space::Hard
            } else if free < options.soft_free_bytes || self.is_full {
                Space::Soft
            } else {
                Space::Ok
            },
        );
    }

    fn prepare_all(&mut self) -> Result<(), Error> {
        while self.shared.spares.count() < self.shared.options.spare_segments {
            if self.shared.spares.is_closed() {
                break;
            }
            let (disk, dir) = (&*self.shared.disk, &self.shared.dir);
            let free = match self.free.pop() {
                Some(free) if free.bytes != self.shared.options.segment_bytes => {
                    remove(disk, &free.path)?;
                    continue;
                }
                Some(free) => free,
                None => {
                    let path = dir.join("filling.new");
                    let bytes = self.shared.options.segment_bytes;
                    match create_filled(disk, &path, bytes, Fill::Gently) {
                        Ok(file) => FreeFile { path, file, bytes },
                        Err(error) => {
                            // What was reserved of it is wanted elsewhere.
                            let _ = disk.remove(&path);
                            return Err(error);
                        }
                    }
                }
            };
            let segment = Segment::begin(disk, dir, &free.path, free.file, free.bytes, self.next)?;
            self.next += 1;
            self.shared.spares.add(segment);
        }
        Ok(())
    }

    /// Drops segments from the oldest on, as long as nothing in them counts.
    pub(super) fn drop_unneeded(&mut self) -> Result<(), Error> {
        while let Some(oldest) = self.shared.segments.oldest() {
            let landed = self.shared.landed_segment.load(Ordering::Acquire);
            if oldest.number >= landed || oldest.live_bytes() > 0 {
                break;
            }
            // The log says first which segments are gone on purpose; one that is missing otherwise
            // is a damage that recovery must notice.
            let number = oldest.number;
            drop(oldest);
            self.wait_for(What::Drop(number + 1))?;
            self.retire()?;
        }
        Ok(())
    }

    fn retire(&mut self) -> Result<(), Error> {
        let Some(segment) = self.shared.segments.pop_oldest() else {
            return Ok(());
        };
        let disk = &*self.shared.disk;
        let wanted = self.free.len() < self.shared.options.spare_segments
            && segment.bytes == self.shared.options.segment_bytes;
        // Who still reads from the segment keeps its file from being written over.
        let unshared = Arc::try_unwrap(segment);
        match unshared {
            Ok(segment) if wanted => {
                let path = self.shared.dir.join(format!("{:010}.free", segment.number));
                disk.rename(&segment.path, &path)
                    .map_err(Error::io("rename", &segment.path))?;
                self.free.push(FreeFile {
                    path,
                    file: segment.file,
                    bytes: segment.bytes,
                });
            }
            Ok(segment) => remove(disk, &segment.path)?,
            Err(segment) => remove(disk, &segment.path)?,
        }
        disk.sync_dir(&self.shared.dir)
            .map_err(Error::io("sync", &self.shared.dir))
    }

    /// Queues an operation and waits until it is durable.
    pub(super) fn wait_for(&mut self, what: What) -> Result<(), Error> {
        let is_drop = matches!(what, What::Drop(_));
        let landed = Arc::new(Mutex::new(None));
        let done = Box::new({
            let (landed, shared) = (landed.clone(), self.shared.clone());
            move |result| {
                *landed.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                shared.spares.call_keeper();
            }
        });
        self.shared.queue.push(Operation {
            what,
            done: Some(done),
        })?;
        while self.shared.spares.wait_as_keeper(REST) {
            if let Some(result) = landed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return result;
            }
            // The committer may be waiting for a spare, and purges may make room for one.
            if !is_drop {
                self.drop_unneeded()?;
            }
            self.prepare()?;
        }
        Err(Error::Closed)
    }
}

fn unless_closed(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Closed | Error::Stopped { .. }) => Ok(()),
        result => result,
    }
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    disk.remove(path).map_err(Error::io("remove", path))
}

/// How a new file is filled with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Piece by piece, since one big flush would hold up the committer's.
    Gently,
    /// As fast as the disk takes it: nobody else writes yet.
    AtOnce,
}

/// A file whose every page is written, so that later writes change no metadata.
pub(super) fn create_filled(
    disk: &dyn Disk,
    path: &Path,
    bytes: u32,
    fill: Fill,
) -> Result<Arc<dyn DiskFile>, Error> {
    let file = disk.create(path).map_err(Error::io("create", path))?;
    file.allocate(u64::from(bytes))
        .map_err(Error::io("reserve room for", path))?;
    let zeros = vec![0; FILL_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(FILL_BYTES as u32);
        file.write_at(&zeros[..length as usize], u64::from(offset))
            .map_err(Error::io("fill", path))?;
        offset += length;
        if fill == Fill::Gently || offset == bytes {
            file.sync().map_err(Error::io("sync", path))?;
        }
    }
    Ok(file)
}
