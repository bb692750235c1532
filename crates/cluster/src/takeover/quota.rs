//! How many sessions a user may have in the cluster.
//!
//! Each partition counts the sessions of a user that are in it, and tells with an attach that began one how many there are now. While
//! that is no more than an even share of the limit, nobody else is asked: most users have few. Beyond, the other leaders are, and a
//! session too many is ended again before its client hears of it. Since each counts itself before it asks, two CONNECTs that race cannot
//! both get the last place; both may be refused.

use std::collections::BTreeMap;
use std::time::Duration;

use magpie_state::partition::PartitionState;
use magpie_state::{ClientId, NodeId, PartitionId};
use tonic::{Request, Status};

use super::Takeover;
use crate::groups::{Groups, group_of};
use crate::proto;
use crate::rpc::Purpose;

/// A leader that does not answer in this time is not waited for: a replica of this node may know, and a limit must not keep everybody out.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

impl Takeover {
    /// Whether a user has more sessions than one may have, `owned` of them in the partition of `client`.
    pub(super) async fn is_over_quota(&self, owner: &str, client: &ClientId, owned: u32) -> bool {
        let max = self.inner.parts.user_sessions_max;
        if max == 0 || u64::from(owned) <= max / u64::from(self.inner.partitions) {
            return false;
        }
        let here = self.partition_of(client);
        let partitions = (0..self.inner.partitions).map(PartitionId);
        let others = partitions.filter(|partition| *partition != here);
        let ours = self.inner.parts.stream.node;
        let mut asked: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for partition in others {
            let leader = self.inner.parts.leaders.leader(group_of(partition));
            // Without a leader, a replica of this node may know.
            let of_node = asked.entry(leader.unwrap_or(ours)).or_default();
            of_node.push(u32::from(partition.0));
        }
        let counts = asked.into_iter().map(async |(node, partitions)| {
            let request = proto::OwnedRequest {
                owner: owner.to_owned(),
                partitions,
            };
            let told = match node == ours {
                true => None,
                false => self.ask_owned(node, request.clone()).await.ok(),
            };
            told.unwrap_or_else(|| count_owned(&self.inner.parts.groups, &request))
        });
        let elsewhere: u64 = futures::future::join_all(counts).await.into_iter().sum();
        u64::from(owned).saturating_add(elsewhere) > max
    }

    async fn ask_owned(&self, node: NodeId, request: proto::OwnedRequest) -> Result<u64, Status> {
        let channel = self.inner.parts.channels.to(node, Purpose::Control);
        let mut sessions = proto::sessions_client::SessionsClient::new(channel);
        let mut request = Request::new(request);
        request.set_timeout(ANSWER_WITHIN);
        Ok(sessions.owned(request).await?.into_inner().sessions)
    }

    /// Answers another node.
    pub(crate) fn serve_owned(&self, request: &proto::OwnedRequest) -> proto::OwnedReply {
        proto::OwnedReply {
            sessions: count_owned(&self.inner.parts.groups, request),
        }
    }
}

/// Sessions of a user in those of the partitions that have a replica here.
fn count_owned(groups: &Groups, request: &proto::OwnedRequest) -> u64 {
    let partitions = request.partitions.iter();
    let partitions = partitions.filter_map(|number| u16::try_from(*number).ok());
    let groups = partitions.filter_map(|number| groups.partition(PartitionId(number)));
    groups
        .map(|group| {
            group.with_state(|state: &PartitionState| state.owned_session_count(&request.owner))
        })
        .map(u64::from)
        .sum()
}
