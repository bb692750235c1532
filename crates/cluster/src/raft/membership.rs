//! Who belongs to a group, who leads it, and how that is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use magpie_state::{NodeId, StateMachine};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::TransferLeaderRequest;
use prost::Message as _;

use super::entry::Membership;
use super::group::RaftGroup;
use super::proto;

/// The members of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Nodes whose majority decides. During a change, those of the old and of the new set.
    pub voters: BTreeSet<NodeId>,
    /// Nodes that follow and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change is under way: two majorities decide.
    pub is_joint: bool,
    /// Index of the entry that set it; 0 if the group was never initialized.
    pub index: u64,
}

impl Members {
    pub(super) fn new(membership: &Membership, index: Option<u64>) -> Self {
        Self {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_joint: membership.get_joint_config().len() > 1,
            index: index.unwrap_or(0),
        }
    }

    /// Voters and learners.
    pub fn all(&self) -> impl Iterator<Item = NodeId> {
        self.voters.union(&self.learners).copied()
    }
}

/// Why the members of a group were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes members. Nothing was changed.
    #[error("this node does not lead the group")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Another change is under way; try again later.
    #[error("another change of members is under way")]
    InProgress,
    /// Not a possible change, and why.
    #[error("{0}")]
    Refused(String),
    /// It may or may not have happened, or in part; ask for the members.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The group is stopped.
    #[error("the group is stopped")]
    Stopped,
}

impl<M: StateMachine> RaftGroup<M> {
    /// The members, committed or not.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let index = stored.log_id().as_ref().map(|id| id.index);
        Members::new(stored.membership(), index)
    }

    /// Forms the group with these voters, once: on one node only, and only if no other node ever did. Calling it again on a group that
    /// has members changes nothing.
    ///
    /// # Errors
    /// [`MembershipError::Refused`] if this node is not among the voters; [`MembershipError::Stopped`].
    pub async fn initialize(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let members: BTreeMap<u64, ()> = voters.iter().map(|node| (node.0, ())).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(MembershipError::Stopped),
        }
    }

    /// On the leader: adds a node that follows without a vote. Returns when that is committed, not when the node has caught up (see
    /// [`metrics`](Self::metrics)). No effect on a member.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        if self.members().all().any(|member| member == node) {
            return Ok(());
        }
        let change = ChangeMembers::AddNodes(BTreeMap::from([(node.0, ())]));
        self.change(change, true).await
    }

    /// On the leader: makes these the members, by joint consensus where voters change. Voters should have caught up as learners before,
    /// or the group waits for them. Several entries may be needed: on an error, some may be committed; calling it again goes on.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn change_membership(
        &self,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), MembershipError> {
        let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
        let wanted: BTreeSet<NodeId> = voters.union(learners).copied().collect();
        let now: BTreeSet<NodeId> = self.members().all().collect();
        for node in wanted.difference(&now) {
            self.add_learner(*node).await?;
        }
        let members = self.members();
        if members.voters != *voters || members.is_joint {
            let change = ChangeMembers::ReplaceAllVoters(ids(voters));
            self.change(change, true).await?;
        }
        let now: BTreeSet<NodeId> = self.members().all().collect();
        let gone: BTreeSet<NodeId> = now.difference(&wanted).copied().collect();
        if !gone.is_empty() {
            self.change(ChangeMembers::RemoveNodes(ids(&gone)), false)
                .await?;
        }
        Ok(())
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, ()>,
        retain: bool,
    ) -> Result<(), MembershipError> {
        match self.inner.raft.change_membership(change, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(forward) => MembershipError::NotLeader {
                    leader: forward.leader_id.map(NodeId),
                },
                ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
                    MembershipError::InProgress
                }
                ClientWriteError::ChangeMembershipError(error) => {
                    MembershipError::Refused(error.to_string())
                }
                _ => MembershipError::Unknown,
            }),
            Err(RaftError::Fatal(_)) => Err(MembershipError::Stopped),
        }
    }

    /// On a follower: the process of the leader, `gone`, has ended. Its lease is not waited for any longer, neither to stand for election nor to
    /// vote. Nothing happens if another one leads by now.
    pub async fn give_up_lease_of(&self, gone: NodeId) {
        let vote = self.inner.raft.metrics().borrow_watched().vote;
        if vote.leader_id.voted_for != gone.0 {
            return;
        }
        // "Handed over", to nobody here: all that a follower does then is to end the lease.
        let handed_over = TransferLeaderRequest::new(vote, gone.0, None);
        // It fails when the group is stopped.
        let _ = self.inner.raft.handle_transfer_leader(handed_over).await;
    }

    /// On a voter: asks the others whether they would vote for this node, and stands for election if so.
    pub async fn stand(&self) {
        // It fails when the group is stopped.
        let _ = self.inner.raft.trigger().elect(true).await;
    }

    /// On the leader: asks `to`, a voter that has caught up, to take over, and waits until this node leads no more. Proposals are refused
    /// meanwhile.
    ///
    /// # Errors
    /// [`MembershipError::NotLeader`]; [`MembershipError::Refused`] when it did not happen `within` the time: the group goes on here.
    pub async fn transfer_leader(
        &self,
        to: NodeId,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let before = self.leadership();
        if before.leader == Some(to) {
            return Ok(());
        }
        if !before.is_here {
            return Err(MembershipError::NotLeader {
                leader: before.leader,
            });
        }
        let asked = self.inner.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|_| MembershipError::Stopped)?;
        let mut leadership = self.watch_leadership();
        let changed = leadership.wait_for(|now| {
            now.leader == Some(to) || (now.term > before.term && now.leader.is_some())
        });
        match tokio::time::timeout(within, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::Refused(format!(
                "node {to} did not take over in time"
            ))),
        }
    }
}

pub(super) fn encode(membership: &Membership) -> Bytes {
    to_proto(membership).encode_to_vec().into()
}

pub(super) fn decode(bytes: &Bytes) -> Option<Membership> {
    from_proto(proto::Membership::decode(bytes.clone()).ok()?)
}

pub(super) fn to_proto(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| proto::membership::Voters {
                nodes: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership.nodes().map(|(node, ())| *node).collect(),
    }
}

pub(super) fn from_proto(membership: proto::Membership) -> Option<Membership> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.nodes.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, ()> = membership
        .nodes
        .into_iter()
        .map(|node| (node, ()))
        .collect();
    if configs.is_empty() {
        // Only the membership of a group that was never initialized.
        return nodes.is_empty().then(Membership::default);
    }
    Membership::new(configs, nodes).ok()
}
