//! What the leader of a partition of sessions does so that not too much waits for one of them.
//!
//! Nothing is counted while messages come: a message that a hundred thousand sessions wait for costs one write. Instead the sessions that
//! are behind are weighed now and then, by the topic indexes of the partitions. Most of the time nobody is: while all partitions together
//! hold less than the limit, nobody can be over it, and a session whose topics together hold less cannot either.

use std::time::Duration;

use magpie_state::PartitionId;
use magpie_state::partition::{Loss, PartitionCommand, PartitionState};
use tokio::time::Instant;

use super::Membership;
use crate::raft::RaftGroup;
use crate::weigh::Scales;

/// Passes are not closer than this, and not further apart than that.
const PASS_MIN: Duration = Duration::from_millis(100);
const PASS_MAX: Duration = Duration::from_secs(10);
/// Passes are so many times as frequent as the log's retention is long.
const PASSES_PER_RETENTION: u32 = 8;
/// Sessions looked at under the state's lock at once.
const PAGE: usize = 128;
/// Weighing pauses so many times as long as it took, so that it takes no more than a part of a core.
const PAUSE_FACTOR: u32 = 3;
/// A proposal that takes longer is looked at again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

type Partition = RaftGroup<PartitionState>;

impl Membership {
    /// Tends the sessions of one replica until it stops, while this node leads.
    pub(super) async fn limit_session_bytes(self, partition: PartitionId, group: Partition) {
        let every = self.inner.config.log_retain / PASSES_PER_RETENTION;
        let every = every.clamp(PASS_MIN, PASS_MAX);
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = group.stopped() => return,
                () = tokio::time::sleep(every) => {}
            }
            if !group.is_leader() {
                continue;
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = group.stopped() => return,
                // What is not done is done in a later pass, or by another leader.
                _ = self.weigh_sessions(partition, &group) => {}
            }
        }
    }

    /// Looks at every session that is behind.
    async fn weigh_sessions(&self, partition: PartitionId, group: &Partition) -> Option<()> {
        let limit = self.inner.config.session_bytes_max;
        let partitions = self.inner.settings.borrow().as_ref()?.partitions;
        if self
            .bytes_held(partitions)
            .is_some_and(|held| held <= limit)
        {
            return Some(());
        }
        let scales = Scales {
            groups: &self.inner.groups,
            leaders: &self.inner.leaders,
            channels: &self.inner.channels,
            partitions,
        };
        let mut next = Some(0);
        while let Some(from) = next
            && group.is_leader()
        {
            let (sessions, more) = group.with_state(|state| state.sessions_behind(from, PAGE));
            next = more;
            let began = Instant::now();
            let mut losses = Vec::new();
            for (client, session) in sessions {
                let Some(excess) = scales.excess(&session, limit).await else {
                    continue;
                };
                tracing::warn!(%partition, client = %client.0, lost = excess.weight.messages, bytes = excess.weight.bytes, limit, "more waits for a session than may; its oldest messages are lost to it");
                losses.push(Loss {
                    client,
                    session: session.session,
                    epoch: session.attached.map(|(epoch, _)| epoch),
                    upto: excess.upto,
                    messages: excess.weight.messages,
                });
            }
            lose(group, losses).await?;
            tokio::time::sleep(began.elapsed() * PAUSE_FACTOR).await;
        }
        Some(())
    }

    /// Bytes of messages in all partitions; `None`: not every one has a replica here.
    fn bytes_held(&self, partitions: u16) -> Option<u64> {
        let mut held = 0;
        for partition in (0..partitions).map(PartitionId) {
            let size = self.inner.groups.index(partition)?.size();
            held += size.kept_bytes + size.young_bytes;
        }
        Some(held)
    }
}

async fn lose(group: &Partition, losses: Vec<Loss>) -> Option<()> {
    if losses.is_empty() {
        return Some(());
    }
    let (sessions, messages) = (losses.len(), losses.iter().map(|loss| loss.messages));
    let messages = messages.sum();
    let command = PartitionCommand::LoseWaiting { losses }.encode();
    let proposal = tokio::time::timeout(PROPOSE_WITHIN, group.propose(command));
    proposal.await.ok()?.ok()?;
    metrics::counter!("magpie_sessions_cut_total").increment(sessions as u64);
    metrics::counter!("magpie_session_messages_lost_total").increment(messages);
    Some(())
}
