//! The node's reading of the wall clock.

use std::time::{Duration, Instant, SystemTime};

use magpie_codec::Message;

/// Milliseconds since 1970. For stamps and expiry only; nothing is ordered by it.
pub(crate) fn wall_ms() -> u64 {
    magpie_failpoint::wall_clock()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// When a message that was accepted at `published_ms` expires, if ever: `Message Expiry Interval` after that, in this node's time.
pub(crate) fn expires_at(message: &Message, published_ms: u64) -> Option<Instant> {
    let seconds = message.properties.as_ref()?.expiry_interval_s?;
    let expires_ms = published_ms.saturating_add(u64::from(seconds) * 1000);
    let left = Duration::from_millis(expires_ms.saturating_sub(wall_ms()));
    Instant::now().checked_add(left)
}
