//! Peer links: messages of the direct class on their way to other nodes (DESIGN: "direct").
//!
//! One link per pair of nodes and direction. Messages are numbered; the receiver takes each number once and in order, and acknowledges.
//! What is not acknowledged is sent again when a broken link returns, so that at QoS 1 and 2 nothing is lost or doubled while both nodes
//! live. [`sender`] is one end, [`service`] the other.

mod frame;
mod sender;
mod service;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use magpie_codec::QoS;
use magpie_state::NodeId;
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use crate::rpc::Channels;
use crate::{Direct, DirectOutcome};

use sender::LinkQueue;
pub(crate) use service::LinkService;

/// Nodes that are to get a message, and whether their plain subscribers are meant (or only members of share groups).
pub(crate) type Targets = SmallVec<[(NodeId, bool); 4]>;

/// Called once when every target has taken a message, or one did not within the deadline.
pub(crate) type OnTaken = Box<dyn FnOnce(DirectOutcome) + Send>;

/// The links of this node to all others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Links {
    inner: Arc<Inner>,
}

struct Inner {
    channels: Channels,
    /// Bound on the bytes that one link has queued and unacknowledged.
    queue_bytes: usize,
    deadline: Duration,
    links: Mutex<HashMap<NodeId, LinkQueue>>,
    stop: CancellationToken,
}

/// One message's acknowledgement, shared by the links that carry it.
pub(super) struct Pending {
    left: AtomicUsize,
    unknown: AtomicBool,
    done: Mutex<Option<OnTaken>>,
}

impl Links {
    pub(crate) fn new(
        channels: Channels,
        queue_bytes: usize,
        deadline: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                channels,
                queue_bytes,
                deadline,
                links: Mutex::default(),
                stop,
            }),
        }
    }

    /// Sends messages, each to its targets; share targets are in the message. At QoS 0 a full link drops, and counts. At QoS 1 and 2,
    /// where there is a `done`, a full link makes the outcome unknown.
    pub(crate) fn send(&self, messages: Vec<(Direct, Targets)>, done: Option<OnTaken>) {
        let sends: usize = messages.iter().map(|(_, targets)| targets.len()).sum();
        let pending = done.map(|done| {
            let left = AtomicUsize::new(sends + 1);
            Arc::new(Pending {
                left,
                unknown: AtomicBool::new(false),
                done: Mutex::new(Some(done)),
            })
        });
        for (message, targets) in &messages {
            self.send_one(message, targets, pending.as_ref());
        }
        if let Some(pending) = &pending {
            pending.settle(DirectOutcome::Received);
        }
    }

    fn send_one(&self, message: &Direct, targets: &Targets, pending: Option<&Arc<Pending>>) {
        let mut plain_bytes = None;
        for (node, plain) in targets {
            let has_shares = message.shares.iter().any(|share| share.node == *node);
            let encode = || frame::encode(message, *node, *plain, BytesMut::new()).freeze();
            // The usual case is encoded once, for all.
            let bytes = if *plain && !has_shares {
                plain_bytes.get_or_insert_with(encode).clone()
            } else {
                encode()
            };
            if self.queue(*node).push(bytes, pending.cloned()) {
                continue;
            }
            let qos = if message.qos == QoS::AtMostOnce {
                "0"
            } else {
                "1"
            };
            metrics::counter!("magpie_messages_dropped_total", "reason" => "link_full", "qos" => qos).increment(1);
            if let Some(pending) = pending {
                pending.settle(DirectOutcome::Unknown);
            }
        }
    }

    /// A node's life is over: nobody there waits for what it did not take.
    pub(crate) fn forget(&self, node: NodeId) {
        let link = self
            .inner
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&node);
        if let Some(link) = link {
            link.close(DirectOutcome::Received);
        }
    }

    /// Messages queued or unacknowledged, by node.
    pub(crate) fn depths(&self) -> Vec<(NodeId, usize)> {
        let links = self
            .inner
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        links
            .iter()
            .map(|(node, link)| (*node, link.depth()))
            .collect()
    }

    fn queue(&self, node: NodeId) -> LinkQueue {
        let mut links = self
            .inner
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let Inner {
                channels,
                queue_bytes,
                deadline,
                stop,
                ..
            } = &*self.inner;
            LinkQueue::start(
                node,
                channels.clone(),
                *queue_bytes,
                *deadline,
                stop.child_token(),
            )
        };
        links.entry(node).or_insert_with(start).clone()
    }
}

impl Pending {
    /// One of the links is through with the message (or the sender has handed it to all of them).
    fn settle(&self, outcome: DirectOutcome) {
        if outcome == DirectOutcome::Unknown {
            self.unknown.store(true, Ordering::Release);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let done = self
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let unknown = self.unknown.load(Ordering::Acquire);
        if let Some(done) = done {
            done(if unknown {
                DirectOutcome::Unknown
            } else {
                DirectOutcome::Received
            });
        }
    }
}
