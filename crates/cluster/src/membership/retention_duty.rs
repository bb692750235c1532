//! What the leader of a partition does so that messages stay as long as a session needs them, and the log no longer than that.
//!
//! ```text
//!   log:      … purged │ kept rows only │ trimmed ─────── young: everything ─────── applied
//!                      ▲                ▲
//!        the checkpoint has the rows    Trim: what is needed of it was asked for, and becomes rows
//! ```
//! When the young part is long or old, its oldest messages are asked about ([`crate::needed`]), once for all replicas; a `Trim` names those
//! that are needed. Each replica copies them out of its own log at its next checkpoint, and only a checkpoint that is on disk lets its log be
//! purged. Kept messages are asked about again, round and round, and forgotten when nobody needs them. Who does not answer needs everything: then
//! nothing is trimmed, and the log grows up to a limit, behind which the oldest messages are lost, and counted.

use std::collections::VecDeque;
use std::time::Duration;

use magpie_state::partition::{PartitionCommand, PartitionState};
use magpie_state::{PartitionId, Position};
use tokio::time::Instant;

use super::Membership;
use super::retention_rules::{self, Ages};
use crate::index::{PartitionIndex, Waiting};
use crate::needed::Asking;
use crate::raft::RaftGroup;

/// Trims are so many times as frequent as the log's retention is long.
const TRIMS_PER_RETENTION: u32 = 8;
/// Rounds are not closer than this, and not further apart than that.
const ROUND_MIN: Duration = Duration::from_millis(100);
const ROUND_MAX: Duration = Duration::from_secs(10);
/// Messages of one question, and topics.
const MESSAGES_MAX: usize = 32_768;
const TOPICS_MAX: usize = 8192;
/// Records that one trim keeps, in bytes: replicas copy them with their next checkpoint, and the next trim waits for that of the leader.
const KEEP_BYTES_MAX: u64 = 4 << 20;
/// A proposal that takes longer is looked at again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// A checkpoint that takes longer is not waited for.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(30);
/// What readers of the log pass over is remembered so long after the trim, for tails that are behind.
const SKIPPED_KEPT_FOR: Duration = Duration::from_secs(600);
/// Kept messages that a limit removes at once: a part of the limit, so that not every message takes a command.
const LOSE_PART: u64 = 16;

type Partition = RaftGroup<PartitionState>;

/// What a leader remembers from round to round.
#[derive(Default)]
struct Round {
    /// Kept messages up to here were asked about in this pass.
    swept: Position,
    /// Indexes that were trimmed, and since when.
    trims: VecDeque<(u64, Instant)>,
    /// Up to where [`PartitionCommand::ForgetSkipped`] was proposed.
    forgotten: u64,
    ages: Ages,
}

impl Membership {
    /// Tends the messages of one replica until it stops, while this node leads.
    pub(super) async fn retain_what_is_needed(self, partition: PartitionId, group: Partition) {
        let every = self.inner.config.log_retain / TRIMS_PER_RETENTION;
        let every = every.clamp(ROUND_MIN, ROUND_MAX);
        let mut round = None;
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = group.stopped() => return,
                () = tokio::time::sleep(every) => {}
            }
            if !group.is_leader() {
                round = None;
                continue;
            }
            let tending = self.tend_messages(partition, &group, round.get_or_insert_default());
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = group.stopped() => return,
                // What is not done is done in a later round, or by another leader.
                _ = tending => {}
            }
        }
    }

    async fn tend_messages(
        &self,
        partition: PartitionId,
        group: &Partition,
        round: &mut Round,
    ) -> Option<()> {
        let index = self.inner.groups.index(partition)?;
        let partitions = self.inner.settings.borrow().as_ref()?.partitions;
        let asking = Asking {
            node: self.node(),
            groups: &self.inner.groups,
            leaders: &self.inner.leaders,
            channels: &self.inner.channels,
            partitions,
        };
        let trimmed = self.trim(partition, group, &index, &asking, round).await;
        let swept = sweep(partition, group, &index, &asking, round).await;
        self.hold_limit(partition, group, &index).await;
        let config = &self.inner.config;
        let ages = &mut round.ages;
        let enforced =
            retention_rules::enforce(partition, partitions, group, &index, config, ages).await;
        tell_sizes(partition, &index);
        trimmed.and(swept).and(enforced)
    }

    /// Trims what the log need not hold any longer.
    async fn trim(
        &self,
        partition: PartitionId,
        group: &Partition,
        index: &PartitionIndex,
        asking: &Asking<'_>,
        round: &mut Round,
    ) -> Option<()> {
        let config = &self.inner.config;
        let settled = group.settled(config.log_retain_bytes, config.log_retain);
        let settled = settled.unwrap_or(0).min(group.applied());
        while group.with_state(PartitionState::trimmed) < settled {
            let young = index.oldest_young(settled, MESSAGES_MAX, TOPICS_MAX);
            let young = young.await.ok()?;
            let mut needed = asking.ask(partition, &young.topics).await?;
            if group.with_state(PartitionState::share_generation) > 0 {
                needed.add_shares(&young.topics, group);
            }
            let is_needed = |topic, position| needed.is_needed(topic, position);
            for (upto, keep) in in_steps(&young, is_needed) {
                let copies = !keep.is_empty();
                let trim = PartitionCommand::Trim { upto, keep };
                let at = propose(group, &trim).await?;
                if copies {
                    checkpointed(group, at).await;
                }
            }
            round.trims.push_back((young.upto, Instant::now()));
        }
        forget_skipped(group, round).await
    }

    /// Beyond the limit, the oldest messages go.
    async fn hold_limit(
        &self,
        partition: PartitionId,
        group: &Partition,
        index: &PartitionIndex,
    ) -> Option<()> {
        let limit = self.inner.config.message_hold_bytes;
        let size = index.size();
        let (mut upto, mut lost, mut told) = (None, 0, Vec::new());
        if size.kept_bytes > limit {
            let excess = size.kept_bytes - limit + limit / LOSE_PART;
            let oldest = index.kept_after(Position::START, usize::MAX, usize::MAX, excess);
            let oldest = oldest.await.ok()?;
            upto = oldest.messages.last().map(|last| last.position);
            lost = oldest.messages.len();
            told = retention_rules::told(&oldest);
        }
        let held = group.settled(limit, Duration::MAX).unwrap_or(0);
        if held > group.with_state(PartitionState::trimmed) {
            // Nobody could be asked for too long.
            let young = index
                .oldest_young(held, usize::MAX, usize::MAX)
                .await
                .ok()?;
            upto = Some(Position::end_of(held));
            let kept = index.kept_after(Position::START, usize::MAX, usize::MAX, u64::MAX);
            let kept = kept.await.ok()?;
            lost = young.messages.len() + kept.messages.len();
            told = retention_rules::told(&kept);
            told.extend(retention_rules::told(&young));
        }
        let upto = upto?;
        propose(group, &PartitionCommand::Lose { upto, told }).await?;
        retention_rules::count(partition, "room", lost);
        tracing::warn!(%partition, %upto, lost, limit, "messages that wait take more room than they may; the oldest are lost");
        Some(())
    }
}

