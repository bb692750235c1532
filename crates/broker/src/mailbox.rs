//! The mailbox of a connection: what the rest of the node leaves for its task.
//!
//! Two kinds of content: answers to the questions of the connection, which are few and never dropped, and deliveries, which are
//! bounded in number and bytes. A burst of pushes wakes the task once, and only when the burst is complete.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytesize::ByteSize;
use magpie_cluster::{Attached, DirectOutcome, Handover, Submitted};
use magpie_codec::{QoS, ReasonCode};
use magpie_session::{Delivery, Eviction, Ticket};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Bounds of what waits in this node's memory for one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// Messages that may wait for one connection. When full, a QoS 0 message is dropped and counted, and one of QoS 1 or 2 ends the
    /// connection with 0x97. Default 10000.
    pub messages_max: usize,
    /// Payload and topic bytes that may wait for one connection; the same policy. One message is taken whatever its size.
    /// Default 16 MiB.
    pub bytes_max: ByteSize,
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            messages_max: 10_000,
            bytes_max: ByteSize::mib(16),
        }
    }
}

/// Shared between one connection task, which takes, and everybody else, who push.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages_max: usize,
    bytes_max: usize,
    inner: Mutex<Inner>,
}

/// An answer for the connection task.
#[derive(Debug)]
pub(crate) enum Post {
    /// A submission to a partition ended; the tickets are in the order of its records.
    Published {
        tickets: Vec<Ticket>,
        submitted: Submitted,
    },
    /// Messages of the direct class were received by all nodes concerned, or not.
    Forwarded {
        tickets: Vec<Ticket>,
        outcome: DirectOutcome,
    },
    /// The cluster's answer to an attach.
    Attached {
        ticket: Ticket,
        result: Result<Attached, ReasonCode>,
    },
    /// The filters of a SUBSCRIBE are watched, or not; in its order.
    Watched {
        number: u32,
        outcomes: Vec<Result<(), ReasonCode>>,
    },
}

#[derive(Debug, Default)]
struct Inner {
    posts: Vec<Post>,
    deliveries: VecDeque<Delivery>,
    /// Deliveries here and those that the task took and has not given back as done.
    held: Weight,
    /// Set once: the node ends this connection.
    eviction: Option<Eviction>,
    /// The task, while it waits.
    waker: Option<Waker>,
    /// Whether a delivery is a reason to wake it.
    waits_for_deliveries: bool,
    /// The task is over: nothing is taken any more.
    closed: bool,
    /// What may still be appended for this connection: see [`Append`].
    appends: usize,
    /// Told when the connection is closed and nothing can be appended any more.
    gone: Vec<Arc<Gone>>,
}

/// Messages and bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Weight {
    fn of(delivery: &Delivery) -> Self {
        Self {
            messages: 1,
            bytes: delivery.message.payload.len() + delivery.message.topic.as_str().len(),
        }
    }
}

impl std::ops::AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl std::ops::SubAssign for Weight {
    fn sub_assign(&mut self, other: Self) {
        self.messages -= other.messages;
        self.bytes -= other.bytes;
    }
}

/// What became of a pushed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the task.
    Queued,
    /// Full, and it was QoS 0.
    Dropped,
    /// Full, and it was not: the connection is being ended.
    Overflowed,
    /// The connection is gone or about to go.
    Closed,
}

/// What the task holds of its mailbox. Keeps the capacity of its lists for the next burst.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) posts: Vec<Post>,
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) eviction: Option<Eviction>,
    /// Done deliveries that the mailbox does not know of yet.
    done: Weight,
}

impl Taken {
    /// The next delivery without taking it.
    pub(crate) fn next_qos(&self) -> Option<QoS> {
        self.deliveries.front().map(|delivery| delivery.qos)
    }

    /// Takes the next delivery; from here on the mailbox has room for another.
    pub(crate) fn next(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.done += Weight::of(&delivery);
        Some(delivery)
    }

    /// Gives back the memory of empty lists.
    pub(crate) fn shrink(&mut self) {
        self.posts.shrink_to(0);
        self.deliveries.shrink_to(0);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.deliveries.capacity() + self.posts.capacity()
    }
}

impl Mailbox {
    pub(crate) fn new(config: &MailboxConfig) -> Self {
        Self {
            messages_max: config.messages_max.max(1),
            bytes_max: usize::try_from(config.bytes_max.as_u64()).unwrap_or(usize::MAX),
            inner: Mutex::default(),
        }
    }

    /// Pushes a message for the client. The task is woken when `wakes` is flushed.
    pub(crate) fn deliver(&self, delivery: Delivery, wakes: &mut Wakes) -> Pushed {
        let mut inner = self.lock();
        if inner.closed || inner.eviction.is_some() {
            return Pushed::Closed;
        }
        let weight = Weight::of(&delivery);
        let is_full = inner.held.messages >= self.messages_max
            || (inner.held.messages > 0 && inner.held.bytes + weight.bytes > self.bytes_max);
        if is_full && delivery.qos == QoS::AtMostOnce {
            return Pushed::Dropped;
        }
        if is_full {
            inner.eviction = Some(Eviction::QuotaExceeded);
            wakes.add(inner.waker.take());
            return Pushed::Overflowed;
        }
        inner.held += weight;
        inner.deliveries.push_back(delivery);
        if inner.waits_for_deliveries {
            wakes.add(inner.waker.take());
        }
        Pushed::Queued
    }

