//! One network connection: the task that owns its socket, decoder and conversation.
//!
//! The task waits for bytes, for its mailbox, for room in the socket or in the cluster's queues, and for time; it feeds what came to
//! the `session::Connection`, does what that says, and writes once per round.

mod access;
mod answers;
mod attach;
mod end;
mod outputs;
mod timer;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use bytesize::ByteSize;
use magpie_codec::{Decoder, Packet, QoS, ReasonCode};
use magpie_failpoint::fail_point;
use magpie_session as session;
use magpie_session::{CloseCause, Eviction};
use serde::{Deserialize, Serialize};
use tokio_util::io::poll_read_buf;

use crate::authenticate::Anonymity;
use crate::buffers;
use crate::config::Problem;
use crate::durable::Durable;
use crate::fetch;
use crate::handle::Handle;
use crate::mailbox::{Append, Taken};
use crate::metrics::Tally;
use crate::node::{HalfOpen, Shared};
use crate::peer::Peer;
use crate::permit::Permit;
use crate::publish::{Publisher, Submitting};
use crate::rate::{Rate, RatePolicy};
use crate::read::Reading;
use crate::retained::Retained;
use crate::shared::is_shared;
use crate::stream::Stream;
use crate::subscribe::Subscribing;
use crate::write_buffer::WriteBuffer;
use access::Proving;
use timer::Timer;

/// One network connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionConfig {
    /// Bytes that wait for the socket of one client. At the limit no more messages are taken from its mailbox, and the client is not
    /// read. One packet may pass it. Default 256KiB.
    pub write_buffer: ByteSize,
    /// How long the last packets to a client may take before the socket is closed all the same. Default 2s.
    #[serde(with = "humantime_serde")]
    pub close_timeout: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            write_buffer: ByteSize::kib(256),
            close_timeout: Duration::from_secs(2),
        }
    }
}

impl ConnectionConfig {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if self.write_buffer.as_u64() < 1024 {
            problems.push(Problem::new(
                "connection.write_buffer",
                "must be at least 1KiB",
            ));
        }
    }

    fn write_bytes_max(&self) -> usize {
        usize::try_from(self.write_buffer.as_u64()).unwrap_or(usize::MAX)
    }
}

/// Rounds until other tasks get their turn.
const ROUNDS_MAX: usize = 16;

/// The start of a packet up to this size is copied to the next read; a larger one gets a buffer of its own until it is complete.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// After this long without anything to do, a connection gives back what it kept for the next burst.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// A connection that is ready for MQTT.
pub(crate) struct Opened {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) anonymity: Anonymity,
    pub(crate) half_open: HalfOpen,
    /// From here on, the time for CONNECT runs.
    pub(crate) opened_at: Instant,
    /// What the client is told in place of being let in.
    pub(crate) refusal: Option<ReasonCode>,
}

/// Serves one client to the end.
pub(crate) async fn run(node: Arc<Shared>, opened: Opened) {
    // Boxed, since it is handed on to its end, and each future on the way would have room for it.
    let mut driver = Box::new(Driver::new(node, opened));
    let end = poll_fn(|cx| driver.poll(cx)).await;
    // Boxed too: it is short, and every connection would have room for it all along.
    Box::pin(driver.end(end)).await;
}

/// The state of the task.
struct Driver {
    node: Arc<Shared>,
    handle: Arc<Handle>,
    anonymity: Anonymity,
    /// Until CONNECT has come.
    half_open: Option<Box<HalfOpen>>,
    /// What CONNECT is answered, whoever sends it.
    refusal: Option<ReasonCode>,
    /// While and after it authenticates by a method.
    proving: Option<Box<Proving>>,
    /// Once it was let in.
    permit: Option<Box<Permit>>,
    /// If its rate is bounded.
    rate: Option<Box<Rate>>,
    socket: Stream,
    decoder: Decoder,
    session: session::Connection,
    /// Bytes of a packet that is not complete, or packets that the session does not want yet (`is_stalled`).
    unread: BytesMut,
    is_stalled: bool,
    out: WriteBuffer,
    write_bytes_max: usize,
    taken: Taken,
    is_evicted: bool,
    /// Once attached.
    publisher: Option<Box<Publisher>>,
    /// Once attached, if the session outlives its connection.
    durable: Option<Box<Durable>>,
    reading: Reading,
    /// While there are messages that were retained when the client subscribed; they come before those of the mailbox.
    retained: Option<Box<Retained>>,
    /// Once attached: this task may still append, if only the Will.
    append: Option<Append>,
    submitting: Option<Submitting>,
    /// What the session wants to be made safe, on its way into the cluster's queue.
    keeping: Option<Submitting>,
    subscribing: Subscribing,
    /// As CONNECT said.
    keep_alive_s: u16,
    received: Tally,
    sent: Tally,
    timer: Timer,
    active_at: Instant,
    /// When to look whether the connection is idle.
    idle_check_at: Option<Instant>,
    end: Option<End>,
}

