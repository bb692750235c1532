//! Keep Alive: a client that is silent for too long is gone.

use std::time::{Duration, Instant};

/// Watches for the silence of one client.
///
/// The deadline moves with each packet, so a driver need not arm its timer anew each time: one that fires too early
/// finds that nothing is due and is told the later instant.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    /// One and a half times the Keep Alive; `None` when it is off.
    patience: Option<Duration>,
    heard_at: Instant,
    /// While we do not read the socket, silence is our own doing.
    paused: bool,
}

impl KeepAlive {
    /// `keep_alive_s` of 0 turns it off [MQTT-3.1.2-22].
    pub(crate) fn new(keep_alive_s: u16, now: Instant) -> Self {
        // [MQTT-3.1.2-22], [MQTT-3.1.2-24 v3.1.1]: one and a half times the Keep Alive.
        let patience =
            (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500));
        Self {
            patience,
            heard_at: now,
            paused: false,
        }
    }

    /// A packet came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Says whether the socket is being read. Reading again grants a full period.
    pub(crate) fn set_paused(&mut self, paused: bool, now: Instant) {
        if self.paused && !paused {
            self.heard_at = now;
        }
        self.paused = paused;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.paused {
            return None;
        }
        self.heard_at.checked_add(self.patience?)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "an instant to begin with")]

    use super::*;

    /// [MQTT-3.1.2-22]
    #[test]
    fn silence_of_one_and_a_half_periods_is_too_long() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(10, start);
        assert!(!keep_alive.is_due(start + Duration::from_millis(14_999)));
        assert!(keep_alive.is_due(start + Duration::from_secs(15)));
        keep_alive.heard(start + Duration::from_secs(14));
        assert!(!keep_alive.is_due(start + Duration::from_secs(28)));
        assert_eq!(keep_alive.deadline(), Some(start + Duration::from_secs(29)));
    }

    #[test]
    fn zero_is_off() {
        assert_eq!(KeepAlive::new(0, Instant::now()).deadline(), None);
    }

    #[test]
    fn a_client_is_not_blamed_for_a_socket_that_we_do_not_read() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(10, start);
        keep_alive.set_paused(true, start);
        assert_eq!(keep_alive.deadline(), None);
        keep_alive.set_paused(false, start + Duration::from_secs(60));
        assert_eq!(keep_alive.deadline(), Some(start + Duration::from_secs(75)));
    }
}
