//! The partition's clock, and what waits for it.
//!
//! The clock is advanced by commands, each by at most what passed since the command before. So it may lag behind, and never runs ahead: what waits for it comes
//! late, never early.

use std::collections::BTreeMap;

use super::session::{NEVER, Session};
use crate::Epoch;

/// The most that one tick counts.
pub const TICK_MS_MAX: u32 = 1000;

#[derive(Debug, Default)]
pub(super) struct Timers {
    now_ms: u64,
    /// When, and the Session by its incarnation, so that all replicas have the same order; and its number here.
    due: BTreeMap<(u64, Epoch), u32>,
}

impl Timers {
    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn set_now_ms(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// The clock's time when `seconds` have certainly passed from now on; `u32::MAX` never have. The next tick may count time
    /// from before now.
    pub(super) fn after_s(&self, seconds: u32) -> u64 {
        match seconds {
            u32::MAX => NEVER,
            _ => self.now_ms + u64::from(TICK_MS_MAX) + u64::from(seconds) * 1000,
        }
    }

    pub(super) fn advance(&mut self, elapsed_ms: u32) {
        self.now_ms += u64::from(elapsed_ms.min(TICK_MS_MAX));
    }

    /// Session `number` waits.
    pub(super) fn set(&mut self, session: &Session, number: u32) {
        let due = session.next_due();
        if due < NEVER {
            self.due.insert((due, session.incarnation), number);
        }
    }

    /// The reverse, before anything changes that it waits for.
    pub(super) fn unset(&mut self, session: &Session) {
        self.due.remove(&(session.next_due(), session.incarnation));
    }

    /// Takes the number of a Session that is due, those that waited longest first.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let entry = self.due.first_entry()?;
        let (due, _) = *entry.key();
        (due <= self.now_ms).then(|| entry.remove())
    }
}