/// How the conversation ended.
struct End {
    cause: CloseCause,
    will_discarded: bool,
    /// If DISCONNECT changed it.
    session_expiry_s: Option<u32>,
}

impl Driver {
    fn new(node: Arc<Shared>, opened: Opened) -> Self {
        let Opened {
            stream,
            peer,
            anonymity,
            half_open,
            opened_at,
            refusal,
        } = opened;
        let now = Instant::now();
        let handle = Handle::new(node.next_number(), peer, &node.config.mailbox);
        Self {
            handle: Arc::new(handle),
            anonymity,
            half_open: Some(Box::new(half_open)),
            refusal,
            proving: None,
            permit: None,
            rate: node.config.session.rate(now),
            socket: stream,
            decoder: Decoder::server(node.decoder_limits),
            session: session::Connection::new(Arc::clone(&node.limits), random_id(), opened_at),
            is_stalled: false,
            unread: BytesMut::new(),
            out: WriteBuffer::default(),
            write_bytes_max: node.config.connection.write_bytes_max(),
            taken: Taken::default(),
            is_evicted: false,
            publisher: None,
            durable: None,
            reading: Reading::default(),
            retained: None,
            append: None,
            submitting: None,
            keeping: None,
            subscribing: Subscribing::default(),
            keep_alive_s: 0,
            received: Tally::default(),
            sent: Tally::default(),
            timer: Timer::new(),
            active_at: now,
            idle_check_at: None,
            end: None,
            node,
        }
    }

    /// Goes round while there is something to do: everything that came in is fed to the session, and what it says goes out in one
    /// write.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS_MAX {
            let now = Instant::now();
            let mut has_progress = self.poll_mailbox(cx, now);
            has_progress |= self.poll_read(cx, now);
            has_progress |= self.hand_over_deliveries(now);
            self.read_on();
            has_progress |= self.poll_time(cx, now);
            self.end_burst();
            has_progress |= self.poll_submitting(cx);
            has_progress |= self.poll_flush(cx, now);
            let is_paused = self.submitting.is_some() || self.throttled_until(now).is_some();
            self.session.set_reading_paused(is_paused, now);
            if let Some(end) = self.end.take() {
                return Poll::Ready(end);
            }
            if !has_progress {
                return Poll::Pending;
            }
            self.active_at = now;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_mailbox(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        let has_room = self.has_room();
        if self
            .handle
            .mailbox
            .poll_take(cx, &mut self.taken, has_room)
            .is_pending()
        {
            return false;
        }
        let mut posts = std::mem::take(&mut self.taken.posts);
        for post in posts.drain(..) {
            self.handle_post(post, now);
        }
        self.taken.posts = posts;
        if let (Some(why), false) = (self.taken.eviction, self.is_evicted) {
            self.is_evicted = true;
            self.evict(why, now);
        }
        true
    }

    fn evict(&mut self, why: Eviction, now: Instant) {
        self.session.handle_close(why, now);
        self.drain(now);
    }

