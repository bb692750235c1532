//! When a publisher's next message is due.

/// An even rate, counted in the bench's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    first_ns: u64,
    interval_ns: f64,
}

impl Pace {
    /// `rate` messages per second in sum over `publishers`, which take turns, from `start_ns` on.
    pub(super) fn new(rate: f64, publishers: usize, publisher: usize, start_ns: u64) -> Self {
        let between_ns = 1e9 / rate;
        Self {
            first_ns: start_ns + (between_ns * publisher as f64) as u64,
            interval_ns: between_ns * publishers as f64,
        }
    }

    /// How many messages are due in sum at `now_ns`.
    pub(super) fn due(self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.first_ns) else {
            return 0;
        };
        let due = (elapsed_ns as f64 / self.interval_ns) as u64 + 1;
        // The quotient can fall just short of a whole number, and a publisher would wait for a moment that has passed.
        due + u64::from(self.due_ns(due) <= now_ns)
    }

    /// When the message with this number, from 0, is due.
    pub(super) fn due_ns(self, seq: u64) -> u64 {
        self.first_ns + (self.interval_ns * seq as f64).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_take_turns_at_the_rate() {
        let paces = [0, 1].map(|publisher| Pace::new(1000.0, 2, publisher, 5_000_000));
        assert_eq!(paces.map(|pace| pace.due(4_999_999)), [0, 0]);
        assert_eq!(paces.map(|pace| pace.due(5_000_000)), [1, 0]);
        assert_eq!(paces.map(|pace| pace.due(6_000_000)), [1, 1]);
        assert_eq!(paces.map(|pace| pace.due(1_005_000_000)), [501, 500]);
        assert_eq!(paces.map(|pace| pace.due_ns(3)), [11_000_000, 12_000_000]);
        for seq in 0..1000 {
            let pace = Pace::new(777.0, 3, 1, 12_345);
            assert_eq!(pace.due(pace.due_ns(seq)), seq + 1);
        }
    }
}
