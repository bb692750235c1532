//! The one timer of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

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
        sleep.as_mut().poll(cx) == Poll::Ready(())
    }
}
