//! When checkpoints are written and how far the log is purged: by bytes and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use magpie_state::StateMachine;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::driver::{Raft, Shared};
use super::log_store::LogStore;

pub(super) struct Retention<M: StateMachine> {
    pub(super) raft: Raft<M>,
    pub(super) shared: Arc<Shared<M>>,
    pub(super) store: LogStore,
    pub(super) config: Arc<Config>,
    /// Entries from here on are held; `u64::MAX`: none.
    pub(super) hold: Arc<AtomicU64>,
}

impl<M: StateMachine> Retention<M> {
    /// Looks at both policies again and again until the group stops.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.config.retention_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_checkpoint = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let (bytes, is_dirty) = self.shared.since_checkpoint();
            let is_due = bytes >= self.config.checkpoint_bytes
                || last_checkpoint.elapsed() >= self.config.checkpoint_every
                || self.shared.wants_checkpoint();
            // An error means that the group stopped; whoever watches it knows.
            if is_dirty && is_due {
                last_checkpoint = Instant::now();
                let _ = self.raft.trigger().snapshot().await;
            }
            if let Some(upto) = self.purge_upto() {
                let _ = self.raft.trigger().purge_log(upto).await;
            }
        }
    }

    fn purge_upto(&self) -> Option<u64> {
        let growth = self.store.growth();
        let wanted = growth.settled(self.config.log_retain_bytes, self.config.log_retain)?;
        let held = self.hold.load(Ordering::Relaxed).saturating_sub(1);
        let beyond_hold = growth
            .index_before_bytes(self.config.log_hold_bytes_max)
            .unwrap_or(0);
        let covered = self.shared.latest.meta().last_log_id?.index;
        let upto = wanted
            .min(held.max(beyond_hold))
            .min(covered)
            .min(self.shared.purge_bound());
        (upto >= self.store.range().start).then_some(upto)
    }
}
