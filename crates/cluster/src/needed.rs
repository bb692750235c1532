//! Which messages sessions still need, asked of the partitions that hold the sessions.

use std::time::Duration;

use magpie_codec::TopicName;
use magpie_state::partition::PartitionState;
use magpie_state::{NodeId, PartitionId, Position};
use tonic::Status;

use crate::groups::{Groups, group_of};
use crate::leaders::Leaders;
use crate::proto;
use crate::raft::RaftGroup;
use crate::rpc::{Channels, MESSAGE_BYTES_MAX};

/// Topics of one question, in bytes of their names.
const TOPIC_BYTES_MAX: usize = 1 << 20;
/// Topics of one question.
const TOPICS_MAX: usize = 16_384;
/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// In a partition's answer: no session needs messages of the topic.
const NOBODY: u64 = u64::MAX;

/// Who is asked, from where.
#[derive(Clone)]
pub(crate) struct Asking<'a> {
    pub(crate) node: NodeId,
    pub(crate) groups: &'a Groups,
    pub(crate) leaders: &'a Leaders,
    pub(crate) channels: &'a Channels,
    /// How many partitions there are.
    pub(crate) partitions: u16,
}

/// What is needed of the messages of some topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    /// For each topic, in the order asked: messages above are needed. `None`: none is.
    above: Vec<Option<Position>>,
    /// Needed whatever is subscribed, ascending.
    inflight: Vec<Position>,
}

impl Needed {
    /// Whether the message at `position`, of the topic with this number in the question, is needed.
    pub(crate) fn is_needed(&self, topic: u32, position: Position) -> bool {
        let above = self.above[topic as usize];
        above.is_some_and(|above| position > above)
            || self.inflight.binary_search(&position).is_ok()
    }

    /// Needed is also what share groups of the topics' own partition have not got to, or have handed out.
    pub(crate) fn add_shares(&mut self, topics: &[TopicName], group: &RaftGroup<PartitionState>) {
        for (known, topic) in self.above.iter_mut().zip(topics) {
            let above = group.with_state(|state| state.share_groups_need_above(topic));
            if let Some(above) = above {
                *known = Some(known.map_or(above, |known| known.min(above)));
            }
        }
        group.with_state(|state| self.inflight.extend(state.share_groups_hold()));
        self.inflight.sort_unstable();
    }

    fn nobody(topics: usize) -> Self {
        Self {
            above: vec![None; topics],
            inflight: Vec::new(),
        }
    }

    /// Needed is what some partition's sessions need.
    fn add(&mut self, from: usize, reply: &proto::NeededReply) {
        for (known, above) in self.above[from..].iter_mut().zip(&reply.above) {
            if *above != NOBODY {
                let above = Position(*above);
                *known = Some(known.map_or(above, |known| known.min(above)));
            }
        }
        self.inflight
            .extend(reply.inflight.iter().copied().map(Position));
    }
}

impl Asking<'_> {
    /// Asks the leaders of all partitions about messages to `topics` in `partition`. `None` if one did not answer: then everything may be
    /// needed.
    pub(crate) async fn ask(&self, partition: PartitionId, topics: &[TopicName]) -> Option<Needed> {
        let mut needed = Needed::nobody(topics.len());
        let mut from = 0;
        while from < topics.len() {
            let mut bytes = 0;
            let some = topics[from..].iter().take(TOPICS_MAX).take_while(|topic| {
                bytes += topic.as_str().len() + 4;
                bytes <= TOPIC_BYTES_MAX
            });
            let some = &topics[from..from + some.count().max(1)];
            let asked = (0..self.partitions).map(|sessions| {
                let request = proto::NeededRequest {
                    sessions: u32::from(sessions),
                    partition: u32::from(partition.0),
                    topics: some.iter().map(|topic| topic.as_str().to_owned()).collect(),
                };
                self.ask_one(PartitionId(sessions), request)
            });
            for reply in futures::future::join_all(asked).await {
                let reply = reply?;
                if reply.above.len() != some.len() {
                    return None;
                }
                needed.add(from, &reply);
            }
            from += some.len();
        }
        needed.inflight.sort_unstable();
        Some(needed)
    }

    async fn ask_one(
        &self,
        sessions: PartitionId,
        request: proto::NeededRequest,
    ) -> Option<proto::NeededReply> {
        let leader = self.leaders.leader(group_of(sessions))?;
        if leader == self.node {
            let answer = tokio::time::timeout(ANSWER_WITHIN, serve(self.groups, request));
            return answer.await.ok()?.ok();
        }
        let mut client =
            proto::partitions_client::PartitionsClient::new(self.channels.forwarding(leader))
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(request);
        request.set_timeout(ANSWER_WITHIN);
        Some(client.needed(request).await.ok()?.into_inner())
    }
}

/// Answers for the sessions of a partition that this node leads.
///
/// Linearizable: a read index is taken after the question came, and the state is read when that is applied. So a subscription that the answer
/// does not know of commits after the question, its SUBACK leaves later still, and no message that had been committed before the question is
/// promised to it. Those that are known can only come to need less of the messages asked about: floors do not go down, a subscription's
/// `since` neither, also when a node hands a session over or ends. An answer may thus be acted on at any later time.
pub(crate) async fn serve(
    groups: &Groups,
    request: proto::NeededRequest,
) -> Result<proto::NeededReply, Status> {
    let number = |number: u32| {
        u16::try_from(number)
            .map(PartitionId)
            .map_err(|_| Status::invalid_argument("no such partition"))
    };
    let (sessions, partition) = (number(request.sessions)?, number(request.partition)?);
    if request.topics.len() > TOPICS_MAX {
        return Err(Status::invalid_argument("too many topics"));
    }
    let group = groups
        .partition(sessions)
        .ok_or_else(|| Status::failed_precondition("no replica of that partition lives here"))?;
    let unavailable = |error: crate::raft::ReadError| Status::unavailable(error.to_string());
    let index = group.read_index().await.map_err(unavailable)?;
    group.wait_applied(index).await.map_err(unavailable)?;
    let mut above = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let topic =
            TopicName::try_from(topic).map_err(|_| Status::invalid_argument("not a topic name"))?;
        // The state is let go between topics: one with many sessions takes its time.
        let needed = group.with_state(|state| state.needed_above(partition, &topic));
        above.push(needed.map_or(NOBODY, |above| above.0));
        tokio::task::consume_budget().await;
    }
    let inflight = group.with_state(|state: &PartitionState| state.inflight_in(partition));
    Ok(proto::NeededReply {
        above,
        inflight: inflight.into_iter().map(|position| position.0).collect(),
    })
}
