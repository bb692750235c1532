//! What the log counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::space::Space;

const BUCKETS: usize = 24;

/// A look at the log's counters. Counts start at zero with the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// How long syncs took.
    pub fsyncs: FsyncHistogram,
    /// Bytes of records written, without the padding of pages.
    pub written_bytes: u64,
    /// Segments that hold records.
    pub segments: u64,
    /// Segments that are ready to be written.
    pub spare_segments: u64,
    /// Bytes of records that still count, of all segments.
    pub live_bytes: u64,
    /// Bytes of operations that wait for the committer.
    pub queued_bytes: u64,
    /// Bytes of records written forward, since the rest of their segment no longer counted.
    pub moved_bytes: u64,
    /// Room on the disk.
    pub space: Space,
}

/// Durations in buckets whose upper bounds double, from 1 us on.
#[derive(Debug, Clone, Default)]
pub struct FsyncHistogram {
    /// How many took less than 2^i microseconds but not less than half of it; the last bucket has no
    /// upper bound.
    pub buckets: [u64; BUCKETS],
    /// How many in all.
    pub count: u64,
    /// Their sum in microseconds.
    pub sum_us: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
    written_bytes: AtomicU64,
    moved_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn wrote(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn moved_bytes(&self) -> u64 {
        self.moved_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn fsyncs(&self) -> FsyncHistogram {
        let mut histogram = FsyncHistogram::default();
        for (seen, bucket) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *seen = bucket.load(Ordering::Relaxed);
            histogram.count += *seen;
        }
        histogram.sum_us = self.sum_us.load(Ordering::Relaxed);
        histogram
    }
}
