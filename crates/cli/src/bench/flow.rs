//! What the tasks of a bench tell each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Notify;

/// The messages of one publisher, as far as they got. The publisher writes `sent`, `acked` and `refused`, its
/// subscribers `passed`.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) sent: AtomicU64,
    /// Acknowledged for good; at QoS 0 not counted.
    pub(super) acked: AtomicU64,
    /// Acknowledged with an error.
    pub(super) refused: AtomicU64,
    /// Deliveries, and those that were left out before one, summed over the subscribers.
    pub(super) passed: AtomicU64,
    /// Wakes the publisher when `passed` rose or the bench stops.
    pub(super) wake: Notify,
}

impl Flow {
    /// Takes note of deliveries.
    pub(super) fn pass(&self, messages: u64) {
        self.passed.fetch_add(messages, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// What concerns all tasks.
pub(super) struct Board {
    start: Instant,
    /// Publishers send nothing more.
    stop: AtomicBool,
    /// Latencies count.
    measuring: AtomicBool,
    pub(super) delivered: AtomicU64,
    pub(super) delivered_bytes: AtomicU64,
    /// From publisher to subscriber.
    pub(super) deliveries: Times,
    /// From publisher to its acknowledgement.
    pub(super) acknowledgements: Times,
}

/// Histograms of microseconds, one per thread to keep them apart.
pub(super) struct Times(Vec<Mutex<Histogram<u64>>>);

/// Latencies above are counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

impl Board {
    pub(super) fn new(threads: usize) -> anyhow::Result<Self> {
        Ok(Self {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            measuring: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
            delivered_bytes: AtomicU64::new(0),
            deliveries: Times::new(threads)?,
            acknowledgements: Times::new(threads)?,
        })
    }

    /// Nanoseconds since the bench began: the clock of all stamps.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment of a stamp as tokio counts time.
    pub(super) fn instant(&self, ns: u64) -> tokio::time::Instant {
        (self.start + Duration::from_nanos(ns)).into()
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn set_measuring(&self, measuring: bool) {
        self.measuring.store(measuring, Ordering::Relaxed);
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }
}

impl Times {
    fn new(threads: usize) -> anyhow::Result<Self> {
        let shards = (0..threads.max(1)).map(|_| Ok(Mutex::new(histogram()?)));
        Ok(Self(shards.collect::<anyhow::Result<_>>()?))
    }

    /// The histogram that a task writes to; not to be kept across an await.
    pub(super) fn of(&self, task: usize) -> MutexGuard<'_, Histogram<u64>> {
        let shard = &self.0[task % self.0.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All together.
    pub(super) fn all(&self) -> anyhow::Result<Histogram<u64>> {
        let mut all = histogram()?;
        for shard in 0..self.0.len() {
            all.add(&*self.of(shard))?;
        }
        Ok(all)
    }
}

/// A histogram of microseconds with three digits.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    let max = u64::try_from(LATENCY_MAX.as_micros())?;
    Ok(Histogram::new_with_bounds(1, max, 3)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn latencies_of_all_tasks_come_together() {
        let times = Times::new(2).unwrap();
        times.of(0).saturating_record(100);
        times.of(1).saturating_record(300);
        times.of(2).saturating_record(u64::MAX);
        let all = times.all().unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all.value_at_quantile(0.5), 300);
        assert!(all.max().abs_diff(60_000_000) < 60_000);
    }
}
