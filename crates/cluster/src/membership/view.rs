//! What operators see and ask: status, removal of a member, handing over before a stop.

use std::sync::atomic::Ordering;
use std::time::Duration;

use magpie_state::control::{ControlAnswer, ControlCommand, MemberState};
use magpie_state::{NodeId, StateMachine};
use magpie_storage::Space;

use tokio::sync::mpsc;

use super::Membership;
use super::peers::CLOCK_DIFFERENCE_MAX;
use crate::groups::CONTROL;
use crate::raft::{GroupId, RaftGroup};
use crate::readiness::Facts;
use crate::{
    Error, Event, GroupStatus, LogStatus, MemberStatus, PartitionHolds, Readiness, Status,
};

impl Membership {
    /// Everything but the tails' positions.
    pub(crate) fn status(&self) -> Status {
        let control = self.inner.groups.control();
        let voters = control
            .map(|group| group.members().voters)
            .unwrap_or_default();
        let (members, routes) = self.state(|state| {
            let members = state.members().values().map(|member| MemberStatus {
                id: member.id.to_string(),
                name: member.name.clone(),
                state: String::from(match member.state {
                    MemberState::Up => "up",
                    MemberState::Down => "down",
                }),
                incarnation: member.incarnation.to_string(),
                cluster_addr: member.cluster_addr.clone(),
                mqtt_addr: member.mqtt_addr.clone(),
                http_addr: member.http_addr.clone(),
                voter: voters.contains(&member.id),
                this: member.id == self.node(),
            });
            (members.collect(), state.routes().len())
        });
        let mut partitions = self.inner.groups.partitions();
        partitions.sort_by_key(|(partition, _)| *partition);
        let partitions = partitions.iter().map(|(partition, group)| GroupStatus {
            holds: Some(group.with_state(PartitionHolds::of)),
            ..group_status(partition.to_string(), group)
        });
        let control = control.map(|group| group_status(String::from("control"), group));
        Status {
            cluster_id: self.inner.file.cluster().map(|cluster| cluster.to_string()),
            node_id: self.node().to_string(),
            node_name: self.inner.config.node_name.clone(),
            not_ready: match &*self.inner.readiness.borrow() {
                Readiness::Ready => String::new(),
                Readiness::NotReady(why) => why.clone(),
            },
            members,
            groups: control.into_iter().chain(partitions).collect(),
            routes,
            log: LogStatus::of(&self.inner.log),
        }
    }

    /// What readiness follows from, now.
    pub(crate) fn facts<'a>(&self, is_confirmed: &'a dyn Fn(GroupId) -> bool) -> Facts<'a> {
        let age = self.inner.config.quorum_lost_after;
        let has_cluster = self.inner.groups.control().is_some();
        let waiting = (!has_cluster).then(|| {
            let waiting = self.inner.waiting.last();
            waiting.unwrap_or_else(|| String::from("the node belongs to no cluster yet"))
        });
        Facts {
            waiting,
            partitions: self
                .inner
                .settings
                .borrow()
                .as_ref()
                .map(|settings| settings.partitions),
            is_announced: *self.inner.announced.borrow() && self.is_policy_current(),
            is_draining: self.is_draining(),
            clock_off: self.inner.peers.clock_off(age),
            clock_off_max: CLOCK_DIFFERENCE_MAX,
            is_disk_full: self.inner.log.space() == Space::Hard,
            is_confirmed,
        }
    }

    /// Whether the leader of `group` proved itself lately.
    pub(crate) fn is_confirmed(&self, group: GroupId) -> bool {
        let age = self.inner.config.quorum_lost_after;
        self.inner.leaders.confirmed_within(group, age)
    }

    /// For how long no leader of the control group has proved itself, if one ever did.
    pub(crate) fn cut_off_for(&self) -> Option<Duration> {
        self.inner.leaders.confirmed_ago(CONTROL)
    }

    /// Whether this node has heard neither a leader of the control group nor any other node for so long that it is not ready.
    pub(crate) fn is_alone(&self) -> bool {
        let age = self.inner.config.quorum_lost_after;
        self.cut_off_for().is_some_and(|time| time > age) && !self.inner.peers.hears_somebody(age)
    }

    pub(crate) fn down_after(&self) -> Duration {
        self.inner.config.down_after
    }

    pub(crate) fn set_readiness(&self, now: Readiness) {
        self.inner.readiness.send_if_modified(|then| {
            let changed = *then != now;
            if changed {
                match &now {
                    Readiness::Ready => tracing::debug!("ready"),
                    Readiness::NotReady(why) => tracing::debug!(why, "not ready"),
                }
                *then = now;
            }
            changed
        });
    }

    /// Between two looks at readiness.
    pub(crate) fn look_every(&self) -> Duration {
        (self.inner.config.heartbeat / 2).min(Duration::from_millis(50))
    }

    pub(crate) fn events(&self) -> &mpsc::Sender<Event> {
        &self.inner.events
    }

    /// Resolves when the node stops.
    pub(crate) async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Removes a member that is down, for good. Repeating it is fine.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason; those of [`propose`](Self::propose).
    pub(crate) async fn remove_member(&self, node: NodeId) -> Result<(), Error> {
        if self.state(|state| state.is_former(node)) {
            return Ok(());
        }
        if self.state(|state| !state.members().contains_key(&node)) {
            return Err(Error::Refused(format!("{node} is not a member")));
        }
        match self.propose(ControlCommand::Remove { node }).await? {
            (_, ControlAnswer::Done) => Ok(()),
            (_, ControlAnswer::Refused(why)) => Err(Error::Refused(why)),
            (_, answer) => Err(Error::Refused(format!("{answer:?}"))),
        }
    }

    /// Moves every leadership to another node, and takes none from now on; at most `deadline`.
    pub(crate) async fn hand_over(&self, deadline: Duration) {
        self.inner.is_draining.store(true, Ordering::Relaxed);
        let partitions = self.inner.groups.partitions();
        let moves = partitions.iter().map(|(_, group)| self.give_away(group));
        let all = async {
            futures::future::join_all(moves).await;
            if let Some(control) = self.inner.groups.control() {
                self.give_away(control).await;
            }
        };
        if tokio::time::timeout(deadline, all).await.is_err() {
            tracing::info!("not all leaderships were handed over in time");
        }
    }

    async fn give_away<M: StateMachine>(&self, group: &RaftGroup<M>) {
        while group.is_leader() {
            let members = group.members();
            let metrics = group.metrics();
            let mut others = members.voters.iter().filter(|node| **node != self.node());
            if members.voters.len() < 2 {
                return;
            }
            if let Some(heir) = others.find(|node| self.can_take(&metrics, **node)) {
                let within = self.inner.config.election_timeout;
                if let Err(error) = group.transfer_leader(*heir, within).await {
                    tracing::debug!(group = %group.group(), %error, "leadership not handed over");
                }
            }
            if group.is_leader() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn group_status<M: StateMachine>(name: String, group: &RaftGroup<M>) -> GroupStatus {
    let metrics = group.metrics();
    GroupStatus {
        group: name,
        term: metrics.term,
        leader: metrics.leader.map(|leader| leader.to_string()),
        leading: group.is_leader(),
        voters: group
            .members()
            .voters
            .iter()
            .map(ToString::to_string)
            .collect(),
        last_log: metrics.last_log,
        committed: metrics.committed,
        applied: metrics.applied,
        tail: None,
        holds: None,
    }
}
