//! How much may come per second. What a second brings may come at once.

use std::time::{Duration, Instant};

/// Time is what it is measured in: how long it takes until all that was taken has come in again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// 0: no bound.
    per_s: u64,
    /// When it is full again.
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) const fn new(per_s: u64, now: Instant) -> Self {
        Self {
            per_s,
            full_at: now,
        }
    }

    /// Takes, and tells how long to wait until it is not overdrawn.
    pub(crate) fn take(&mut self, amount: u64, now: Instant) -> Duration {
        let (full_at, owed) = self.after(amount, now);
        self.full_at = full_at;
        owed
    }

    /// Takes if that does not overdraw it.
    pub(crate) fn try_take(&mut self, amount: u64, now: Instant) -> bool {
        let (full_at, owed) = self.after(amount, now);
        if owed.is_zero() {
            self.full_at = full_at;
        }
        owed.is_zero()
    }

    /// When it would be full again, and how long it would be overdrawn.
    fn after(&self, amount: u64, now: Instant) -> (Instant, Duration) {
        if self.per_s == 0 {
            return (now, Duration::ZERO);
        }
        let cost = Duration::from_nanos(amount.saturating_mul(1_000_000_000) / self.per_s);
        let full_at = self.full_at.max(now);
        let full_at = full_at.checked_add(cost).unwrap_or(full_at);
        let owed = full_at.saturating_duration_since(now);
        (full_at, owed.saturating_sub(Duration::from_secs(1)))
    }
}
