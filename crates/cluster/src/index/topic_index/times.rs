//! About when messages were published: enough to find those that are older than something.

use std::collections::VecDeque;

use magpie_state::Position;

/// Times closer together than this are one.
const STEP_MS: u64 = 100;
/// More are thinned out.
const SAMPLES_MAX: usize = 65_536;

/// Ascending in both: what is at or below a place was published by then, as far as the clocks of the nodes agree.
#[derive(Debug, Default)]
pub(super) struct Times {
    samples: VecDeque<(Position, u64)>,
}

impl Times {
    pub(super) fn note(&mut self, position: Position, published_ms: u64) {
        let last = self.samples.back().copied();
        let (after, before_ms) = last.unwrap_or_default();
        if position <= after || (last.is_some() && published_ms < before_ms + STEP_MS) {
            return;
        }
        self.samples.push_back((position, published_ms));
        if self.samples.len() > SAMPLES_MAX {
            let mut is_kept = false;
            self.samples.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
    }

    /// Messages up to here were published by then. Some behind it may have been, too.
    pub(super) fn published_by(&self, ms: u64) -> Position {
        let by_then = self
            .samples
            .partition_point(|(_, published)| *published <= ms);
        match by_then.checked_sub(1) {
            Some(at) => self.samples[at].0,
            None => Position::START,
        }
    }

    /// The latest time that is known.
    pub(super) fn newest_ms(&self) -> u64 {
        self.samples.back().map_or(0, |(_, published)| *published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_found_and_never_what_is_young() {
        let mut times = Times::default();
        assert_eq!(times.published_by(u64::MAX), Position::START);
        for index in 1..200_000u64 {
            times.note(Position::at(index, 0), index * 50);
        }
        assert!(times.samples.len() <= SAMPLES_MAX);
        for by in [1000, 77_777, 5_000_000, 9_999_900] {
            let upto = times.published_by(by).index() * 50;
            assert!(upto <= by && upto + 1000 >= by, "{upto} {by}");
        }
        assert!(times.newest_ms() > 9_999_000);
    }
}
