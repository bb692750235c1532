//! The receiving end of links.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use magpie_state::{Incarnation, NodeId};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::frame;
use crate::membership::Membership;
use crate::rpc::Peer;
use crate::{Event, proto};

/// Acknowledgements on the way back.
const ACKS: usize = 16;
/// The longest that a node lets another wait for the control log.
const APPLIED_WITHIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone)]
pub(crate) struct LinkService {
    node: NodeId,
    membership: Membership,
    events: mpsc::Sender<Event>,
    /// What was taken from each node, in its latest life. The lock is held while a frame is handed over, so that of two links of one
    /// node (an old one that has not noticed its end) only one proceeds at a time.
    taken: Arc<std::sync::Mutex<HashMap<NodeId, Arc<Mutex<Taken>>>>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Taken {
    incarnation: Incarnation,
    upto: u64,
}

impl LinkService {
    pub(crate) fn new(
        node: NodeId,
        membership: Membership,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            node,
            membership,
            events,
            taken: Arc::default(),
            stop,
        }
    }

    async fn take_frames(
        self,
        peer: Peer,
        mut frames: Streaming<proto::LinkFrame>,
        acks: mpsc::Sender<Result<proto::LinkAck, Status>>,
    ) -> Option<()> {
        let taken = {
            let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(peer.node).or_default())
        };
        loop {
            let frame = tokio::select! {
                () = self.stop.cancelled() => return None,
                frame = frames.message() => frame.ok()??,
            };
            let mut taken = taken.lock().await;
            if taken.incarnation != peer.incarnation {
                if taken.incarnation.counter > peer.incarnation.counter {
                    return None;
                }
                // A node that starts begins where the sender is, not where the sender began.
                *taken = Taken {
                    incarnation: peer.incarnation,
                    upto: frame.first.saturating_sub(1),
                };
            }
            if frame.count > 0 {
                if frame.first > taken.upto + 1 {
                    // A gap can only come from a sender that lost its place: let it ask anew.
                    return None;
                }
                self.hand_over(&frame, taken.upto).await?;
                taken.upto = taken.upto.max(frame.first + u64::from(frame.count) - 1);
            }
            let ack = proto::LinkAck { upto: taken.upto };
            drop(taken);
            acks.send(Ok(ack)).await.ok()?;
        }
    }

    /// Gives the new messages of a frame to the broker, and waits until they are in the mailboxes.
    async fn hand_over(&self, frame: &proto::LinkFrame, upto: u64) -> Option<()> {
        let mut rest = frame.messages.clone();
        let mut messages = Vec::with_capacity((frame.count as usize).min(frame.messages.len()));
        for number in frame.first..frame.first + u64::from(frame.count) {
            let Some(message) = frame::decode(&mut rest, self.node) else {
                tracing::error!(
                    "a message of another node cannot be read; is it of a newer version?"
                );
                return None;
            };
            if number > upto {
                messages.push(message);
            }
        }
        if messages.is_empty() {
            return Some(());
        }
        let (taken, done) = oneshot::channel();
        self.events
            .send(Event::Direct { messages, taken })
            .await
            .ok()?;
        done.await.ok()
    }
}

#[tonic::async_trait]
impl proto::links_server::Links for LinkService {
    type LinkStream = Pin<Box<dyn futures::Stream<Item = Result<proto::LinkAck, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<proto::LinkFrame>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let peer = Peer::of(&request)?;
        let (acks, acked) = mpsc::channel(ACKS);
        let service = self.clone();
        tokio::spawn(service.take_frames(peer, request.into_inner(), acks));
        Ok(Response::new(Box::pin(ReceiverStream::new(acked))))
    }

    async fn applied(
        &self,
        request: Request<proto::AppliedRequest>,
    ) -> Result<Response<proto::AppliedReply>, Status> {
        let index = request.into_inner().index;
        match tokio::time::timeout(APPLIED_WITHIN, self.membership.wait_applied(index)).await {
            Ok(()) => Ok(Response::new(proto::AppliedReply {})),
            Err(_) => Err(Status::deadline_exceeded(
                "the control log is not applied here that far",
            )),
        }
    }
}
