//! Waiting messages for sessions: read from the replica that lives here, or else from the partition's leader.

use std::time::Duration;

use bytes::Bytes;
use magpie_codec::TopicFilter;
use magpie_state::{PartitionId, Position, Record};
use tonic::Status;

use crate::groups::{Groups, group_of};
use crate::index::{self, PartitionIndex, Records};
use crate::proto;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::{Cluster, Error, TailItem};

/// Most bytes of records in one answer, unless one record is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Pause before a leader is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Positions in one question.
const POSITIONS_MAX: usize = 8192;

/// Which waiting messages of a partition are wanted.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// Those that any of these matches; share names are not looked at.
    pub filters: Vec<TopicFilter>,
    /// Those above this place.
    pub after: Position,
    /// About so many bytes of records at once, at most 1 MiB; at least one message comes if there is one.
    pub bytes_max: usize,
}

/// Waiting messages.
#[derive(Default)]
pub struct Fetched {
    /// In log order, of QoS 1 and 2.
    pub items: Vec<TailItem>,
    /// Every message that is wanted up to here is among them. Without a cut by bytes, this is where the replica that was asked stands: not
    /// below what a replica on this node has handed to its tail.
    pub upto: Position,
    /// How many wanted messages a limit removed before they were read; 0 if that is not known.
    pub lost: u64,
}

/// A question.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Matching(&'a Fetch),
    At(&'a [Position]),
}

impl Wanted<'_> {
    async fn read(self, index: &PartitionIndex) -> std::io::Result<index::Fetched> {
        match self {
            Self::Matching(fetch) => {
                let bytes_max = fetch.bytes_max.min(ANSWER_BYTES_MAX);
                index.fetch(&fetch.filters, fetch.after, bytes_max).await
            }
            Self::At(positions) => index.fetch_at(positions).await,
        }
    }

    fn request(self, partition: PartitionId) -> proto::FetchRequest {
        let partition = u32::from(partition.0);
        match self {
            Self::Matching(fetch) => proto::FetchRequest {
                partition,
                filters: fetch
                    .filters
                    .iter()
                    .map(|f| f.filter().to_owned())
                    .collect(),
                after: fetch.after.0,
                bytes_max: u32::try_from(fetch.bytes_max).unwrap_or(u32::MAX),
                positions: Vec::new(),
            },
            Self::At(positions) => proto::FetchRequest {
                partition,
                positions: positions.iter().map(|position| position.0).collect(),
                ..Default::default()
            },
        }
    }
}

impl Cluster {
    /// The messages of a partition that wait for a session: those that match and are not below what was trimmed without being kept.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when there is no replica here and no leader answers within the publish deadline.
    pub async fn fetch(&self, partition: PartitionId, fetch: &Fetch) -> Result<Fetched, Error> {
        self.fetch_anywhere(partition, Wanted::Matching(fetch))
            .await
    }

    /// The messages at these positions, ascending, of those that still wait.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn fetch_at(
        &self,
        partition: PartitionId,
        positions: Vec<Position>,
    ) -> Result<Vec<TailItem>, Error> {
        let mut items = Vec::new();
        let mut rest = &positions[..];
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(POSITIONS_MAX)];
            let fetched = self.fetch_anywhere(partition, Wanted::At(some)).await?;
            items.extend(fetched.items);
            let read = rest.partition_point(|position| *position <= fetched.upto);
            // At least one is done with each time.
            rest = &rest[read.max(1)..];
        }
        Ok(items)
    }

    /// Reads here, or asks the leader, until there is an answer.
    async fn fetch_anywhere(
        &self,
        partition: PartitionId,
        wanted: Wanted<'_>,
    ) -> Result<Fetched, Error> {
        let inner = &self.inner;
        let mut leaders = inner.leaders.changes();
        let asking = async {
            loop {
                if let Some(index) = inner.groups.index(partition) {
                    match wanted.read(&index).await {
                        Ok(fetched) => return fetched.into(),
                        Err(error) => {
                            tracing::debug!(%partition, %error, "waiting messages not read here");
                        }
                    }
                }
                if let Some(fetched) = self.ask_leader_to_fetch(partition, wanted).await {
                    return fetched;
                }
                tokio::select! {
                    () = leaders.next() => {}
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        };
        let asked = tokio::select! {
            () = inner.stop.cancelled() => return Err(Error::Stopping),
            asked = tokio::time::timeout(inner.publish_deadline, asking) => asked,
        };
        asked.map_err(|_| {
            Error::NotProposed("waiting messages cannot be read: the partition has no leader")
        })
    }

    async fn ask_leader_to_fetch(
        &self,
        partition: PartitionId,
        wanted: Wanted<'_>,
    ) -> Option<Fetched> {
        let leader = self.inner.leaders.leader(group_of(partition))?;
        if leader == self.inner.stream.node {
            return None;
        }
        let mut client =
            proto::partitions_client::PartitionsClient::new(self.inner.channels.forwarding(leader))
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = tonic::Request::new(wanted.request(partition));
        request.set_timeout(self.inner.publish_deadline);
        let reply = client.fetch(request).await.ok()?.into_inner();
        let records = Records {
            positions: reply.positions.into_iter().map(Position).collect(),
            bytes: reply.records,
        };
        Some(Fetched {
            items: items(&records),
            upto: Position(reply.upto),
            lost: reply.lost,
        })
    }
}

/// Answers the question of a node without a replica.
pub(crate) async fn serve(
    groups: &Groups,
    request: proto::FetchRequest,
) -> Result<proto::FetchReply, Status> {
    let partition = u16::try_from(request.partition)
        .map(PartitionId)
        .map_err(|_| Status::invalid_argument("no such partition"))?;
    let index = groups
        .index(partition)
        .ok_or_else(|| Status::failed_precondition("no replica of that partition lives here"))?;
    let fetched = if request.positions.is_empty() {
        let filters = request.filters.into_iter().map(TopicFilter::try_from);
        let filters: Vec<TopicFilter> = filters
            .collect::<Result<_, _>>()
            .map_err(|_| Status::invalid_argument("not a topic filter"))?;
        let bytes_max = (request.bytes_max as usize).min(ANSWER_BYTES_MAX);
        index
            .fetch(&filters, Position(request.after), bytes_max)
            .await
    } else {
        let positions: Vec<Position> = request.positions.into_iter().map(Position).collect();
        if positions.len() > POSITIONS_MAX || !positions.is_sorted() {
            return Err(Status::invalid_argument(
                "too many positions, or in no order",
            ));
        }
        index.fetch_at(&positions).await
    };
    let fetched = fetched.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(proto::FetchReply {
        positions: fetched.records.positions.iter().map(|p| p.0).collect(),
        records: fetched.records.bytes,
        upto: fetched.upto.0,
        lost: fetched.lost,
    })
}

impl From<index::Fetched> for Fetched {
    fn from(fetched: index::Fetched) -> Self {
        Self {
            items: items(&fetched.records),
            upto: fetched.upto,
            lost: fetched.lost,
        }
    }
}

fn items(records: &Records) -> Vec<TailItem> {
    let mut rest: Bytes = records.bytes.clone();
    let mut items = Vec::with_capacity(records.positions.len());
    for position in &records.positions {
        // Whoever wrote it could read it; the rest has no beginning otherwise.
        let Ok(Record::Publish(publish)) = Record::decode(&mut rest) else {
            break;
        };
        items.push(TailItem {
            position: *position,
            publisher: publish.client,
            qos: publish.qos,
            retain: publish.retain,
            published_ms: publish.published_ms,
            message: publish.message,
        });
    }
    items
}