    /// Pushes an answer and wakes the task. Gives the answer back when the connection is gone, so that its effects can be undone.
    pub(crate) fn post(&self, post: Post) -> Result<(), Post> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(post);
            }
            inner.posts.push(post);
            inner.waker.take()
        };
        wake(waker);
        Ok(())
    }

    /// Orders the task to end the connection. The first order counts.
    pub(crate) fn evict(&self, why: Eviction) {
        let waker = {
            let mut inner = self.lock();
            if inner.closed || inner.eviction.is_some() {
                return;
            }
            inner.eviction = Some(why);
            inner.waker.take()
        };
        wake(waker);
    }

    /// For the task: takes what is there, or registers to be woken. Deliveries are taken only when the task has none left; without
    /// room for more (`wants_deliveries` false) they are no reason to be woken either.
    pub(crate) fn poll_take(
        &self,
        cx: &Context<'_>,
        taken: &mut Taken,
        wants_deliveries: bool,
    ) -> Poll<()> {
        let mut inner = self.lock();
        inner.held -= std::mem::take(&mut taken.done);
        let mut found = false;
        if !inner.posts.is_empty() && taken.posts.is_empty() {
            std::mem::swap(&mut inner.posts, &mut taken.posts);
            found = true;
        }
        let wants_deliveries = wants_deliveries && taken.deliveries.is_empty();
        if wants_deliveries && !inner.deliveries.is_empty() {
            std::mem::swap(&mut inner.deliveries, &mut taken.deliveries);
            found = true;
        }
        if taken.eviction.is_none() && inner.eviction.is_some() {
            taken.eviction = inner.eviction;
            found = true;
        }
        if found {
            return Poll::Ready(());
        }
        inner.waits_for_deliveries = wants_deliveries;
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty @ None => *empty = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// For the task: takes nothing more from now on. Gives the answers that it did not see.
    pub(crate) fn close(&self) -> Vec<Post> {
        let mut inner = self.lock();
        inner.closed = true;
        inner.deliveries = VecDeque::new();
        inner.held = Weight::default();
        std::mem::take(&mut inner.posts)
    }

    /// For the task, when idle: gives back the memory of empty lists.
    pub(crate) fn shrink(&self) {
        let mut inner = self.lock();
        inner.posts.shrink_to(0);
        inner.deliveries.shrink_to(0);
    }

    /// What waits for this connection.
    pub(crate) fn held(&self) -> Weight {
        self.lock().held
    }

    /// Counts something that may append messages for this connection until it is dropped.
    pub(crate) fn begin_append(self: &Arc<Self>) -> Append {
        self.lock().appends += 1;
        Append {
            mailbox: Arc::clone(self),
            tickets: Vec::new(),
            is_answered: false,
        }
    }

    /// Drops `gone` when the connection is closed and can append nothing more.
    pub(crate) fn when_gone(&self, gone: Arc<Gone>) {
        let mut inner = self.lock();
        if !(inner.closed && inner.appends == 0) {
            inner.gone.push(gone);
        }
    }

    /// For the task after [`close`](Self::close): waits until nothing can be appended any more.
    pub(crate) fn poll_appended(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.appends == 0 {
            return Poll::Ready(());
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn end_append(&self, post: Option<Post>) {
        let (waker, gone) = {
            let mut inner = self.lock();
            inner.appends -= 1;
            if !inner.closed {
                inner.posts.extend(post);
            }
            let is_gone = inner.closed && inner.appends == 0;
            let gone = if is_gone {
                std::mem::take(&mut inner.gone)
            } else {
                Vec::new()
            };
            (inner.waker.take(), gone)
        };
        drop(gone);
        wake(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Something that may still append messages for a connection: a submission that is not answered, or the connection task itself,
/// which may publish the Will. A connection is gone when all of them are.
#[derive(Debug)]
pub(crate) struct Append {
    mailbox: Arc<Mailbox>,
    tickets: Vec<Ticket>,
    is_answered: bool,
}

impl Append {
    /// For a submission: the tickets to be answered with its outcome, in the order of its records.
    pub(crate) fn with_tickets(mut self, tickets: Vec<Ticket>) -> Self {
        self.tickets = tickets;
        self
    }

    /// The outcome of the submission.
    pub(crate) fn answer(mut self, submitted: Submitted) {
        self.end(submitted);
    }

    fn end(&mut self, submitted: Submitted) {
        self.is_answered = true;
        let tickets = std::mem::take(&mut self.tickets);
        let post = (!tickets.is_empty()).then_some(Post::Published { tickets, submitted });
        self.mailbox.end_append(post);
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        // A submission that nobody answers was dropped by a stopping node: its outcome is not known.
        if !self.is_answered {
            self.end(Submitted::Unknown);
        }
    }
}

/// Tells the cluster, when the last holder drops it, that connections are gone.
#[derive(Debug)]
pub(crate) struct Gone(Option<oneshot::Sender<Option<Handover>>>);

impl Gone {
    pub(crate) fn new(tell: oneshot::Sender<Option<Handover>>) -> Arc<Self> {
        Arc::new(Self(Some(tell)))
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            // Nobody listens any more: the cluster gave up waiting.
            let _ = tell.send(None);
        }
    }
}

/// Tasks to be woken at the end of a burst, so that each finds all of its messages at once.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    fn add(&mut self, waker: Option<Waker>) {
        self.0.extend(waker);
    }

    /// Wakes them.
    pub(crate) fn flush(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
        self.0.shrink_to(64);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
