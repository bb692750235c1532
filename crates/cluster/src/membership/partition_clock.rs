//! The logical clock of a partition, driven by its leader: session expiry and will delays count its ticks.

use std::time::Duration;

use magpie_state::partition::{PartitionCommand, PartitionState, TICK_MS_MAX};
use tokio::time::Instant;

use super::Membership;
use crate::raft::RaftGroup;

/// Between ticks.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// What lies further back than this is not made up for: while nothing could be committed, no client could come back either.
const MADE_UP_MAX: Duration = Duration::from_secs(3);
/// A tick that is not committed by then is taken for one that will be.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

/// Time that one leadership measured and did not tell yet.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Of the leadership. A leader of another term, this node included, begins anew: the ticks of others in between are not known.
    term: u64,
    since: Instant,
}

impl Membership {
    /// Ticks while this node leads and something waits for time to pass.
    pub(super) async fn keep_time(self, group: RaftGroup<PartitionState>) {
        let mut leadership = group.watch_leadership();
        let mut measured: Option<Measured> = None;
        loop {
            let led = *leadership.borrow_and_update();
            if led.is_here {
                if group.with_state(PartitionState::has_timers) {
                    measured = tick(&group, led.term, measured).await;
                } else {
                    // Nobody waits: what passed until now is nobody's.
                    measured = Some(Measured {
                        term: led.term,
                        since: Instant::now(),
                    });
                }
            } else {
                measured = None;
            }
            let next = measured.map(|measured| measured.since + TICK_EVERY);
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = group.stopped() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
        }
    }
}

/// Tells the group how much time passed in this term.
async fn tick(
    group: &RaftGroup<PartitionState>,
    term: u64,
    measured: Option<Measured>,
) -> Option<Measured> {
    let now = Instant::now();
    let (mut measured, elapsed_ms) = measured
        .filter(|measured| measured.term == term)
        .unwrap_or(Measured { term, since: now })
        .take(now);
    if elapsed_ms == 0 {
        return Some(measured);
    }
    let command = PartitionCommand::Tick { elapsed_ms }.encode();
    if group.leadership().term != term {
        return None;
    }
    let proposal = tokio::time::timeout(PROPOSE_WITHIN, group.propose(command)).await;
    if !matches!(proposal, Ok(Ok(_))) {
        // Late, never early: what may not have been told is not told again.
        measured.since = measured.since.max(now);
    }
    Some(measured)
}

impl Measured {
    /// Takes what one tick may tell, milliseconds.
    fn take(self, now: Instant) -> (Self, u32) {
        let elapsed = now.saturating_duration_since(self.since);
        let told_ms =
            u32::try_from(elapsed.as_millis()).map_or(TICK_MS_MAX, |ms| ms.min(TICK_MS_MAX));
        let since = if elapsed > MADE_UP_MAX {
            now
        } else {
            self.since + Duration::from_millis(u64::from(told_ms))
        };
        (Self { since, ..self }, told_ms)
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_tick_cannot_tell_the_next_one_does_within_bounds() {
        let start = Instant::now();
        let measured = Measured {
            term: 1,
            since: start,
        };
        let after = |ms| start + Duration::from_millis(ms);
        let (measured, told) = measured.take(after(1300));
        assert_eq!((told, measured.since), (1000, after(1000)));
        let (measured, told) = measured.take(after(1700));
        assert_eq!((told, measured.since), (700, after(1700)));
        // A long standstill counts as one tick.
        let (measured, told) = measured.take(after(60_000));
        assert_eq!((told, measured.since), (1000, after(60_000)));
    }
}
