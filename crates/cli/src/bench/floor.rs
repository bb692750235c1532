//! What an acknowledgement cannot be faster than: the disk's and the network's own times, measured on this machine.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Syncs and round trips that are measured.
const SYNCS: u64 = 400;
const ROUND_TRIPS: u64 = 4000;
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
    /// Measures syncs of a file in `dir`, which is removed again, and round trips over loopback.
    ///
    /// # Errors
    /// When the directory cannot be written to, or the loopback interface not be used.
    pub(super) fn measure(dir: &Path) -> anyhow::Result<Self> {
        let median_ms = |times: &Histogram<u64>| times.value_at_quantile(0.5) as f64 / 1e6;
        let fdatasync_p50_ms = median_ms(&syncs(dir)?);
        let round_trip_p50_ms = median_ms(&round_trips().context("no round trip over loopback")?);
        Ok(Self {
            fdatasync_p50_ms,
            round_trip_p50_ms,
            sum_ms: fdatasync_p50_ms + 2.0 * round_trip_p50_ms,
        })
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

/// Nanoseconds per sync.
fn syncs(dir: &Path) -> anyhow::Result<Histogram<u64>> {
    let path = dir.join(format!("magpie-bench-{}", std::process::id()));
    let failed = || format!("cannot measure fdatasync with {}", path.display());
    let file = File::create_new(&path).with_context(failed)?;
    let measured = sync_pages(&file);
    std::fs::remove_file(&path).with_context(failed)?;
    measured.with_context(failed)
}

fn sync_pages(file: &File) -> anyhow::Result<Histogram<u64>> {
    let mut times = nanoseconds()?;
    // Filled before, as a log's segments are: what is measured is the write, not the growth of the file.
    for page in 0..SYNCS {
        file.write_all_at(&[0; PAGE], page * PAGE as u64)?;
    }
    file.sync_all()?;
    for page in 0..SYNCS {
        file.write_all_at(&[1; PAGE], page * PAGE as u64)?;
        let started = Instant::now();
        file.sync_data()?;
        times.saturating_record(started.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

/// Nanoseconds per round trip of one byte.
fn round_trips() -> anyhow::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        std::io::Result::Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut times = nanoseconds()?;
    let mut byte = [0];
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.saturating_record(started.elapsed().as_nanos() as u64);
    }
    drop(stream);
    echo.join().ok().context("the echo broke")??;
    Ok(times)
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
}
