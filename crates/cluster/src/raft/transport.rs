//! The client's side of Raft between nodes.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use magpie_state::{Carry, NodeId};
use magpie_storage::GroupId;
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status, Streaming};

use super::config::Config;
use super::entry::{Types, Vote};
use super::log_store::LogStore;
use super::proto::AppendReply;
use super::proto::raft_client::RaftClient;
use super::snapshot::{self, SnapshotBody};
use super::wire;
use crate::rpc::{Channels, MESSAGE_BYTES_MAX, PeerChannel, Purpose};

/// Metadata key: the group, as a decimal number.
pub(super) const GROUP: &str = "magpie-group";

pub(super) type Client = RaftClient<PeerChannel>;

/// Pauses between attempts to reach a member.
const PAUSES_MS: [u64; 4] = [50, 100, 200, 400];

/// Makes the connections of one group, whose snapshots carry `C`.
pub(super) struct Transport<C> {
    group: GroupId,
    channels: Channels,
    log: LogStore,
    config: Arc<Config>,
    carry: PhantomData<fn() -> C>,
}

impl<C: Carry> Transport<C> {
    pub(super) fn new(
        group: GroupId,
        channels: Channels,
        log: LogStore,
        config: Arc<Config>,
    ) -> Self {
        Self {
            group,
            channels,
            log,
            config,
            carry: PhantomData,
        }
    }

    fn link(&self, target: u64, purpose: Purpose) -> Link<C> {
        let channel = self.channels.to(NodeId(target), purpose);
        Link {
            client: RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            control: RaftClient::new(self.channels.to(NodeId(target), Purpose::Control)),
            group: MetadataValue::from(self.group.0),
            purpose,
            log: self.log.clone(),
            config: Arc::clone(&self.config),
            failures: 0,
            carry: PhantomData,
        }
    }
}

impl<C: Carry> RaftNetworkFactory<Types> for Transport<C> {
    type Network = Link<C>;

    async fn new_client(&mut self, target: u64, _: &()) -> Link<C> {
        self.link(target, Purpose::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _: &()) -> Link<C> {
        self.link(target, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, _: &()) -> Link<C> {
        self.link(target, Purpose::Snapshot)
    }
}

/// One member, for one purpose.
pub(super) struct Link<C> {
    client: Client,
    /// Votes and transfers go here, whatever the purpose.
    control: Client,
    group: MetadataValue<Ascii>,
    purpose: Purpose,
    log: LogStore,
    config: Arc<Config>,
    /// Append streams that could not be opened, since the last that could.
    failures: usize,
    carry: PhantomData<fn() -> C>,
}

impl<C: Carry> Link<C> {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(GROUP, self.group.clone());
        request
    }

    /// A request that is answered within the deadline or fails.
    async fn call<T, R>(
        &self,
        message: T,
        call: impl AsyncFnOnce(Client, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, RPCError<Types>> {
        let within = self.config.call_within;
        let mut request = self.request(message);
        request.set_timeout(within);
        tokio::time::timeout(within, call(self.control.clone(), request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
            .map(Response::into_inner)
            .map_err(unreachable)
    }
}

/// The pause after that many failures in a row.
fn pause_after(failures: usize) -> Duration {
    Duration::from_millis(PAUSES_MS[failures.min(PAUSES_MS.len() - 1)])
}

fn unreachable(status: Status) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&status))
}

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl<C: Carry> NetStreamAppend<Types> for Link<C> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if self.purpose == Purpose::Control {
            // A heartbeat is a stream of one: not worth a stream.
            let this = &*self;
            let results = input.then(move |request| async move {
                let call = async |mut client: Client, request| client.append(request).await;
                let reply = this.call(wire::append(request), call).await?;
                wire::to_append_result(reply).map_err(unreachable)
            });
            return Box::pin(async { Ok(results.boxed()) });
        }
        let sent = Arc::new(AtomicU64::new(0));
        let counted = {
            let sent = Arc::clone(&sent);
            input.map(move |request| {
                sent.fetch_add(1, Ordering::Relaxed);
                wire::append(request)
            })
        };
        let request = self.request(counted);
        Box::pin(async move {
            let within = self.config.append_within;
            let opened = tokio::time::timeout(within, self.client.stream_append(request))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            match opened {
                Ok(replies) => {
                    self.failures = 0;
                    Ok(answers(replies.into_inner(), sent, within).boxed())
                }
                Err(status) => {
                    // The library pauses inside the stream of requests, which nobody polls when there is no connection: without a pause
                    // here it would try again at once, for ever.
                    tokio::time::sleep(pause_after(self.failures)).await;
                    self.failures += 1;
                    Err(unreachable(status))
                }
            }
        })
    }
}

