//! The sending end of a link.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_state::NodeId;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Pending;
use crate::DirectOutcome;
use crate::proto;
use crate::rpc::Channels;

/// A frame is closed when it has so many bytes ...
const FRAME_BYTES: usize = 64 << 10;
/// ... or so many messages.
const FRAME_MESSAGES: usize = 1024;
/// Frames handed to the stream ahead of what it sends.
const FRAMES_AHEAD: usize = 4;
/// A message counts at least so much.
const MESSAGE_BYTES_MIN: usize = 128;
/// A call that was not opened within this time is tried again.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Pause before a broken link is opened again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How often deadlines are looked at.
const DEADLINES_EVERY: Duration = Duration::from_millis(200);

/// Messages for one node. Cheap to clone.
#[derive(Clone)]
pub(super) struct LinkQueue {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    channels: Channels,
    bytes_max: usize,
    deadline: Duration,
    queue: Mutex<Queue>,
    more: Notify,
    stop: CancellationToken,
}

#[derive(Default)]
struct Queue {
    /// Not acknowledged, oldest first; the first has number `first`.
    messages: VecDeque<Queued>,
    first: u64,
    bytes: usize,
    closed: bool,
}

struct Queued {
    bytes: Bytes,
    at: Instant,
    pending: Option<Arc<Pending>>,
}

impl LinkQueue {
    pub(super) fn start(
        node: NodeId,
        channels: Channels,
        bytes_max: usize,
        deadline: Duration,
        stop: CancellationToken,
    ) -> Self {
        let queue = Mutex::new(Queue {
            first: 1,
            ..Queue::default()
        });
        let inner = Inner {
            node,
            channels,
            bytes_max,
            deadline,
            queue,
            more: Notify::new(),
            stop,
        };
        let link = Self {
            inner: Arc::new(inner),
        };
        tokio::spawn(link.clone().run());
        link
    }

    /// Queues a message; false if there is no room.
    pub(super) fn push(&self, bytes: Bytes, pending: Option<Arc<Pending>>) -> bool {
        let mut queue = self.lock();
        let weight = weight(&bytes);
        if queue.closed || queue.bytes + weight > self.inner.bytes_max {
            return false;
        }
        queue.bytes += weight;
        queue.messages.push_back(Queued {
            bytes,
            at: Instant::now(),
            pending,
        });
        drop(queue);
        self.inner.more.notify_one();
        true
    }

    pub(super) fn depth(&self) -> usize {
        self.lock().messages.len()
    }

    /// Ends the link; what was not acknowledged gets this outcome.
    pub(super) fn close(&self, outcome: DirectOutcome) {
        self.inner.stop.cancel();
        let left = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.messages)
        };
        left.into_iter()
            .filter_map(|queued| queued.pending)
            .for_each(|pending| pending.settle(outcome));
    }

    async fn run(self) {
        let stop = self.inner.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wait_for_messages() => {}
            }
            let driven = tokio::select! {
                () = stop.cancelled() => break,
                driven = self.drive() => driven,
            };
            if driven.is_none() {
                self.pass_deadlines();
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        self.close(DirectOutcome::Unknown);
    }

    async fn wait_for_messages(&self) {
        loop {
            let more = self.inner.more.notified();
            if !self.lock().messages.is_empty() {
                return;
            }
            more.await;
        }
    }

    /// Opens the link and sends until it breaks.
    async fn drive(&self) -> Option<()> {
        let mut client =
            proto::links_client::LinksClient::new(self.inner.channels.forwarding(self.inner.node));
        let (frames, sent_frames) = mpsc::channel(FRAMES_AHEAD);
        // What the other side has taken before this number it need not know of: it may have started since.
        let hello = proto::LinkFrame {
            first: self.lock().first,
            ..Default::default()
        };
        frames.send(hello).await.ok()?;
        let call = client.link(ReceiverStream::new(sent_frames));
        let mut acks = tokio::time::timeout(OPEN_WITHIN, call)
            .await
            .ok()?
            .ok()?
            .into_inner();
        // The first acknowledgement says where to go on.
        let resume = tokio::time::timeout(OPEN_WITHIN, acks.message())
            .await
            .ok()?
            .ok()??;
        self.acknowledge(resume.upto);
        let mut next = self.lock().first;
        let mut deadlines = tokio::time::interval(DEADLINES_EVERY);
        loop {
            let more = self.inner.more.notified();
            let frame = self.frame(next);
            let count = u64::from(frame.count);
            tokio::select! {
                biased;
                ack = acks.message() => self.acknowledge(ack.ok()??.upto),
                permit = frames.reserve(), if count > 0 => {
                    permit.ok()?.send(frame);
                    next += count;
                }
                () = more, if count == 0 => {}
                _ = deadlines.tick() => self.pass_deadlines(),
            }
        }
    }

    /// Whatever is queued from number `next` on, up to a frame's size.
    fn frame(&self, next: u64) -> proto::LinkFrame {
        let queue = self.lock();
        let from = usize::try_from(next - queue.first)
            .unwrap_or(usize::MAX)
            .min(queue.messages.len());
        let mut bytes = BytesMut::new();
        let mut count = 0;
        for queued in queue.messages.range(from..).take(FRAME_MESSAGES) {
            if count > 0 && bytes.len() + queued.bytes.len() > FRAME_BYTES {
                break;
            }
            bytes.extend_from_slice(&queued.bytes);
            count += 1;
        }
        proto::LinkFrame {
            first: next,
            count,
            messages: bytes.freeze(),
        }
    }

    fn acknowledge(&self, upto: u64) {
        let mut settled = Vec::new();
        let mut queue = self.lock();
        while queue.first <= upto {
            let Some(queued) = queue.messages.pop_front() else {
                break;
            };
            queue.bytes -= weight(&queued.bytes);
            queue.first += 1;
            settled.extend(queued.pending);
        }
        drop(queue);
        settled
            .into_iter()
            .for_each(|pending| pending.settle(DirectOutcome::Received));
    }

    /// Messages stay queued past their deadline, since the numbers must go on; who waits for them is told that nothing is known.
    fn pass_deadlines(&self) {
        let late: Vec<_> = {
            let mut queue = self.lock();
            let deadline = self.inner.deadline;
            let late = queue
                .messages
                .iter_mut()
                .take_while(|queued| queued.at.elapsed() > deadline);
            late.filter_map(|queued| queued.pending.take()).collect()
        };
        late.into_iter()
            .for_each(|pending| pending.settle(DirectOutcome::Unknown));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.inner
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(bytes: &Bytes) -> usize {
    bytes.len() + MESSAGE_BYTES_MIN
}
