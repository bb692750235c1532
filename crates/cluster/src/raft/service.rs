//! The server's side of Raft between nodes: calls find their group here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use magpie_state::StateMachine;
use magpie_storage::GroupId;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tokio::sync::Notify;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::config::Config;
use super::driver::{Raft, Shared};
use super::entry::Types;
use super::proto::raft_server::{Raft as Calls, RaftServer};
use super::proto::{
    AppendReply, AppendRequest, SnapshotPart, SnapshotReply, TransferReply, TransferRequest,
    VoteReply, VoteRequest,
};
use super::transport::GROUP;
use super::{snapshot, wire};
use crate::rpc::{Guard, MESSAGE_BYTES_MAX, MemberGuard};

/// The groups of this node that other members may call. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    groups: Arc<RwLock<HashMap<u32, Arc<dyn Inbound>>>>,
    is_held_back: Arc<AtomicBool>,
    broken: Arc<Notify>,
}

impl Registry {
    /// The gRPC service, to be served behind `guard`.
    #[must_use]
    pub fn service(&self, guard: &Guard) -> InterceptedService<RaftServer<Service>, MemberGuard> {
        let service = RaftServer::new(Service {
            registry: self.clone(),
        })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
        InterceptedService::new(service, guard.members())
    }

    /// Answers no call until [`open`](Self::open): votes for nobody and takes no entries.
    ///
    /// A directory that was restored from a copy has lost what it acknowledged. If it took part before that is found out, a majority could
    /// lose what is committed, and a leader that meets a follower whose log went back stops itself.
    pub fn hold_back(&self) {
        self.is_held_back.store(true, Ordering::Release);
    }

    /// Calls are answered from now on.
    pub fn open(&self) {
        self.is_held_back.store(false, Ordering::Release);
    }

    /// Whether calls are answered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.is_held_back.load(Ordering::Acquire)
    }

    /// Told whenever a leader's stream of entries breaks off.
    pub(crate) fn broken(&self) -> Arc<Notify> {
        Arc::clone(&self.broken)
    }

    pub(super) fn add<M: StateMachine>(
        &self,
        group: GroupId,
        raft: Raft<M>,
        shared: Arc<Shared<M>>,
        config: Arc<Config>,
    ) {
        let group_calls = GroupCalls {
            raft,
            shared,
            config,
        };
        self.groups
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group.0, Arc::new(group_calls));
    }

    pub(super) fn remove(&self, group: GroupId) {
        self.groups
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&group.0);
    }

    fn find(&self, metadata: &MetadataMap) -> Result<Arc<dyn Inbound>, Status> {
        if !self.is_open() {
            return Err(Status::unavailable(
                "this node is finding out whether it may take part",
            ));
        }
        let group: u32 = metadata
            .get(GROUP)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .ok_or_else(|| Status::invalid_argument("the call names no group"))?;
        self.groups
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&group)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("group {group} is not on this node")))
    }
}

/// What a group answers, whatever its state machine.
trait Inbound: Send + Sync {
    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types>, Status>>;
    fn vote(&self, request: VoteRequest, pre: bool) -> BoxFuture<'_, Result<VoteReply, Status>>;
    fn transfer(&self, request: TransferRequest) -> BoxFuture<'_, Result<TransferReply, Status>>;
    fn snapshot(
        &self,
        parts: Streaming<SnapshotPart>,
    ) -> BoxFuture<'_, Result<SnapshotReply, Status>>;
}

struct GroupCalls<M: StateMachine> {
    raft: Raft<M>,
    shared: Arc<Shared<M>>,
    config: Arc<Config>,
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

impl<M: StateMachine> Inbound for GroupCalls<M> {
    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<Types>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<Types>, Status>> {
        let answers = self.raft.stream_append(requests);
        let shared = Arc::clone(&self.shared);
        answers
            .map(move |answer| {
                if matches!(answer, Ok(Ok(_) | Err(StreamAppendError::Conflict(_)))) {
                    shared.heard_from_leader();
                }
                answer.map_err(stopped)
            })
            .boxed()
    }

    fn vote(&self, request: VoteRequest, pre: bool) -> BoxFuture<'_, Result<VoteReply, Status>> {
        Box::pin(async move {
            let request = wire::to_vote_request(request)?;
            let reply = if pre {
                self.raft.pre_vote(request).await
            } else {
                self.raft.vote(request).await
            };
            Ok(wire::vote_reply(&reply.map_err(stopped)?))
        })
    }

    fn transfer(&self, request: TransferRequest) -> BoxFuture<'_, Result<TransferReply, Status>> {
        Box::pin(async move {
            let request = wire::to_transfer(request)?;
            let reply = self.raft.handle_transfer_leader(request).await;
            Ok(wire::transfer_reply(reply.map_err(stopped)?))
        })
    }

    fn snapshot(
        &self,
        parts: Streaming<SnapshotPart>,
    ) -> BoxFuture<'_, Result<SnapshotReply, Status>> {
        Box::pin(async move {
            let receiving = Arc::clone(&self.shared.receiving)
                .try_lock_owned()
                .map_err(|_| Status::aborted("another snapshot is being received"))?;
            let received = snapshot::receive(
                parts,
                Arc::clone(&self.shared.checkpoint),
                receiving,
                self.config.snapshot_progress_within,
            )
            .await?;
            let snapshot = openraft::Snapshot {
                meta: received.meta,
                snapshot: received.body,
            };
            let reply = self
                .raft
                .install_full_snapshot(received.vote, snapshot)
                .await
                .map_err(stopped)?;
            Ok(SnapshotReply {
                vote: Some(wire::vote(&reply.vote)),
            })
        })
    }
}

/// The generated service's implementation.
pub struct Service {
    registry: Registry,
}

#[tonic::async_trait]
impl Calls for Service {
    type StreamAppendStream = BoxStream<'static, Result<AppendReply, Status>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let group = self.registry.find(request.metadata())?;
        let source = (request.into_inner(), self.registry.broken());
        let requests = stream::unfold(source, |(mut incoming, broken)| async move {
            // A broken stream and a request that makes no sense end it; the sender starts anew.
            match incoming
                .message()
                .await
                .and_then(|request| request.map(wire::to_append).transpose())
            {
                Ok(request) => request.map(|request| (request, (incoming, broken))),
                Err(status) => {
                    tracing::debug!(%status, "append stream ended");
                    broken.notify_one();
                    None
                }
            }
        });
        let answers = group.stream_append(requests.boxed());
        let replies = answers.map(|answer| answer.map(wire::append_reply));
        Ok(Response::new(replies.boxed()))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendReply>, Status> {
        let group = self.registry.find(request.metadata())?;
        let request = wire::to_append(request.into_inner())?;
        let mut answers = group.stream_append(stream::iter([request]).boxed());
        match answers.next().await {
            Some(answer) => Ok(Response::new(wire::append_reply(answer?))),
            None => Err(Status::unavailable("the group is stopped")),
        }
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteReply>, Status> {
        let group = self.registry.find(request.metadata())?;
        group
            .vote(request.into_inner(), false)
            .await
            .map(Response::new)
    }

    async fn pre_vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteReply>, Status> {
        let group = self.registry.find(request.metadata())?;
        group
            .vote(request.into_inner(), true)
            .await
            .map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferReply>, Status> {
        let group = self.registry.find(request.metadata())?;
        group
            .transfer(request.into_inner())
            .await
            .map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let group = self.registry.find(request.metadata())?;
        group
            .snapshot(request.into_inner())
            .await
            .map(Response::new)
    }
}
