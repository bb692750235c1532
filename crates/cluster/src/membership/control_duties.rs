//! What the leader of the control group does: forms the cluster's state, keeps the group's voters in step with the members, places
//! partitions, and declares lives over. Each step follows from the state and may be repeated.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use magpie_state::control::{ControlCommand, ControlState, Member, MemberState, plan};
use magpie_state::{NodeId, PartitionId, StreamId};
use tokio::time::Instant;

use super::Membership;
use super::formation::voter_count;
use crate::groups::{CONTROL, group_of};
use crate::raft::{Members, RaftGroup};

/// Between rounds.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A change of voters that takes longer is looked at again.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// A member that lacks no more entries than these has caught up.
pub(super) const CAUGHT_UP: u64 = 1024;

impl Membership {
    /// Does the leader's duties whenever this node leads, until it stops.
    pub(super) async fn lead_control(self) {
        let mut applied = self.applied();
        // Since when this node has led, and the lives whose silence it counts from then on.
        let mut watching: Option<HashMap<StreamId, Instant>> = None;
        loop {
            match self.inner.groups.control() {
                Some(control) if control.is_leader() => {
                    let watching = watching.get_or_insert_default();
                    tokio::select! {
                        () = self.inner.stop.cancelled() => return,
                        () = self.lead_once(control, watching) => {}
                    }
                }
                _ => watching = None,
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = applied.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn lead_once(
        &self,
        control: &RaftGroup<ControlState>,
        watching: &mut HashMap<StreamId, Instant>,
    ) {
        // Everything committed before is applied before it is acted on.
        let Ok(index) = control.read_index().await else {
            return;
        };
        if control.wait_applied(index).await.is_err() {
            return;
        }
        if self.state(|state| state.cluster().is_none()) {
            if let Some(founding) = self.inner.file.founding() {
                self.command(ControlCommand::Form {
                    cluster: founding.cluster,
                    settings: founding.settings,
                    members: founding.members,
                })
                .await;
            }
            return;
        }
        self.declare_down(watching).await;
        self.keep_voters(control).await;
        self.place_partitions().await;
    }

    /// A step; if it fails, the next round sees it undone.
    async fn command(&self, command: ControlCommand) -> bool {
        self.propose(command).await.is_ok()
    }

    async fn declare_down(&self, watching: &mut HashMap<StreamId, Instant>) {
        let lives: Vec<StreamId> = self.state(|state| {
            let up = state.members().values();
            let up =
                up.filter(|member| member.state == MemberState::Up && member.id != self.node());
            up.map(|member| StreamId {
                node: member.id,
                incarnation: member.incarnation,
            })
            .collect()
        });
        watching.retain(|life, _| lives.contains(life));
        for life in lives {
            let since = *watching.entry(life).or_insert_with(Instant::now);
            let heard = self
                .inner
                .peers
                .heard(life)
                .map_or(since, |heard| heard.max(since));
            if heard.elapsed() > self.inner.config.down_after {
                tracing::warn!(node = %life.node, life = %life.incarnation, "member declared down");
                let StreamId { node, incarnation } = life;
                self.command(ControlCommand::Down { node, incarnation })
                    .await;
            }
        }
    }

    /// One change of the control group's members towards what the cluster's members want.
    async fn keep_voters(&self, control: &RaftGroup<ControlState>) {
        let members: Vec<Member> = self.state(|state| state.members().values().cloned().collect());
        let now = control.members();
        let metrics = control.metrics();
        let caught_up = |node: NodeId| {
            let mut rows = metrics.replication.iter();
            node == self.node()
                || rows.any(|row| row.node == node && row.matched.is_some() && row.lag <= CAUGHT_UP)
        };
        let Some((voters, learners)) = next_members(&members, &now, self.node(), caught_up) else {
            return;
        };
        tracing::info!(
            ?voters,
            ?learners,
            "changing the members of the control group"
        );
        let change = control.change_membership(&voters, &learners);
        match tokio::time::timeout(CHANGE_WITHIN, change).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "members of the control group not changed"),
            Err(_) => tracing::info!("members of the control group not changed in time"),
        }
    }

    async fn place_partitions(&self) {
        let founded: Vec<PartitionId> = self.state(|state| {
            let led = self
                .inner
                .peers
                .led_within(self.inner.config.quorum_lost_after);
            let founding = state.founders().keys();
            founding
                .filter(|partition| led.contains(&group_of(**partition)))
                .copied()
                .collect()
        });
        if !founded.is_empty() {
            self.command(ControlCommand::Founded {
                partitions: founded,
            })
            .await;
        }
        loop {
            let Some((partition, replicas)) = self.state(plan) else {
                return;
            };
            let is_new = self.state(|state| !state.placement().contains_key(&partition));
            if !is_new && !self.is_settled() {
                return;
            }
            tracing::info!(%partition, ?replicas, "placing a partition");
            let is_placed = self
                .command(ControlCommand::Place {
                    partition,
                    replicas,
                })
                .await;
            if !is_placed || !is_new {
                return;
            }
        }
    }

    /// Whether every partition's group has the members that its placement names, so that the next replica may move.
    fn is_settled(&self) -> bool {
        let age = self.inner.config.quorum_lost_after;
        self.state(|state| {
            let is_member = |node: &NodeId| state.members().contains_key(node);
            state.founders().is_empty()
                && state.placement().iter().all(|(partition, replicas)| {
                    let wanted: BTreeSet<_> = replicas.iter().copied().filter(is_member).collect();
                    let report = self.inner.peers.report_of(group_of(*partition));
                    report.is_some_and(|report| {
                        let voters = report.members.voters.into_iter().filter(is_member);
                        report.asked.elapsed() <= age
                            && !report.members.is_joint
                            && voters.collect::<BTreeSet<_>>() == wanted
                    })
                })
        })
    }

    /// Whether the control group's leader proved itself lately, so that the state here is not far behind.
    pub(super) fn has_control(&self) -> bool {
        let age = self.inner.config.quorum_lost_after;
        self.inner.leaders.confirmed_within(CONTROL, age)
    }
}

/// The next voters and learners of the control group, if they are to change.
///
/// Every member belongs to it. As learners first; once they have caught up, the voters are the leader, then those that vote already, then
/// others, members that are up before those that are down.
fn next_members(
    members: &[Member],
    now: &Members,
    leader: NodeId,
    caught_up: impl Fn(NodeId) -> bool,
) -> Option<(BTreeSet<NodeId>, BTreeSet<NodeId>)> {
    let ids: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
    let in_group: BTreeSet<NodeId> = now.all().collect();
    let newcomers: BTreeSet<NodeId> = ids.difference(&in_group).copied().collect();
    if !newcomers.is_empty() {
        let learners = now.learners.union(&newcomers).copied().collect();
        return Some((now.voters.clone(), learners));
    }
    let can_vote = |member: &&Member| {
        let is_up = member.state == MemberState::Up;
        now.voters.contains(&member.id) || (is_up && caught_up(member.id))
    };
    let mut candidates: Vec<&Member> = members.iter().filter(can_vote).collect();
    candidates.sort_by_key(|member| {
        let is_down = member.state == MemberState::Down;
        let is_new = !now.voters.contains(&member.id);
        (member.id != leader, is_down, is_new, member.id)
    });
    let wanted = voter_count(members.len());
    let is_catching_up = |member: &Member| {
        member.state == MemberState::Up && !now.voters.contains(&member.id) && !caught_up(member.id)
    };
    if candidates.len() < wanted && members.iter().any(is_catching_up) {
        return None;
    }
    // Fewer than wanted: some member is down and never voted. An even number would only need more of them to be up.
    let count = match candidates.len() {
        few if few < wanted => voter_count(few).max(1),
        _ => wanted,
    };
    let voters: BTreeSet<NodeId> = candidates
        .iter()
        .take(count)
        .map(|member| member.id)
        .collect();
    if candidates.len() < wanted && voters.len() <= now.voters.intersection(&ids).count() {
        // Nothing is won, unless somebody who left still votes.
        if now.voters.is_subset(&ids) && in_group.is_subset(&ids) && !now.is_joint {
            return None;
        }
    }
    let learners: BTreeSet<NodeId> = ids.difference(&voters).copied().collect();
    let is_same = voters == now.voters && learners == now.learners && !now.is_joint;
    (!is_same && !voters.is_empty()).then_some((voters, learners))
}

#[cfg(test)]
mod tests;
