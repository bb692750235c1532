//! The partition service: the leader's end of streams, read indexes, and tails for nodes without a replica.

use std::pin::Pin;

use futures::Stream as FutureStream;
use magpie_state::{NodeId, PartitionId, StreamId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::append::propose_append;
use crate::groups::Groups;
use crate::membership::Membership;
use crate::proto;
use crate::raft::ProposeError;
use crate::retained;
use crate::rpc::Peer;
use crate::share;
use crate::tail::Feeds;

/// Answers on the way back to a sender; more than its window.
const ANSWERS: usize = 64;

/// See the module.
#[derive(Clone)]
pub(crate) struct PartitionService {
    pub(crate) groups: Groups,
    pub(crate) feeds: Feeds,
    /// Who may send a partition's outbox.
    pub(crate) membership: Membership,
    pub(crate) stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn FutureStream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl proto::partitions_server::Partitions for PartitionService {
    type AppendStream = Answers<proto::AppendAnswer>;
    type TailStream = Answers<proto::TailChunk>;
    type DealtStream = Answers<proto::DealtChunk>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendBatch>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let stream = sender_of(&request)?;
        let (answers, answered) = mpsc::channel(ANSWERS);
        tokio::spawn(
            self.clone()
                .take_batches(stream, request.into_inner(), answers),
        );
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexReply>, Status> {
        let rounds = request
            .into_inner()
            .partitions
            .into_iter()
            .map(async |partition| {
                let group = partition_id(partition)
                    .ok()
                    .and_then(|partition| self.groups.partition(partition));
                match group {
                    Some(group) => group.read_index().await.unwrap_or(0),
                    None => 0,
                }
            });
        Ok(Response::new(proto::ReadIndexReply {
            indexes: futures::future::join_all(rounds).await,
        }))
    }

    async fn retained(
        &self,
        request: Request<proto::RetainedRequest>,
    ) -> Result<Response<proto::RetainedReply>, Status> {
        let request = request.into_inner();
        let partition = partition_id(request.partition)?;
        let reply = retained::serve(&self.groups, partition, request).await?;
        Ok(Response::new(reply))
    }

    async fn needed(
        &self,
        request: Request<proto::NeededRequest>,
    ) -> Result<Response<proto::NeededReply>, Status> {
        crate::needed::serve(&self.groups, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn fetch(
        &self,
        request: Request<proto::FetchRequest>,
    ) -> Result<Response<proto::FetchReply>, Status> {
        crate::fetch::serve(&self.groups, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn weigh(
        &self,
        request: Request<proto::WeighRequest>,
    ) -> Result<Response<proto::WeighReply>, Status> {
        crate::weigh::serve(&self.groups, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn subscribed(
        &self,
        request: Request<proto::SubscribedRequest>,
    ) -> Result<Response<proto::SubscribedReply>, Status> {
        share::serve_subscribed(&self.groups, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn dealt(
        &self,
        request: Request<proto::DealtRequest>,
    ) -> Result<Response<Self::DealtStream>, Status> {
        let reader = sender_of(&request)?;
        let proto::DealtRequest { partition, after } = request.into_inner();
        let partition = partition_id(partition)?;
        let group = self
            .groups
            .partition(partition)
            .ok_or_else(|| not_here(partition))?;
        let chunks = share::serve_dealt(group, reader, after, self.stop.clone());
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }

    async fn tail(
        &self,
        request: Request<Streaming<proto::TailRequest>>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty call"))?;
        let partition = partition_id(first.partition)?;
        let group = self
            .groups
            .partition(partition)
            .ok_or_else(|| not_here(partition))?;
        let chunks = self
            .feeds
            .serve(partition, group, first, requests, self.stop.clone());
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }
}

impl PartitionService {
    /// One sender's stream, until either side leaves.
    async fn take_batches(
        self,
        stream: StreamId,
        mut batches: Streaming<proto::AppendBatch>,
        answers: mpsc::Sender<Result<proto::AppendAnswer, Status>>,
    ) {
        let Ok(Some(hello)) = batches.message().await else {
            return;
        };
        let Ok(partition) = partition_id(hello.partition) else {
            return;
        };
        let stream = match hello.outbox_of {
            None => stream,
            Some(source) => match self.outbox_of(source, stream.node) {
                Some(outbox) => outbox,
                None => {
                    let refusal =
                        Status::permission_denied("the sender does not host that partition");
                    let _ = answers.send(Err(refusal)).await;
                    return;
                }
            },
        };
        let Some(group) = self.groups.partition(partition) else {
            let _ = answers.send(Err(not_here(partition))).await;
            return;
        };
        loop {
            let batch = tokio::select! {
                () = self.stop.cancelled() => return,
                batch = batches.message() => match batch {
                    Ok(Some(batch)) => batch,
                    Ok(None) | Err(_) => return,
                },
            };
            if !stream.is_outbox() && self.membership.is_over(stream) {
                // What it held is given to others as soon as any partition knows; so nothing more from it, wherever this is known.
                return;
            }
            let (seq, answers) = (batch.seq, answers.clone());
            propose_append(&group, stream, batch, move |outcome| {
                let answer = match outcome {
                    Ok((_, answer)) => proto::AppendAnswer {
                        seq,
                        answer: answer.encode(),
                        leader: 0,
                    },
                    Err(ProposeError::NotLeader { leader }) => proto::AppendAnswer {
                        seq,
                        leader: leader.map_or(0, |leader| leader.0),
                        ..Default::default()
                    },
                    // The sender asks again, here or elsewhere: the partition knows what it has.
                    Err(_) => proto::AppendAnswer {
                        seq,
                        ..Default::default()
                    },
                };
                // A sender has no more batches on the way than there is room; one that cheats loses answers.
                let _ = answers.try_send(Ok(answer));
            })
            .await;
        }
    }
}

impl PartitionService {
    /// The stream of a partition's outbox, if `sender` is one of those that may lead it.
    fn outbox_of(&self, source: u32, sender: NodeId) -> Option<StreamId> {
        let source = partition_id(source).ok()?;
        let is_host = self.membership.state(|state| {
            let replicas = state.placement().get(&source);
            replicas.is_some_and(|replicas| replicas.contains(&sender))
        });
        is_host.then(|| StreamId::outbox(source))
    }
}

/// The node, in which life, that makes a call; the guard has checked it.
fn sender_of<T>(request: &Request<T>) -> Result<StreamId, Status> {
    let peer = Peer::of(request)?;
    Ok(StreamId {
        node: peer.node,
        incarnation: peer.incarnation,
    })
}

fn partition_id(number: u32) -> Result<PartitionId, Status> {
    u16::try_from(number)
        .map(PartitionId)
        .map_err(|_| Status::invalid_argument("no such partition"))
}

fn not_here(partition: PartitionId) -> Status {
    Status::failed_precondition(format!("no replica of partition {partition} lives here"))
}