/// The answers as they come. Ends with an error when requests are out and nothing came for too long: the connection may look open and
/// lead nowhere.
fn answers(
    replies: Streaming<AppendReply>,
    sent: Arc<AtomicU64>,
    within: Duration,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send {
    struct State {
        replies: Streaming<AppendReply>,
        sent: Arc<AtomicU64>,
        received: u64,
        /// Since when something has been out without any answer.
        waiting: Option<Instant>,
        check: tokio::time::Interval,
        is_over: bool,
    }
    let mut check = tokio::time::interval(within / 4);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let state = State {
        replies,
        sent,
        received: 0,
        waiting: None,
        check,
        is_over: false,
    };
    stream::unfold(state, move |mut state| async move {
        if state.is_over {
            return None;
        }
        let status = loop {
            tokio::select! {
                biased;
                reply = state.replies.message() => match reply {
                    Ok(Some(reply)) => {
                        state.received += 1;
                        state.waiting = None;
                        match wire::to_append_result(reply) {
                            Ok(result) => return Some((Ok(result), state)),
                            Err(status) => break status,
                        }
                    }
                    // The other side ended, with requests unanswered: an error, after which the library pauses.
                    Ok(None) if state.sent.load(Ordering::Relaxed) > state.received => {
                        break Status::unavailable("the stream was ended");
                    }
                    Ok(None) => return None,
                    Err(status) => break status,
                },
                now = state.check.tick() => {
                    let is_out = state.sent.load(Ordering::Relaxed) > state.received;
                    let since = *state.waiting.get_or_insert(now);
                    if !is_out {
                        state.waiting = None;
                    } else if now - since >= within {
                        break Status::deadline_exceeded("entries are not answered");
                    }
                }
            }
        };
        state.is_over = true;
        Some((Err(unreachable(status)), state))
    })
}

impl<C: Carry> NetVote<Types> for Link<C> {
    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let call = async |mut client: Client, request| client.vote(request).await;
        let reply = self.call(wire::vote_request(&request), call).await?;
        wire::to_vote_reply(reply).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let call = async |mut client: Client, request| client.pre_vote(request).await;
        let reply = self.call(wire::vote_request(&request), call).await?;
        wire::to_vote_reply(reply).map_err(unreachable)
    }
}

impl<C: Carry> NetTransferLeader<Types> for Link<C> {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let call = async |mut client: Client, request| client.transfer_leader(request).await;
        let reply = self.call(wire::transfer(&request), call).await?;
        wire::to_transfer_reply(&request, reply).map_err(unreachable)
    }
}

impl<C: Carry> NetSnapshot<Types> for Link<C> {
    type SnapshotData = SnapshotBody;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotBody>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotBody::Checkpoint(checkpoint) = snapshot.snapshot else {
            let status = Status::internal("a staged snapshot cannot be sent");
            return Err(StreamingError::Unreachable(Unreachable::new(&status)));
        };
        let sending = snapshot::send::<C>(
            self.client.clone(),
            |parts| self.request(parts),
            checkpoint,
            self.log.clone(),
            vote,
            self.config.snapshot_progress_within,
        );
        tokio::select! {
            sent = tokio::time::timeout(self.config.snapshot_within, sending) => sent
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the snapshot takes too long")))
                .map_err(|status| StreamingError::Unreachable(Unreachable::new(&status))),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}

impl<C: Carry> NetBackoff<Types> for Link<C> {
    fn backoff(&self) -> Option<Backoff> {
        let last = PAUSES_MS[PAUSES_MS.len() - 1];
        let pauses = PAUSES_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}
