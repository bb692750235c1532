//! How much waits for a session in each partition: asked of the replica that lives here, or else of the partition's leader.

use std::io;
use std::time::Duration;

use magpie_codec::{QoS, TopicFilter};
use magpie_state::partition::StoredSession;
use magpie_state::{PartitionId, Position, partition_of};
use tonic::Status;

use crate::groups::{Groups, group_of};
use crate::index::{Cut, PartitionIndex, WaitingFor, Weight};
use crate::leaders::Leaders;
use crate::proto;
use crate::proto::weigh_request::Measure;
use crate::rpc::{Channels, MESSAGE_BYTES_MAX};

/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Filters of one question.
const FILTERS_MAX: usize = 65_536;

/// Who is asked, from where.
pub(crate) struct Scales<'a> {
    pub(crate) groups: &'a Groups,
    pub(crate) leaders: &'a Leaders,
    pub(crate) channels: &'a Channels,
    /// How many partitions there are.
    pub(crate) partitions: u16,
}

/// What a session has lost.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) upto: Vec<(PartitionId, Position)>,
    pub(crate) weight: Weight,
}

impl Scales<'_> {
    /// The oldest messages of a session beyond `limit` bytes and a little more, so that it is not over it again at once. Each partition loses by
    /// how much waits there: positions in different ones cannot be compared. `None`: it is not over the limit, or somebody does not answer.
    pub(crate) async fn excess(&self, session: &StoredSession, limit: u64) -> Option<Excess> {
        let all = (0..self.partitions).map(PartitionId);
        let questions: Vec<_> = all
            .filter_map(|partition| Some((partition, self.question(session, partition)?)))
            .collect();
        let mut bound = 0;
        for (partition, of) in &questions {
            bound += self
                .ask(*partition, of, Measure::Topics, 0)
                .await?
                .weight
                .bytes;
        }
        if bound <= limit {
            return None;
        }
        let mut weights = Vec::with_capacity(questions.len());
        for (partition, of) in &questions {
            let weight = self.ask(*partition, of, Measure::Exact, 0).await?.weight;
            weights.push(weight.bytes);
        }
        let total: u64 = weights.iter().sum();
        if total <= limit {
            return None;
        }
        let surplus = u128::from(total - limit + limit / 16);
        let mut excess = Excess::default();
        for ((partition, of), bytes) in questions.iter().zip(weights) {
            let part = surplus * u128::from(bytes) / u128::from(total.max(1));
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            if part == 0 {
                continue;
            }
            let cut = self.ask(*partition, of, Measure::Cut, part).await?;
            excess.upto.push((*partition, cut.upto));
            excess.weight.messages += cut.weight.messages;
            excess.weight.bytes += cut.weight.bytes;
        }
        Some(excess)
    }

    /// What waits for a session in a partition; `None`: it has no subscription there.
    fn question(&self, session: &StoredSession, partition: PartitionId) -> Option<WaitingFor> {
        let concerned = session.subscriptions.iter().filter(|it| {
            let is_here = !it.filter.is_exact()
                || partition_of(it.filter.filter(), self.partitions) == partition;
            is_here && it.options.qos > QoS::AtMostOnce && !it.filter.is_shared()
        });
        let filters: Vec<_> = concerned
            .map(|it| {
                let here = it.since.iter().find(|(of, _)| *of == partition);
                let since = here.map_or(Position::START, |(_, since)| *since);
                (it.filter.clone(), since)
            })
            .collect();
        if filters.is_empty() {
            return None;
        }
        let cursor = session.cursors.iter().find(|it| it.partition == partition);
        let mut done = cursor.map(|cursor| cursor.done.clone()).unwrap_or_default();
        // What is in flight is not lost.
        let inflight = session.inflight.iter();
        let inflight = inflight.filter(|it| it.partition == partition);
        done.extend(inflight.map(|it| it.position));
        done.sort_unstable();
        Some(WaitingFor {
            filters,
            floor: cursor.map_or(Position::START, |cursor| cursor.floor),
            done,
        })
    }

    async fn ask(
        &self,
        partition: PartitionId,
        of: &WaitingFor,
        measure: Measure,
        bytes: u64,
    ) -> Option<Cut> {
        if let Some(index) = self.groups.index(partition) {
            return weigh(&index, of, measure, bytes).await.ok();
        }
        let leader = self.leaders.leader(group_of(partition))?;
        let mut client =
            proto::partitions_client::PartitionsClient::new(self.channels.forwarding(leader))
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(proto::WeighRequest {
            partition: u32::from(partition.0),
            filters: of
                .filters
                .iter()
                .map(|(it, _)| it.as_str().to_owned())
                .collect(),
            since: of.filters.iter().map(|(_, since)| since.0).collect(),
            floor: of.floor.0,
            done: of.done.iter().map(|it| it.0).collect(),
            measure: measure.into(),
            bytes,
        });
        request.set_timeout(ANSWER_WITHIN);
        let reply = client.weigh(request).await.ok()?.into_inner();
        Some(Cut {
            upto: Position(reply.upto),
            weight: Weight {
                messages: reply.messages,
                bytes: reply.bytes,
            },
        })
    }
}

async fn weigh(
    index: &PartitionIndex,
    of: &WaitingFor,
    measure: Measure,
    bytes: u64,
) -> io::Result<Cut> {
    let weight = match measure {
        Measure::Topics => Weight {
            messages: 0,
            bytes: index.weigh_topics(of).await?,
        },
        Measure::Exact => index.weigh(of).await?,
        Measure::Cut => return index.cut(of, bytes).await,
    };
    Ok(Cut {
        upto: Position::START,
        weight,
    })
}

/// Answers the question of a node without a replica.
pub(crate) async fn serve(
    groups: &Groups,
    request: proto::WeighRequest,
) -> Result<proto::WeighReply, Status> {
    let partition = u16::try_from(request.partition)
        .map(PartitionId)
        .map_err(|_| Status::invalid_argument("no such partition"))?;
    let measure = request.measure();
    let index = groups
        .index(partition)
        .ok_or_else(|| Status::failed_precondition("no replica of that partition lives here"))?;
    if request.filters.len() != request.since.len() || request.filters.len() > FILTERS_MAX {
        return Err(Status::invalid_argument("too many filters"));
    }
    let filters = request.filters.into_iter().map(TopicFilter::try_from);
    let filters: Vec<TopicFilter> = filters
        .collect::<Result<_, _>>()
        .map_err(|_| Status::invalid_argument("not a topic filter"))?;
    let since = request.since.into_iter().map(Position);
    let of = WaitingFor {
        filters: filters.into_iter().zip(since).collect(),
        floor: Position(request.floor),
        done: request.done.into_iter().map(Position).collect(),
    };
    let cut = weigh(&index, &of, measure, request.bytes).await;
    let cut = cut.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(proto::WeighReply {
        messages: cut.weight.messages,
        bytes: cut.weight.bytes,
        upto: cut.upto.0,
    })
}
