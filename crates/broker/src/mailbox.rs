//! The mailbox of a connection: what the rest of the node leaves for its task.
//!
//! Two kinds of content: answers to the questions of the connection, which are few and never dropped, and deliveries, which are
//! bounded in number and bytes. A burst of pushes wakes the task once, and only when the burst is complete.

mod dealt;
mod gone;
mod post;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytesize::ByteSize;
use magpie_cluster::Handover;
use magpie_codec::QoS;
use magpie_session::{Delivery, Eviction, Token};
use magpie_state::{PartitionId, Position};
use serde::{Deserialize, Serialize};

use crate::deliver::UNTRACKED;
use crate::lanes::{Lanes, Offered};
use crate::shared::SharedMessages;
pub(crate) use gone::{Append, Gone};
pub(crate) use post::{Post, Stored};

/// Bounds of what waits in this node's memory for one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailboxConfig {
    /// Messages that may wait for one connection. When full, a QoS 0 message is dropped and counted. What QoS 1 and 2 messages are too many
    /// wait in the log, if the session outlives its connection; else they end the connection with 0x97. Default 10000.
    pub messages_max: usize,
    /// Bytes of messages (topic, payload, properties) that may wait for one connection; the same policy. One message is taken whatever its
    /// size. Default 8 MiB.
    pub bytes_max: ByteSize,
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self {
            messages_max: 10_000,
            bytes_max: ByteSize::mib(8),
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
    /// Of a session that outlives its connection: where it is in the logs.
    lanes: Option<Box<Lanes>>,
    /// Whether the task is to be told that a lane must be read.
    has_unread: bool,
    /// What share groups have dealt to it, if they ever did.
    shared: Option<Box<SharedMessages>>,
    /// Whether the task is to be told that some of it is to be fetched.
    has_unfetched: bool,
    /// The task is over: nothing is taken any more.
    closed: bool,
    /// What may still be appended for this connection: see [`Append`].
    appends: usize,
    /// Told when the connection is closed and nothing can be appended any more.
    gone: Vec<Arc<Gone>>,
    /// What the task left of its session.
    left: Option<Box<Handover>>,
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
            bytes: delivery.message.bytes(),
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
    /// It waits in the log, from where it will be read.
    Deferred,
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
    /// Deliveries taken from the mailbox that it does not know of yet.
    done: Weight,
    /// Deliveries of the log that are done, for the lanes.
    pub(crate) finished: Vec<Token>,
    /// Some lane must be read.
    pub(crate) has_unread: bool,
    /// Messages of share groups are to be fetched.
    pub(crate) has_unfetched: bool,
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
        if inner.closed {
            return Pushed::Closed;
        }
        // One that is about to go takes nothing more; what its session misses by that, its lanes must know.
        let is_going = inner.eviction.is_some();
        if is_going && inner.lanes.is_none() {
            return Pushed::Closed;
        }
        let weight = Weight::of(&delivery);
        let is_full = is_going
            || inner.held.messages >= self.messages_max
            || (inner.held.messages > 0 && inner.held.bytes + weight.bytes > self.bytes_max);
        if is_full && delivery.qos == QoS::AtMostOnce {
            return if is_going {
                Pushed::Closed
            } else {
                Pushed::Dropped
            };
        }
        if let Some(lanes) = &mut inner.lanes
            && delivery.qos > QoS::AtMostOnce
            && delivery.token != UNTRACKED
        {
            let Token {
                partition,
                position,
            } = delivery.token;
            match lanes.offer(PartitionId(partition), Position(position), !is_full) {
                Offered::Taken => {}
                Offered::Known => return Pushed::Queued,
                Offered::Deferred => {
                    if !std::mem::replace(&mut inner.has_unread, true) {
                        wakes.add(inner.waker.take());
                    }
                    return Pushed::Deferred;
                }
            }
        } else if is_going {
            return Pushed::Closed;
        } else if is_full {
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

    /// The tail cannot offer what is between these places, see [`Lanes::miss`]. False if the session ends with its connection, or none has
    /// begun, and nothing is read for it.
    pub(crate) fn miss(&self, partition: PartitionId, after: Position, upto: Position) -> bool {
        let waker = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let Some(lanes) = &mut inner.lanes else {
                return false;
            };
            lanes.miss(partition, after, upto);
            let must_read = lanes.must_read();
            inner.has_unread |= must_read;
            if must_read { inner.waker.take() } else { None }
        };
        wake(waker);
        true
    }

    /// Pushes an answer and wakes the task. Gives the answer back when the connection is gone, so that its effects can be undone. That the
    /// rules have changed is told once until it is taken.
    pub(crate) fn post(&self, post: Post) -> Result<(), Post> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed {
                return Err(post);
            }
            let is_of_rules = |post: &Post| matches!(post, Post::RulesChanged);
            if is_of_rules(&post) && inner.posts.iter().any(is_of_rules) {
                return Ok(());
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
        match &mut inner.lanes {
            Some(lanes) => {
                let may_read = lanes.finish_all(&mut taken.finished);
                inner.has_unread |= may_read;
            }
            None => taken.finished.clear(),
        }
        let mut found = false;
        if std::mem::take(&mut inner.has_unfetched) {
            taken.has_unfetched = true;
            found = true;
        }
        if std::mem::take(&mut inner.has_unread) {
            taken.has_unread = true;
            found = true;
        }
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

    /// For the task, when it is attached: the session outlives its connection, and is here in the logs.
    pub(crate) fn set_lanes(&self, lanes: Lanes) {
        let mut inner = self.lock();
        inner.has_unread = lanes.must_read();
        inner.lanes = Some(Box::new(lanes));
    }

    /// For the task: all subscriptions of a session that goes on are inserted, see [`Lanes::activate`].
    pub(crate) fn activate(&self, after: &[(PartitionId, Position)]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(lanes) = &mut inner.lanes {
            lanes.activate(after);
            inner.has_unread = lanes.must_read();
        }
    }

    /// Looks at the lanes, or changes them. `None` if the session ends with its connection.
    pub(crate) fn with_lanes<T>(&self, with: impl FnOnce(&mut Lanes) -> T) -> Option<T> {
        let mut inner = self.lock();
        inner.lanes.as_deref_mut().map(with)
    }

    /// For the task: puts messages that were read from the log where those of the tail come. `upto`: the read is complete up to there, and
    /// found nothing more if `is_end`. Some may be known, and are left out. May pass the bounds by one read.
    pub(crate) fn put_read(
        &self,
        partition: PartitionId,
        deliveries: impl Iterator<Item = Delivery>,
        upto: Position,
        is_end: bool,
    ) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(lanes) = &mut inner.lanes else {
            return;
        };
        for delivery in deliveries {
            if lanes.take_read(partition, Position(delivery.token.position)) {
                inner.held += Weight::of(&delivery);
                inner.deliveries.push_back(delivery);
            }
        }
        lanes.read_upto(partition, upto, is_end);
        inner.has_unread = lanes.must_read();
    }

    /// How many messages and bytes the mailbox has room for.
    pub(crate) fn room(&self) -> Weight {
        let held = self.lock().held;
        Weight {
            messages: self.messages_max.saturating_sub(held.messages),
            bytes: self.bytes_max.saturating_sub(held.bytes),
        }
    }

    /// For the task: takes nothing more from now on. Gives the answers that it did not see, and the lanes as they end.
    pub(crate) fn close(&self, finished: &mut Vec<Token>) -> (Vec<Post>, Option<Box<Lanes>>) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.deliveries = VecDeque::new();
        inner.held = Weight::default();
        let mut lanes = inner.lanes.take();
        if let Some(lanes) = &mut lanes {
            lanes.finish_all(finished);
        }
        (std::mem::take(&mut inner.posts), lanes)
    }

    /// For the task, when idle: gives back the memory of empty lists.
    pub(crate) fn shrink(&self) {
        let mut inner = self.lock();
        inner.posts.shrink_to(0);
        inner.deliveries.shrink_to(0);
        if let Some(lanes) = &mut inner.lanes {
            lanes.shrink();
        }
    }

    /// Messages that it may hold.
    pub(crate) const fn messages_max(&self) -> usize {
        self.messages_max
    }

    /// Bytes that it may hold.
    pub(crate) const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Whether the task is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// What waits for this connection.
    pub(crate) fn held(&self) -> Weight {
        self.lock().held
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
