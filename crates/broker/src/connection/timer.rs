//! The one timer of a connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::task::unconstrained;
use tokio::time::Sleep;

/// Wakes the task at a time that usually moves later, packet by packet: the timer is not moved along, but looks again when it fires.
pub(super) struct Timer {
    /// Allocated when first armed.
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it fires.
    armed_for: Option<Instant>,
}

impl Timer {
    pub(super) const fn new() -> Self {
        Self {
            sleep: None,
            armed_for: None,
        }
    }

    /// Sees to it that the task is woken at `at` or somewhat later, perhaps also before. True if `at` has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Option<Instant>, now: Instant) -> bool {
        let Some(at) = at else {
            return false;
        };
        if at <= now {
            return true;
        }
        let is_armed = self
            .armed_for
            .is_some_and(|armed| now < armed && armed <= at);
        if is_armed {
            return false;
        }
        self.armed_for = Some(at);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                sleep.as_mut().reset(at.into());
                sleep
            }
            empty @ None => empty.insert(Box::pin(tokio::time::sleep_until(at.into()))),
        };
        // Outside of the budget that tokio gives to a task: without any left, the timer would not be armed, and is not polled again before it
        // fires. A task that was just spawned may have to do with what the one before it on its thread has left.
        pin!(unconstrained(sleep.as_mut())).poll(cx) == Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::task::coop::{consume_budget, has_budget_remaining};

    use super::*;

    #[tokio::test]
    async fn a_timer_fires_that_was_armed_when_the_task_had_used_up_its_budget() {
        let mut timer = Timer::new();
        let at = Instant::now() + Duration::from_millis(50);
        let mut is_first = true;
        let fires = poll_fn(|cx| {
            if std::mem::take(&mut is_first) {
                while has_budget_remaining() {
                    let _ = pin!(consume_budget()).poll(cx);
                }
            }
            match timer.poll(cx, Some(at), Instant::now()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        // At its end the other timer wakes the task, too.
        tokio::time::timeout(Duration::from_secs(5), fires)
            .await
            .unwrap();
        assert!(at.elapsed() < Duration::from_secs(4), "{:?}", at.elapsed());
    }
}
