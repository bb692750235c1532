//! How fast one client may publish: a token bucket each for messages and for bytes, which holds what one second brings.

use std::time::Instant;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;

/// What happens to a client that publishes too fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatePolicy {
    /// It is not read until its rate is what it may be: TCP holds it back.
    #[default]
    Throttle,
    /// Its connection is closed (0x96).
    Disconnect,
}

/// The rate of one connection.
#[derive(Debug)]
pub(crate) struct Rate {
    messages: Bucket,
    bytes: Bucket,
    pub(crate) policy: RatePolicy,
    /// It is not read before that.
    paused_until: Option<Instant>,
}

impl Rate {
    /// `None`: as fast as it can. 0 is no bound.
    pub(crate) fn new(
        messages_per_s: u32,
        bytes_per_s: ByteSize,
        policy: RatePolicy,
        now: Instant,
    ) -> Option<Box<Self>> {
        if messages_per_s == 0 && bytes_per_s.as_u64() == 0 {
            return None;
        }
        Some(Box::new(Self {
            messages: Bucket::new(u64::from(messages_per_s), now),
            bytes: Bucket::new(bytes_per_s.as_u64(), now),
            policy,
            paused_until: None,
        }))
    }

    /// Counts a message. False: it was too fast, and is to pause.
    pub(crate) fn count(&mut self, bytes: usize, now: Instant) -> bool {
        let messages = self.messages.take(1, now);
        let bytes = self.bytes.take(bytes as u64, now);
        let pause = messages.max(bytes);
        if pause.is_zero() {
            return true;
        }
        self.paused_until = now.checked_add(pause);
        false
    }

    /// Until when it is not read.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn rate(messages: u32, bytes: u64, now: Instant) -> Box<Rate> {
        Rate::new(messages, ByteSize(bytes), RatePolicy::Throttle, now).unwrap()
    }

    #[test]
    fn a_second_may_come_at_once_and_then_the_rate_holds() {
        let now = Instant::now();
        let mut rate = rate(10, 0, now);
        for _ in 0..10 {
            assert!(rate.count(1000, now));
        }
        assert!(!rate.count(1000, now));
        assert_eq!(
            rate.paused_until(now),
            Some(now + Duration::from_millis(100))
        );
        let later = now + Duration::from_millis(100);
        assert_eq!(rate.paused_until(later), None);
        assert!(!rate.count(1000, later), "one in a tenth of a second");
        let much_later = now + Duration::from_secs(60);
        for _ in 0..10 {
            assert!(rate.count(1000, much_later));
        }
        assert!(!rate.count(1000, much_later), "no more is saved up");
    }

    #[test]
    fn a_message_larger_than_a_second_takes_its_time() {
        let now = Instant::now();
        let mut rate = rate(0, 1000, now);
        assert!(!rate.count(5000, now));
        assert_eq!(rate.paused_until(now), Some(now + Duration::from_secs(4)));
    }

    #[test]
    fn without_bounds_nothing_is_counted() {
        let now = Instant::now();
        assert!(Rate::new(0, ByteSize(0), RatePolicy::Disconnect, now).is_none());
    }
}
