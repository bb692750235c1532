//! What share groups deal to the connections of a node, as it learns of it: from its own replica, or from the partition's leader.

use std::time::Duration;

use magpie_codec::{QoS, TopicFilter};
use magpie_state::partition::{Dealt, PartitionState};
use magpie_state::{MembershipId, PartitionId, Position, StreamId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::Partition;
use crate::groups::group_of;
use crate::proto;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::{Cluster, TailItem};

/// Deals that are handed out at once, about.
const DEALS: usize = 1024;
/// Chunks on the way to a reader.
const CHUNKS: usize = 4;
/// Pause before a leader is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// A call is opened within this time, or tried again.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// The one reader of what a partition's share groups deal to this node's connections.
pub struct DealtTail {
    cluster: Cluster,
    partition: PartitionId,
    /// What entries up to here dealt was handed out.
    after: u64,
    remote: Option<Streaming<proto::DealtChunk>>,
}

/// A message for a member of a share group.
pub struct DealtMessage {
    /// Whose it is.
    pub dealt: Dealt,
    /// `None`: a limit has removed it.
    pub message: Option<TailItem>,
}

impl Cluster {
    /// Tells what share groups of a partition deal to connections of this node. There is one reader per partition and node.
    #[must_use]
    pub fn dealt(&self, partition: PartitionId) -> DealtTail {
        DealtTail {
            cluster: self.clone(),
            partition,
            after: 0,
            remote: None,
        }
    }
}

impl DealtTail {
    /// What was dealt since, waiting for it, in the order of dealing. `None` when the node stops.
    pub async fn next(&mut self) -> Option<Vec<DealtMessage>> {
        let stop = self.cluster.inner.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                dealt = self.read() => {
                    let (dealt, upto) = dealt?;
                    let messages = tokio::select! {
                        () = stop.cancelled() => return None,
                        messages = self.with_messages(dealt) => messages,
                    };
                    self.after = self.after.max(upto);
                    if !messages.is_empty() {
                        return Some(messages);
                    }
                }
            }
        }
    }

    /// The next deals, and the index up to which that is all.
    async fn read(&mut self) -> Option<(Vec<Dealt>, u64)> {
        let inner = std::sync::Arc::clone(&self.cluster.inner);
        let mut moved = inner.groups.changed();
        loop {
            moved.mark_unchanged();
            let group = inner.groups.partition(self.partition);
            if let Some(group) = group.filter(|group| !group.is_stopped()) {
                self.remote = None;
                tokio::select! {
                    dealt = next_of(&group, inner.stream, self.after) => return Some(dealt),
                    () = group.stopped() => {}
                    _ = moved.changed() => {}
                }
                continue;
            }
            let chunk = tokio::select! {
                chunk = self.read_remote() => chunk,
                _ = moved.changed() => None,
            };
            match chunk {
                Some(chunk) => return Some(chunk),
                None => {
                    self.remote = None;
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn read_remote(&mut self) -> Option<(Vec<Dealt>, u64)> {
        let inner = &self.cluster.inner;
        if self.remote.is_none() {
            let leader = inner.leaders.leader(group_of(self.partition));
            let leader = leader.filter(|leader| *leader != inner.stream.node)?;
            let channel = inner.channels.forwarding(leader);
            let mut client = proto::partitions_client::PartitionsClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX);
            let request = proto::DealtRequest {
                partition: u32::from(self.partition.0),
                after: self.after,
            };
            let opened = tokio::time::timeout(OPEN_WITHIN, client.dealt(request)).await;
            self.remote = Some(opened.ok()?.ok()?.into_inner());
        }
        let mut leaders = inner.leaders.changes();
        loop {
            tokio::select! {
                chunk = self.remote.as_mut()?.message() => {
                    let proto::DealtChunk { upto, deals } = chunk.ok()??;
                    return Some((deals.into_iter().filter_map(from_proto).collect(), upto));
                }
                // Perhaps it is another one now.
                () = leaders.next() => {
                    inner.leaders.leader(group_of(self.partition))?;
                }
            }
        }
    }

    async fn with_messages(&self, dealt: Vec<Dealt>) -> Vec<DealtMessage> {
        let mut wanted: Vec<Position> = dealt.iter().map(|dealt| dealt.position).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut items = self
            .cluster
            .inner
            .feeds
            .of(self.partition)
            .messages_at(&wanted);
        if items.len() < wanted.len() {
            let found: Vec<Position> = items.iter().map(|item| item.position).collect();
            wanted.retain(|position| found.binary_search(position).is_err());
            items.extend(self.fetch(&wanted).await);
            items.sort_unstable_by_key(|item| item.position);
        }
        let with_message = |dealt: Dealt| {
            let at = items.binary_search_by_key(&dealt.position, |item| item.position);
            DealtMessage {
                message: at.ok().map(|at| items[at].clone()),
                dealt,
            }
        };
        dealt.into_iter().map(with_message).collect()
    }

    async fn fetch(&self, positions: &[Position]) -> Vec<TailItem> {
        loop {
            match self
                .cluster
                .fetch_at(self.partition, positions.to_vec())
                .await
            {
                Ok(items) => return items,
                Err(error) => {
                    tracing::debug!(partition = %self.partition, %error, "dealt messages not read now");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

/// What was dealt to a node above an index, waiting for it.
async fn next_of(group: &Partition, stream: StreamId, after: u64) -> (Vec<Dealt>, u64) {
    let mut applied = group.watch_applied();
    loop {
        applied.mark_unchanged();
        let (dealt, upto, _) =
            group.with_state(|state: &PartitionState| state.dealt_to(stream, after, DEALS));
        if !dealt.is_empty() {
            return (dealt, upto);
        }
        if applied.changed().await.is_err() {
            // The group has stopped, as its own watch tells.
            std::future::pending::<()>().await;
        }
    }
}

/// Serves a node without a replica until either side leaves.
pub(crate) fn serve_dealt(
    group: Partition,
    reader: StreamId,
    mut after: u64,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<proto::DealtChunk, Status>> {
    let (chunks, sent) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        loop {
            let (dealt, upto) = tokio::select! {
                () = stop.cancelled() => return,
                () = group.stopped() => return,
                () = chunks.closed() => return,
                dealt = next_of(&group, reader, after) => dealt,
            };
            after = upto;
            let deals = dealt.into_iter().map(to_proto).collect();
            if chunks
                .send(Ok(proto::DealtChunk { upto, deals }))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    sent
}

fn to_proto(dealt: Dealt) -> proto::Dealt {
    proto::Dealt {
        member: dealt.member,
        membership: dealt.membership.0.0,
        filter: dealt.filter.to_string(),
        position: dealt.position.0,
        qos: dealt.qos as u32,
    }
}

fn from_proto(dealt: proto::Dealt) -> Option<Dealt> {
    Some(Dealt {
        member: dealt.member,
        membership: MembershipId(Position(dealt.membership)),
        filter: TopicFilter::try_from(dealt.filter).ok()?,
        position: Position(dealt.position),
        qos: QoS::from_u8(u8::try_from(dealt.qos).ok()?)?,
    })
}
