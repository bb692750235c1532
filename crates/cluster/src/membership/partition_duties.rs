//! What the leader of a partition does beside taking batches: founds the group, tells its state which partition it is, keeps its members in step with the placement, hands
//! leadership to the preferred node, and ends streams whose life is over.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use magpie_state::control::MemberState;
use magpie_state::partition::{PartitionCommand, PartitionState};
use magpie_state::{NodeId, PartitionId, Record, StreamId};
use tokio::time::Instant;

use super::Membership;
use super::control_duties::CAUGHT_UP;
use crate::groups::group_of;
use crate::raft::{Metrics, RaftGroup};
use crate::stream::{Done, Stopping};

/// Between rounds.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A change of members that takes longer is looked at again.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// A leadership that does not move in this time stays for a while.
const TRANSFER_WITHIN: Duration = Duration::from_secs(2);
/// Whether streams are over is looked at when the members change, and so often besides.
const END_EVERY: Duration = Duration::from_secs(10);
/// Lives that are remembered as refused everywhere; one that is not is refused once more.
const REFUSED_MAX: usize = 256;

type Partition = RaftGroup<PartitionState>;

/// What a leader remembers from round to round.
#[derive(Default)]
struct Term {
    /// Since when the preferred leader could take over.
    preferable: Option<Instant>,
    /// Lives of the members when streams were last compared with them, and when.
    ended: Option<(u64, Instant)>,
}

