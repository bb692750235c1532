//! What an acknowledgement cannot be faster than: the disk's and the network's own times, measured on this machine, before the load and
//! beside it.
//!
//! Both matter. A machine that does nothing syncs faster than one whose disk has other writers, and its processors take longer to wake.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Syncs that are measured before the load.
const SYNCS: usize = 400;
/// Round trips that are measured with each sync.
const ROUND_TRIPS: usize = 10;
/// Pages of the file, written in turn.
const PAGES: usize = 256;
/// Pause between two syncs beside the load: seldom enough not to be one.
const BESIDE_EVERY: Duration = Duration::from_millis(20);
/// What is written before each sync: a page, as a log does.
const PAGE: usize = 4096;

/// Medians, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Floor {
    fdatasync_p50_ms: f64,
    round_trip_p50_ms: f64,
    /// One fdatasync and two round trips: one between client and node, one between the node and a majority of the others.
    pub(super) sum_ms: f64,
}

impl Floor {
    /// Measures syncs of a file in `dir`, which is removed again, and round trips over loopback, one after the other.
    ///
    /// # Errors
    /// When the directory cannot be written to, or the loopback interface not be used.
    pub(super) fn measure(dir: &Path) -> anyhow::Result<Self> {
        let mut probe = Probe::new(dir)?;
        (0..SYNCS).try_for_each(|_| probe.sample())?;
        Ok(probe.floor())
    }
}

/// Measures a floor again and again, until it is asked for it.
pub(super) struct Beside {
    /// Nothing is sent; dropping it ends the thread.
    stop: SyncSender<()>,
    thread: JoinHandle<anyhow::Result<Floor>>,
}

impl Beside {
    /// # Errors
    /// As [`Floor::measure`].
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut probe = Probe::new(dir)?;
        let (stop, is_stopped) = sync_channel(0);
        let thread = thread::spawn(move || {
            while is_stopped.recv_timeout(BESIDE_EVERY) == Err(RecvTimeoutError::Timeout) {
                probe.sample()?;
            }
            Ok(probe.floor())
        });
        Ok(Self { stop, thread })
    }

    /// # Errors
    /// As [`Floor::measure`].
    pub(super) fn stop(self) -> anyhow::Result<Floor> {
        drop(self.stop);
        self.thread.join().ok().context("the measurement broke")?
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fdatasync_p50_ms,
            round_trip_p50_ms,
            sum_ms,
        } = self;
        write!(
            f,
            "fdatasync {fdatasync_p50_ms:.3} ms, round trip {round_trip_p50_ms:.3} ms; one and two of them {sum_ms:.3} ms"
        )
    }
}

/// A file to sync and a connection to send over.
struct Probe {
    file: File,
    path: PathBuf,
    syncs: Histogram<u64>,
    stream: TcpStream,
    round_trips: Histogram<u64>,
}

impl Probe {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("magpie-bench-{}-{number}", std::process::id()));
        let failed = || format!("cannot measure fdatasync with {}", path.display());
        let file = File::create_new(&path).with_context(failed)?;
        let stream = loopback().context("no round trip over loopback")?;
        let probe = Self {
            file,
            syncs: nanoseconds()?,
            stream,
            round_trips: nanoseconds()?,
            path,
        };
        // Filled before, as a log's segments are: what is measured is the write, not the growth of the file.
        let fill = || {
            probe.file.write_all_at(&[0; PAGES * PAGE], 0)?;
            probe.file.sync_all()
        };
        fill().with_context(|| format!("cannot write {}", probe.path.display()))?;
        Ok(probe)
    }

    /// One sync and some round trips.
    fn sample(&mut self) -> anyhow::Result<()> {
        self.sync()
            .with_context(|| format!("cannot sync {}", self.path.display()))?;
        for _ in 0..ROUND_TRIPS {
            self.round_trip().context("no round trip over loopback")?;
        }
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        let page = self.syncs.len() as usize % PAGES;
        self.file.write_all_at(&[1; PAGE], (page * PAGE) as u64)?;
        let started = Instant::now();
        self.file.sync_data()?;
        self.syncs
            .saturating_record(started.elapsed().as_nanos() as u64);
        Ok(())
    }

    /// Of one byte.
    fn round_trip(&mut self) -> std::io::Result<()> {
        let started = Instant::now();
        self.stream.write_all(&[0])?;
        self.stream.read_exact(&mut [0])?;
        self.round_trips
            .saturating_record(started.elapsed().as_nanos() as u64);
        Ok(())
    }

    fn floor(&self) -> Floor {
        let median_ms = |times: &Histogram<u64>| times.value_at_quantile(0.5) as f64 / 1e6;
        let fdatasync_p50_ms = median_ms(&self.syncs);
        let round_trip_p50_ms = median_ms(&self.round_trips);
        Floor {
            fdatasync_p50_ms,
            round_trip_p50_ms,
            sum_ms: fdatasync_p50_ms + 2.0 * round_trip_p50_ms,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A connection to a thread that sends back what comes over it until it is closed.
fn loopback() -> std::io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_nodelay(true)?;
    let (mut other, _) = listener.accept()?;
    other.set_nodelay(true)?;
    thread::spawn(move || {
        let mut byte = [0];
        while other.read(&mut byte).is_ok_and(|bytes| bytes == 1) && other.write_all(&byte).is_ok()
        {
        }
    });
    Ok(stream)
}

/// Up to ten seconds.
fn nanoseconds() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 10_000_000_000, 3)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn it_is_above_nothing_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let floor = Floor::measure(dir.path()).unwrap();
        assert!(floor.round_trip_p50_ms > 0.0 && floor.sum_ms > floor.fdatasync_p50_ms);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Floor::measure(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn beside_a_load_it_is_measured_until_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let beside = Beside::start(dir.path()).unwrap();
        thread::sleep(5 * BESIDE_EVERY);
        assert!(beside.stop().unwrap().sum_ms > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
