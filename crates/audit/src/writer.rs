//! The file, and the thread that writes to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use crate::event::Line;

/// How often one may read that lines are lost.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the thread is to do.
pub(crate) enum Message {
    Change(Line),
    Refusal(Line),
    /// Look whether the file is to be opened anew; any other message does as well.
    Reopen,
    /// Say so when everything before is written.
    Flush(SyncSender<()>),
}

impl Message {
    pub(crate) const fn is_line(&self) -> bool {
        matches!(self, Self::Change(_) | Self::Refusal(_))
    }
}

/// Counts a line that nobody will read.
pub(crate) fn lost() {
    metrics::counter!("magpie_audit_lost_total").increment(1);
}

/// What the handles and the thread share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Refusals in the queue.
    pub(crate) waiting: AtomicUsize,
    /// The file is to be opened anew before the next line. Not by a message alone: the queue may be full when it is asked for.
    pub(crate) is_moved: AtomicBool,
}

/// The open file.
pub(crate) struct AuditFile {
    path: PathBuf,
    file: File,
    warned_at: Option<Instant>,
}

impl AuditFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: append_to(path)?,
            warned_at: None,
        })
    }

    /// Writes until no handle is left.
    pub(crate) fn write_all_of(mut self, messages: &Receiver<Message>, shared: &Shared) {
        while let Ok(message) = messages.recv() {
            if shared.is_moved.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Change(line) => self.write(&line),
                Message::Refusal(line) => {
                    shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    self.write(&line);
                }
                Message::Reopen => {}
                // Whoever asked may have gone.
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn reopen(&mut self) {
        match append_to(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => tracing::error!(
                %error,
                path = %self.path.display(),
                "the audit log was not opened anew, the old file goes on"
            ),
        }
    }

    /// In one call, so that lines of two processes do not mix.
    fn write(&mut self, Line(line): &Line) {
        let Err(error) = self.file.write_all(line) else {
            return;
        };
        lost();
        let is_time = self
            .warned_at
            .is_none_or(|warned_at| warned_at.elapsed() >= WARN_EVERY);
        if is_time {
            self.warned_at = Some(Instant::now());
            tracing::error!(%error, path = %self.path.display(), "the audit log loses lines");
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}
