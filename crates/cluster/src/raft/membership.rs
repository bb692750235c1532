//! Who belongs to a group.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use magpie_state::NodeId;
use prost::Message as _;

use super::entry::Membership;
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