impl Membership {
    /// Tends one replica until it stops.
    pub(super) async fn tend(self, partition: PartitionId, group: Partition) {
        let started = Instant::now();
        let mut term = None;
        let mut leadership = group.watch_leadership();
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                changed = leadership.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = *leadership.borrow_and_update();
            if let Some(leader) = now.leader {
                self.inner
                    .leaders
                    .follows(group_of(partition), leader, now.term);
            }
            if !group.is_leader() {
                term = None;
                self.found_partition(partition, &group, started).await;
            } else if self.has_control() {
                let term = term.get_or_insert_default();
                tokio::select! {
                    () = self.inner.stop.cancelled() => return,
                    () = self.lead_partition(partition, &group, term) => {}
                }
            }
        }
    }

    /// Gives the group its first members: the preferred leader as soon as the others are there to vote, others later, in case it is gone.
    async fn found_partition(&self, partition: PartitionId, group: &Partition, started: Instant) {
        if !group.members().voters.is_empty() {
            return;
        }
        let founders = self.state(|state| state.founders().get(&partition).cloned());
        let Some(founders) = founders.filter(|founders| founders.contains(&self.node())) else {
            return;
        };
        let id = group_of(partition);
        let mut others = founders.iter().filter(|node| **node != self.node());
        let is_first = founders[0] == self.node();
        let are_there = others.all(|node| self.inner.peers.hosts(*node, id));
        let patience = self.inner.config.election_timeout * if is_first { 1 } else { 5 };
        if (is_first && are_there) || started.elapsed() > patience {
            let voters: BTreeSet<NodeId> = founders.into_iter().collect();
            if let Err(error) = group.initialize(&voters).await {
                tracing::info!(%partition, %error, "group not founded");
            }
        }
    }

    async fn lead_partition(&self, partition: PartitionId, group: &Partition, term: &mut Term) {
        self.configure(partition, group).await;
        self.limit(group).await;
        self.end_streams(group, term).await;
        let placed = self.state(|state| state.placement().get(&partition).cloned());
        let Some(placed) = placed.filter(|placed| !placed.is_empty()) else {
            return;
        };
        if !self.match_placement(partition, group, &placed).await {
            return;
        }
        self.hand_to_preferred(partition, group, &placed, term)
            .await;
    }

    /// Tells the state which partition it is, of how many, once.
    async fn configure(&self, partition: PartitionId, group: &Partition) {
        let is_configured = group.with_state(|state| state.configured().is_some());
        let partitions = self.state(|state| state.settings().partitions);
        if is_configured || partitions == 0 {
            return;
        }
        let command = PartitionCommand::Configure {
            partition,
            partitions,
        };
        // Repeated until it is so; only the first one counts.
        let _ = tokio::time::timeout(CHANGE_WITHIN, group.propose(command.encode())).await;
    }

    /// Tells the state what this node's configuration says of its limits.
    async fn limit(&self, group: &Partition) {
        let Some((_, partitions)) = group.with_state(PartitionState::configured) else {
            return;
        };
        let limits = self.inner.config.limits(partitions);
        if group.with_state(PartitionState::limits) != limits {
            let command = PartitionCommand::Limit(limits).encode();
            // Repeated until it is so.
            let _ = tokio::time::timeout(CHANGE_WITHIN, group.propose(command)).await;
        }
    }

    /// One step towards the members that the placement names; whether it is reached.
    async fn match_placement(
        &self,
        partition: PartitionId,
        group: &Partition,
        placed: &[NodeId],
    ) -> bool {
        let wanted: BTreeSet<NodeId> = placed.iter().copied().collect();
        let now = group.members();
        if now.voters == wanted && now.learners.is_empty() && !now.is_joint {
            return true;
        }
        let is_missing = wanted
            .iter()
            .any(|node| now.all().all(|member| member != *node));
        let metrics = group.metrics();
        let is_behind = wanted.iter().any(|node| {
            !now.voters.contains(node) && *node != self.node() && !has_caught_up(&metrics, *node)
        });
        let mut voters = wanted.clone();
        let mut learners = BTreeSet::new();
        if is_missing || is_behind {
            if !is_missing {
                return false;
            }
            voters = now.voters.clone();
            learners = wanted.difference(&now.voters).copied().collect();
        } else if !wanted.contains(&self.node()) {
            // The leader itself is to go. The others first, then it hands over, and the next leader lets it go.
            if wanted.is_subset(&now.voters) {
                let heir = wanted
                    .iter()
                    .copied()
                    .find(|node| self.can_take(&metrics, *node));
                if let Some(heir) = heir {
                    let outcome = group.transfer_leader(heir, TRANSFER_WITHIN).await;
                    tracing::debug!(%partition, %heir, ?outcome, "leadership handed over");
                }
                return false;
            }
            voters.insert(self.node());
        }
        tracing::info!(%partition, ?voters, ?learners, "changing the members of a partition");
        let change = group.change_membership(&voters, &learners);
        match tokio::time::timeout(CHANGE_WITHIN, change).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%partition, %error, "members not changed"),
            Err(_) => tracing::info!(%partition, "members not changed in time"),
        }
        false
    }

    /// Once the preferred leader could take over for a while, it does.
    async fn hand_to_preferred(
        &self,
        partition: PartitionId,
        group: &Partition,
        placed: &[NodeId],
        term: &mut Term,
    ) {
        let preferred = placed[0];
        let is_up = self.state(|state| {
            let member = state.members().get(&preferred);
            member.is_some_and(|member| member.state == MemberState::Up)
        });
        if preferred == self.node() || !is_up || !self.can_take(&group.metrics(), preferred) {
            term.preferable = None;
            return;
        }
        let since = *term.preferable.get_or_insert_with(Instant::now);
        if since.elapsed() < self.inner.config.election_timeout * 3 {
            return;
        }
        term.preferable = None;
        let outcome = group.transfer_leader(preferred, TRANSFER_WITHIN).await;
        tracing::info!(%partition, to = %preferred, ?outcome, "leadership given to the preferred node");
    }

    /// Ends everything that lives which are over still hold.
    async fn end_streams(&self, group: &Partition, term: &mut Term) {
        let lives = self.lives_hash();
        let is_done = term
            .ended
            .is_some_and(|(then, at)| then == lives && at.elapsed() < END_EVERY);
        if is_done {
            return;
        }
        let holders = group.with_state(PartitionState::holders);
        let over: Vec<StreamId> = self.state(|state| {
            let holders = holders.into_iter();
            holders.filter(|stream| state.is_over(*stream)).collect()
        });
        for stream in over {
            self.refuse_everywhere(stream).await;
            tracing::debug!(group = %group.group(), node = %stream.node, life = %stream.incarnation, "ending a stream");
            let command = PartitionCommand::EndStream { stream }.encode();
            // One with many connections is ended in steps.
            loop {
                let proposal = tokio::time::timeout(CHANGE_WITHIN, group.propose(command.clone()));
                if !proposal.await.is_ok_and(|outcome| outcome.is_ok()) {
                    return;
                }
                if !group.with_state(|state| state.holds_connections(stream)) {
                    break;
                }
            }
        }
        term.ended = Some((lives, Instant::now()));
    }

    /// Before what a life held is given to others, no partition takes anything from it any more: a late batch of it could land behind
    /// what they do. A partition that does not answer in time has no leader that could take one.
    async fn refuse_everywhere(&self, stream: StreamId) {
        let known = |this: &Self| {
            let refused = &this.inner.refused;
            refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&stream)
        };
        let Some(streams) = self.inner.streams.get().filter(|_| !known(self)) else {
            return;
        };
        let record = [Record::Refuse { stream }];
        let refusals = streams.iter().map(|into| into.commit(&record));
        let refused =
            tokio::time::timeout(CHANGE_WITHIN, futures::future::join_all(refusals)).await;
        let is_taken = |done: Result<Done, Stopping>| matches!(done, Ok(Done::Taken { .. }));
        if refused.is_ok_and(|done| done.into_iter().all(is_taken)) {
            let mut refused = self
                .inner
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if refused.len() == REFUSED_MAX {
                refused.pop_first();
            }
            refused.insert(stream);
        }
    }

    /// Changes whenever the life of some member does.
    fn lives_hash(&self) -> u64 {
        use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        for (node, (life, state)) in self.inner.lives.load().iter() {
            (node, life, *state == MemberState::Up).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether `node` could lead a group with these metrics at once.
    pub(super) fn can_take(&self, metrics: &Metrics, node: NodeId) -> bool {
        let age = self.inner.config.quorum_lost_after;
        has_caught_up(metrics, node) && self.inner.peers.can_lead(node, age)
    }
}

fn has_caught_up(metrics: &Metrics, node: NodeId) -> bool {
    let mut rows = metrics.replication.iter();
    rows.any(|row| row.node == node && row.matched.is_some() && row.lag <= CAUGHT_UP)
}