    /// Reads once and takes all packets that came.
    fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.end.is_some() || self.submitting.is_some() || !self.has_room() {
            return false;
        }
        if !self.session.wants_packets() || self.throttled_until(now).is_some() {
            return false;
        }
        if self.is_stalled {
            let mut buffer = std::mem::take(&mut self.unread);
            self.decode(&mut buffer, now);
            self.keep_unread(buffer);
            return true;
        }
        let has_own_buffer = self.unread.len() > COPIED_BYTES_MAX;
        let mut buffer = if has_own_buffer {
            let mut own = std::mem::take(&mut self.unread);
            own.reserve(buffers::READ_BYTES);
            own
        } else {
            let mut borrowed = buffers::take_read();
            borrowed.extend_from_slice(&self.unread);
            borrowed
        };
        match poll_read_buf(Pin::new(&mut self.socket), cx, &mut buffer) {
            Poll::Pending => {
                if has_own_buffer {
                    self.unread = buffer;
                } else {
                    buffers::give_read(buffer);
                }
                return false;
            }
            Poll::Ready(Ok(0) | Err(_)) => {
                self.session.handle_disconnected(now);
                self.drain(now);
            }
            Poll::Ready(Ok(_)) => self.decode(&mut buffer, now),
        }
        self.keep_unread(buffer);
        true
    }

    /// Keeps what was not decoded, and gives the buffer back if that is little.
    fn keep_unread(&mut self, buffer: BytesMut) {
        if buffer.len() > COPIED_BYTES_MAX {
            self.unread = buffer;
            return;
        }
        self.unread = BytesMut::from(&buffer[..]);
        buffers::give_read(buffer);
    }

    fn decode(&mut self, buffer: &mut BytesMut, now: Instant) {
        self.is_stalled = false;
        while self.end.is_none() {
            if !self.session.wants_packets() || self.throttled_until(now).is_some() {
                self.is_stalled = !buffer.is_empty();
                return;
            }
            match self.decoder.decode(buffer) {
                Ok(Some(packet)) => {
                    self.note_packet(&packet);
                    if self.is_too_fast(&packet, now) {
                        return self.evict(Eviction::RateTooHigh, now);
                    }
                    self.session.handle_packet(packet, now);
                }
                Ok(None) => return,
                Err(error) => self.session.handle_decode_error(error, now),
            }
            self.drain(now);
        }
    }

    /// Counts a message towards the client's rate; true if its connection is to end for it.
    fn is_too_fast(&mut self, packet: &Packet, now: Instant) -> bool {
        let (Some(rate), Packet::Publish(publish)) = (&mut self.rate, packet) else {
            return false;
        };
        if rate.count(publish.payload.len(), now) {
            return false;
        }
        self.node.metrics.rate_exceeded.increment(1);
        rate.policy == RatePolicy::Disconnect
    }

    fn throttled_until(&self, now: Instant) -> Option<Instant> {
        self.rate.as_ref()?.paused_until(now)
    }

    fn note_packet(&mut self, packet: &Packet) {
        fail_point!("read", self.handle.about());
        match packet {
            Packet::Publish(publish) => self.received.count(publish.qos, publish.payload.len()),
            Packet::Connect(connect) => self.greet(connect),
            _ => {}
        }
    }

    /// Gives the session the messages that the client's window and our write buffer have room for.
    fn hand_over_deliveries(&mut self, now: Instant) -> bool {
        let mut has_any = false;
        while self.end.is_none() && self.has_room() && !self.subscribing.holds_deliveries() {
            let retained = self.retained.as_mut().filter(|it| it.come_first());
            let qos = match &retained {
                Some(retained) => retained.next_qos(),
                None => self.taken.next_qos(),
            };
            if !qos.is_some_and(|qos| self.session.can_accept(qos)) {
                break;
            }
            let next = match retained {
                Some(retained) => retained.next(),
                None => self.taken.next(),
            };
            let Some(delivery) = next else {
                break;
            };
            fail_point!("deliver", self.handle.about());
            let (token, qos) = (delivery.token, delivery.qos);
            if is_shared(token) {
                self.handle
                    .mailbox
                    .with_shared(|shared| shared.note_sent(token));
            }
            self.session.handle_delivery(delivery, now);
            self.drain(now);
            if is_shared(token) && qos == QoS::AtMostOnce {
                // Nobody acknowledges it.
                self.finish_shared(token);
            }
            has_any = true;
        }
        has_any
    }

    /// Has retained messages read, and the log for a session that is behind, when there is room.
    fn read_on(&mut self) {
        if let (Some(retained), Some(session)) = (&mut self.retained, self.session.session())
            && self.end.is_none()
        {
            retained.read_on(&self.node.cluster, &self.handle, session);
        }
        if self.taken.has_unfetched
            && self.end.is_none()
            && let Some(session) = self.session.session()
        {
            self.taken.has_unfetched = fetch::start(&self.node.cluster, &self.handle, session);
        }
        if self.taken.has_unread
            && self.end.is_none()
            && let Some(session) = self.session.session()
        {
            let (cluster, positions) = (&self.node.cluster, &self.node.subscribers.positions);
            self.taken.has_unread = self
                .reading
                .start(cluster, positions, &self.handle, session);
        }
    }

    fn poll_time(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let session_at = self.session.poll_timeout();
        if session_at.is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
            self.drain(now);
            return true;
        }
        let expires_at = self.permit.as_ref().and_then(|permit| permit.expires_at());
        if expires_at.is_some_and(|at| at <= now) {
            self.evict(Eviction::NotAuthorized, now);
            return true;
        }
        if self.idle_check_at.is_some_and(|at| at <= now) {
            self.check_idle(now);
        } else if self.idle_check_at.is_none() && self.is_bloated() {
            self.idle_check_at = Some(now + IDLE_AFTER);
        }
        let next_at = session_at
            .into_iter()
            .chain(self.idle_check_at)
            .chain(expires_at)
            .chain(self.throttled_until(now))
            .min();
        self.timer.poll(cx, next_at, now)
    }

    /// Whether there is memory that an idle connection could give back.
    fn is_bloated(&self) -> bool {
        self.taken.capacity() > 0
            || self
                .publisher
                .as_ref()
                .is_some_and(|it| it.deliverer.has_cache())
    }

    fn check_idle(&mut self, now: Instant) {
        let idle_at = self.active_at + IDLE_AFTER;
        if idle_at > now {
            self.idle_check_at = Some(idle_at);
            return;
        }
        self.idle_check_at = None;
        self.taken.shrink();
        if let Some(permit) = &mut self.permit {
            permit.shrink();
        }
        self.handle.mailbox.shrink();
        self.reading
            .shrink(&self.node.subscribers.positions, &self.handle);
        if let Some(publisher) = &mut self.publisher {
            publisher.deliverer.shrink();
        }
    }

    /// Sends what the packets of this round published, and reports what it counted.
    fn end_burst(&mut self) {
        if self.submitting.is_none()
            && let Some(publisher) = &mut self.publisher
            && let Some(submitting) = publisher.end_burst(&self.node.cluster)
        {
            self.submitting = Some(submitting);
        }
        if self.keeping.is_none()
            && let Some(durable) = &mut self.durable
            && let Some(keeping) = durable.end_burst(&self.node.cluster, &self.handle)
        {
            self.keeping = Some(Box::pin(keeping));
        }
        let traffic = &self.handle.traffic;
        if let Some((messages, bytes)) = self.received.report(&self.node.metrics.received) {
            traffic.received.fetch_add(messages, Ordering::Relaxed);
            traffic.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        if let Some((messages, bytes)) = self.sent.report(&self.node.metrics.sent) {
            traffic.sent.fetch_add(messages, Ordering::Relaxed);
            traffic.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Usually done at the first call. While it is not, the cluster's queue is full and the client is not read.
    fn poll_submitting(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_progress = false;
        if let Some(keeping) = &mut self.keeping
            && keeping.as_mut().poll(cx).is_ready()
        {
            self.keeping = None;
            has_progress = true;
        }
        if let Some(submitting) = &mut self.submitting
            && submitting.as_mut().poll(cx).is_ready()
        {
            self.submitting = None;
            has_progress = true;
        }
        has_progress
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if self.out.is_empty() && !self.socket.needs_flush() {
            return false;
        }
        let had_room = self.has_room();
        let bytes_before = self.out.len();
        if let Poll::Ready(Err(_)) = self.out.poll_flush(cx, &mut self.socket) {
            self.session.handle_disconnected(now);
            self.drain(now);
            return true;
        }
        if !had_room && self.out.len() < bytes_before {
            // It is not read for want of room, but it takes what we write: it has another full Keep Alive. One that takes nothing for
            // so long is as good as silent.
            self.session.set_reading_paused(true, now);
        }
        // What waited for room goes on.
        !had_room && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.out.len() < self.write_bytes_max
    }
}

fn random_id() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every idle connection pays for: its task and its driver, beside the session's own state and the socket.
    #[test]
    fn an_idle_connection_is_small() {
        fn future_bytes<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size_of::<Driver>() <= 896, "{}", size_of::<Driver>());
        assert!(future_bytes(run) <= 192, "{}", future_bytes(run));
        assert!(size_of::<Handle>() + size_of::<crate::mailbox::Mailbox>() <= 416);
    }
}
