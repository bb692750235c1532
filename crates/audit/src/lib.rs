//! The audit log: what operators changed, and who was refused what.
//!
//! Every event is a tracing event of the target `audit`, and a line of JSON in a file if the operator names one. Telling never waits: a
//! thread of its own writes. A flood of refusals is told once and counted (`flood`), and has its own part of the queue, so that nobody can
//! hide a change behind it. No secret comes here: events have names, addresses and topics, never passwords, tokens or payloads. It knows
//! nothing of MQTT and nothing of the API.

mod event;
mod flood;
mod writer;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use event::{Change, Refusal, What};

use event::Line;
use flood::Flood;
use writer::{AuditFile, Message, Shared};

/// Messages to the writer that may wait.
const QUEUE: usize = 4096;
/// Of those, what refusals may take.
const QUEUE_REFUSALS: usize = 2048;
/// How often the floods are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The audit log of one node. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    flood: Mutex<Flood>,
    /// `None`: no file, only tracing.
    writer: Option<SyncSender<Message>>,
    /// With the thread that writes.
    shared: Arc<Shared>,
    node: String,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("the audit log {0} cannot be opened: {1}")]
    Open(String, std::io::Error),
    /// The system gives no thread.
    #[error("the audit log cannot be written: {0}")]
    Thread(std::io::Error),
}

impl Audit {
    /// Events go to tracing only. For tests, and until there is a file.
    #[must_use]
    pub fn without_file(node: &str) -> Self {
        Self::new(node, None, Arc::default())
    }

    /// Opens the file to append to it, created with access for its owner alone, and starts the thread that writes.
    ///
    /// # Errors
    /// If that fails: better not to start than to run without a log that was asked for.
    pub fn start(node: &str, file: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = file else {
            return Self::without_file(node).swept();
        };
        let file = AuditFile::open(path)
            .map_err(|error| Error::Open(path.display().to_string(), error))?;
        let (sender, receiver) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let written = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(String::from("audit"))
            .spawn(move || file.write_all_of(&receiver, &written))
            .map_err(Error::Thread)?;
        Self::new(node, Some(sender), shared).swept()
    }

    /// An operator's change, whatever came of it.
    pub fn change(&self, change: &Change<'_>) {
        change.trace();
        let line = Line::of_change(&self.inner.node, change);
        self.send(Message::Change(line));
    }

    /// An access that was refused. May be called for each packet of a flood: what repeats within ten seconds is counted, not told.
    pub fn refused(&self, refusal: &Refusal<'_>) {
        metrics::counter!("magpie_access_refused_total", "what" => refusal.what.name())
            .increment(1);
        let is_new = self.flood().admit(refusal, Instant::now());
        if is_new {
            self.tell(refusal, 0);
        }
    }

    /// Opens the file anew, after something has moved it away.
    pub fn reopen(&self) {
        self.inner.shared.is_moved.store(true, Ordering::Release);
        self.send(Message::Reopen);
    }

    /// Waits until everything that was told is in the file; at most `within`.
    pub fn flush(&self, within: Duration) {
        self.sweep(Instant::now() + Duration::from_secs(3600));
        let (done, is_done) = sync_channel(1);
        self.send(Message::Flush(done));
        // Late is as good as never: the node stops.
        let _ = is_done.recv_timeout(within);
    }

    fn new(node: &str, writer: Option<SyncSender<Message>>, shared: Arc<Shared>) -> Self {
        Self {
            inner: Arc::new(Inner {
                flood: Mutex::default(),
                writer,
                shared,
                node: node.to_owned(),
            }),
        }
    }

    /// With a thread that tells how many refusals were not told one by one, as long as anybody has a handle.
    fn swept(self) -> Result<Self, Error> {
        let weak = Arc::downgrade(&self.inner);
        let sweep = move || {
            while let Some(inner) = weak.upgrade() {
                Self { inner }.sweep(Instant::now());
                std::thread::sleep(SWEEP_EVERY);
            }
        };
        std::thread::Builder::new()
            .name(String::from("audit-sweep"))
            .spawn(sweep)
            .map_err(Error::Thread)?;
        Ok(self)
    }

    fn sweep(&self, now: Instant) {
        let repeated = self.flood().take_over(now);
        for (refusal, times) in repeated {
            self.tell(&refusal.as_refusal(), times);
        }
    }

    fn tell(&self, refusal: &Refusal<'_>, repeated: u64) {
        refusal.trace(repeated);
        if self.inner.writer.is_none() {
            return;
        }
        if self.inner.shared.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_REFUSALS {
            self.inner.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            writer::lost();
            return;
        }
        let line = Line::of_refusal(&self.inner.node, refusal, repeated);
        if !self.send(Message::Refusal(line)) {
            self.inner.shared.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// False if it is lost.
    fn send(&self, message: Message) -> bool {
        let Some(writer) = &self.inner.writer else {
            return true;
        };
        let is_line = message.is_line();
        let sent = writer.try_send(message).is_ok();
        if !sent && is_line {
            writer::lost();
        }
        sent
    }

    fn flood(&self) -> std::sync::MutexGuard<'_, Flood> {
        self.inner
            .flood
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

#[cfg(test)]
mod tests;