/// Cuts a range into trims that keep a bounded number of bytes each, between entries.
fn in_steps(
    young: &Waiting,
    is_needed: impl Fn(u32, Position) -> bool,
) -> Vec<(u64, Vec<Position>)> {
    let mut steps = Vec::new();
    let (mut keep, mut bytes) = (Vec::new(), 0);
    for message in &young.messages {
        if !is_needed(message.topic, message.position) {
            continue;
        }
        let index = message.position.index();
        let last: Option<&Position> = keep.last();
        if bytes >= KEEP_BYTES_MAX && last.is_some_and(|last| last.index() < index) {
            steps.push((index - 1, std::mem::take(&mut keep)));
            bytes = 0;
        }
        bytes += u64::from(message.bytes);
        keep.push(message.position);
    }
    steps.push((young.upto, keep));
    steps
}

/// Asks again about some kept messages, and forgets those that nobody needs any more.
async fn sweep(
    partition: PartitionId,
    group: &Partition,
    index: &PartitionIndex,
    asking: &Asking<'_>,
    round: &mut Round,
) -> Option<()> {
    let kept = index.kept_after(round.swept, MESSAGES_MAX, TOPICS_MAX, u64::MAX);
    let kept = kept.await.ok()?;
    let Some(last) = kept.messages.last() else {
        round.swept = Position::START;
        return Some(());
    };
    let last = last.position;
    let mut needed = asking.ask(partition, &kept.topics).await?;
    if group.with_state(PartitionState::share_generation) > 0 {
        needed.add_shares(&kept.topics, group);
    }
    let kept = kept.messages.into_iter();
    let positions: Vec<Position> = kept
        .filter(|message| !needed.is_needed(message.topic, message.position))
        .map(|message| message.position)
        .collect();
    if !positions.is_empty() {
        propose(group, &PartitionCommand::Forget { positions }).await?;
    }
    round.swept = last;
    Some(())
}

/// What readers pass over need not be remembered for ever. A tail that is still so far behind is told of a gap.
async fn forget_skipped(group: &Partition, round: &mut Round) -> Option<()> {
    let purged = group.stored().range().start;
    let mut below = 0;
    while let Some((upto, at)) = round.trims.front()
        && at.elapsed() >= SKIPPED_KEPT_FOR
        && *upto < purged
    {
        below = upto + 1;
        round.trims.pop_front();
    }
    if below > round.forgotten {
        propose(group, &PartitionCommand::ForgetSkipped { below }).await?;
        round.forgotten = below;
    }
    Some(())
}

/// Proposes a command; the index at which it was applied.
pub(super) async fn propose(group: &Partition, command: &PartitionCommand) -> Option<u64> {
    let proposal = tokio::time::timeout(PROPOSE_WITHIN, group.propose(command.encode()));
    proposal.await.ok()?.ok().map(|(index, _)| index)
}

/// Waits until this replica has on disk what was to be copied up to `index`.
async fn checkpointed(group: &Partition, index: u64) {
    let deadline = Instant::now() + CHECKPOINT_WITHIN;
    while group.checkpointed() < index && Instant::now() < deadline {
        tokio::time::sleep(ROUND_MIN / 4).await;
    }
}

fn tell_sizes(partition: PartitionId, index: &PartitionIndex) {
    let size = index.size();
    let partition = partition.to_string();
    let gauge = |name: &'static str, value: u64| {
        metrics::gauge!(name, "partition" => partition.clone()).set(value as f64);
    };
    gauge("magpie_messages_young", size.young);
    gauge("magpie_messages_kept", size.kept);
    gauge("magpie_messages_kept_bytes", size.kept_bytes);
    gauge("magpie_messages_index_bytes", size.memory);
}
