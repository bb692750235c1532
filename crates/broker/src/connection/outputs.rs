//! Doing what the session says, and telling it what the node answers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use magpie_audit::What;
use magpie_cluster::Attach;
use magpie_codec::{Connect, EncodeError, Message, Packet, PublishHeader, ReasonCode, TopicFilter};
use magpie_failpoint::fail_point;
use magpie_router::CacheLimits;
use magpie_session::{Answer, Eviction, Note, Outcome, Output, Ticket, Token};
use magpie_state::{ClientId, Epoch, ShareSession, StoredWill};
use tracing::{debug, trace};

use super::{Driver, End};
use crate::attach::Begun;
use crate::authenticate::reason;
use crate::deliver::{Deliverer, UNTRACKED};
use crate::durable::Durable;
use crate::handle::Greeting;
use crate::lanes::Lanes;
use crate::mailbox::Post;
use crate::metrics::DropCause;
use crate::publish::{self, Outgoing, Publisher};
use crate::resume::{Resume, at_least_once, resume};
use crate::retained;
use crate::shared::{self, is_shared};
use crate::subscribe::{self, Next, Place};
use crate::{attach, clock, task};

/// A client publishes to few topics at a time.
const CACHE: CacheLimits = CacheLimits {
    entries_max: 256,
    bytes_max: 128 << 10,
};

impl Driver {
    /// Does everything that the session wants done.
    pub(super) fn drain(&mut self, now: Instant) {
        while let Some(output) = self.session.poll_output() {
            self.act(output, now);
        }
    }

    fn act(&mut self, output: Output, now: Instant) {
        match output {
            Output::Send(packet) => {
                fail_point!("send", self.handle.about());
                self.send(&packet);
            }
            Output::Deliver { header, message } => {
                fail_point!("send.publish", self.handle.about());
                self.send_message(&header, &message);
            }
            Output::Authenticate {
                ticket,
                credentials,
            } => self.authenticate(ticket, &credentials, now),
            Output::AuthenticateOn {
                ticket,
                data,
                begins,
            } => self.prove(ticket, data.as_ref(), begins, now),
            Output::Attach { ticket, attach } => self.attach(ticket, *attach, now),
            Output::Publish {
                ticket,
                qos,
                retain,
                packet_id,
                message,
            } => {
                let outgoing = Outgoing {
                    ticket,
                    qos,
                    retain,
                    packet_id,
                    message,
                };
                if self.may_publish(&outgoing, now) {
                    self.publish(outgoing);
                }
            }
            Output::Release {
                ticket,
                packet_id,
                known,
            } => self.release(ticket, packet_id, known, now),
            Output::Bind {
                ticket,
                packet_id,
                token,
            } => {
                let shared = is_shared(token);
                let place = shared.then(|| self.shared_place(token)).flatten();
                if let (Some(durable), Some(place)) = (&mut self.durable, place) {
                    durable.keeping.bind_shared(ticket, packet_id, place);
                } else if let (Some(durable), false) =
                    (&mut self.durable, token == UNTRACKED || shared)
                {
                    durable.keeping.bind(ticket, packet_id, token);
                } else {
                    // In no log, and so not to be had again.
                    self.session.handle_answer(ticket, Answer::Bound, now);
                }
            }
            Output::Received { ticket, packet_id } => {
                if let Some(durable) = &mut self.durable {
                    durable.keeping.received(ticket, packet_id);
                }
            }
            Output::Subscribe {
                ticket,
                mut subscriptions,
            } => {
                let denied = self.refuse_filters(&mut subscriptions);
                if subscriptions.is_empty() {
                    let reasons = vec![ReasonCode::NotAuthorized; denied.len()];
                    let answer = Answer::Subscribed(reasons);
                    return self.session.handle_answer(ticket, answer, now);
                }
                let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
                self.subscribing
                    .subscribe(place, ticket, subscriptions, denied);
            }
            Output::Unsubscribe { ticket, filters } => {
                self.subscribing.unsubscribe(ticket, filters);
                self.go_on_subscribing(now);
            }
            Output::Delivered { token, outcome } => {
                if retained::is_copy(token) {
                    self.finish_retained();
                } else if is_shared(token) {
                    self.finish_shared(token);
                } else if self.durable.is_some() {
                    self.taken.finished.push(token);
                }
                self.count_outcome(outcome);
            }
            Output::Note(note) => self.count_note(note),
            Output::Close {
                cause,
                will_discarded,
                session_expiry_s,
                session_expiry_changed,
            } => {
                let access = &self.node.access;
                let permit = self.permit.as_mut();
                let forbids_will = permit.is_some_and(|permit| permit.forbids_will(access));
                self.end = Some(End {
                    cause,
                    will_discarded: will_discarded || forbids_will,
                    session_expiry_s: session_expiry_changed.then_some(session_expiry_s),
                });
            }
        }
    }

    fn send(&mut self, packet: &Packet) {
        trace!(?packet, "send");
        let packet_bytes_max = self.session.packet_bytes_max().and_then(NonZeroU32::new);
        let version = self.session.version();
        if let Err(error) = magpie_codec::encode(version, packet, packet_bytes_max, self.out.end())
        {
            // [MQTT-3.1.2-24]: what is larger than the client takes is not sent, even if it waits for it.
            debug!(%error, packet = ?packet.packet_type(), "packet not sent");
        }
    }

    fn send_message(&mut self, header: &PublishHeader, message: &Message) {
        match self.out.publish(self.session.version(), header, message) {
            Ok(()) => self.sent.count(header.qos, message.payload.len()),
            Err(EncodeError::TooLarge) => self.node.metrics.dropped.count(DropCause::TooLarge, 1),
            Err(error) => debug!(%error, "message not sent"),
        }
    }

    /// Notes who the client is, when its CONNECT comes.
    pub(super) fn greet(&mut self, connect: &Connect) {
        self.keep_alive_s = connect.keep_alive_s;
        self.half_open = None;
    }

    fn attach(&mut self, ticket: Ticket, wanted: magpie_session::Attach, now: Instant) {
        // The session attaches nobody who was not let in, but for the compiler.
        let Some(permit) = &mut self.permit else {
            let refused = Answer::AttachRefused(ReasonCode::NotAuthorized);
            return self.session.handle_answer(ticket, refused, now);
        };
        let access = &self.node.access;
        if let Some(will) = &wanted.will
            && !permit.leave_will(access, &will.topic)
        {
            let subject = &permit.identity().subject;
            let (client, user) = (&subject.client_id, subject.username.as_deref());
            let (remote, topic) = (self.handle.peer.remote, Some(will.topic.as_str()));
            access.tell(What::Will, "no rule allows it", client, user, remote, topic);
            let refused = Answer::AttachRefused(ReasonCode::NotAuthorized);
            return self.session.handle_answer(ticket, refused, now);
        }
        let identity = Arc::clone(permit.identity());
        let client = ClientId(wanted.client_id.compact());
        self.handle.greet(Greeting {
            client: client.clone(),
            version: self.session.version(),
            keep_alive_s: self.keep_alive_s,
            session_expiry_s: wanted.session_expiry_s,
        });
        self.node.registry.enter(&client, &self.handle);
        let attach = Attach {
            client,
            clean_start: wanted.clean_start,
            session_expiry_s: wanted.session_expiry_s,
            will: wanted.will.map(|will| {
                Box::new(StoredWill {
                    will: *will,
                    publish_ms: clock::wall_ms(),
                })
            }),
            owner: identity.subject.username.clone(),
        };
        task::spawn(attach::run(
            Arc::clone(&self.node),
            Arc::clone(&self.handle),
            attach,
            ticket,
        ));
    }

    fn publish(&mut self, outgoing: Outgoing) {
        // The session publishes nothing before it is attached, but for the compiler.
        if let Some(publisher) = &mut self.publisher {
            publisher.publish(&self.node.cluster, outgoing);
        }
    }

    fn release(
        &mut self,
        ticket: Ticket,
        packet_id: magpie_codec::PacketId,
        known: bool,
        now: Instant,
    ) {
        let (Some(publisher), Some(durable)) = (&mut self.publisher, &self.durable) else {
            return self.session.handle_answer(ticket, Answer::Released, now);
        };
        match publisher.forget(packet_id) {
            // Of the direct class: no partition knows it.
            None if known => self.session.handle_answer(ticket, Answer::Released, now),
            partition => {
                let (cluster, handle) = (&self.node.cluster, &self.handle);
                task::spawn(durable.release(cluster, handle, ticket, packet_id, partition));
            }
        }
    }

    /// Takes an answer of the node.
    pub(super) fn handle_post(&mut self, post: Post, now: Instant) {
        match post {
            Post::Published { tickets, submitted } => {
                fail_point!("answer.published", self.handle.about());
                for (ordinal, ticket) in tickets.into_iter().enumerate() {
                    match publish::answer_to_submitted(&submitted, ordinal) {
                        Some(answer) => self.published(ticket, answer, now),
                        None => self.session.handle_close(Eviction::TakenOver, now),
                    }
                }
            }
            Post::Kept => {
                if let Some(publisher) = &mut self.publisher {
                    publisher.kept();
                }
            }
            Post::Forwarded { tickets, outcome } => {
                for ticket in tickets {
                    self.published(ticket, publish::answer_to_forwarded(outcome), now);
                }
            }
            Post::Attached { ticket, result } => {
                fail_point!("answer.attached", self.handle.about());
                self.attached(ticket, result, now);
            }
            Post::Authenticated { ticket, result } => {
                let result = result.map(|identity| *identity);
                self.authenticated(ticket, result.map_err(reason), None, now);
            }
            Post::RulesChanged => self.check_subscriptions(now),
            Post::Watched { number, watched } => {
                self.subscribing.watched(number, watched);
                self.go_on_subscribing(now);
            }
            Post::Settled(settled) => {
                let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
                let next = self.subscribing.settled(place, &mut self.reading, *settled);
                if let Some(next) = next {
                    self.subscribed(next, now);
                }
                self.go_on_subscribing(now);
            }
            Post::Retained(part) => {
                if let Some(retained) = &mut self.retained {
                    retained.take(*part);
                }
                self.settle_retained();
            }
            Post::Resumed(resumed) => self.resumed(*resumed),
            Post::Fetched(fetched) => {
                if let Some(session) = self.session.session() {
                    fetched.take(&self.handle, session, &self.node.shares);
                }
                self.taken.has_unfetched = true;
            }
            Post::Read(read) => {
                if let Some(session) = self.session.session() {
                    self.reading.take(*read, &self.handle, session);
                }
            }
            Post::Stored {
                tickets,
                answer,
                is_stored,
            } => match is_stored {
                Ok(()) => {
                    fail_point!("answer.stored", self.handle.about());
                    for ticket in tickets {
                        self.session.handle_answer(ticket, answer.into(), now);
                    }
                }
                Err(why) => self.session.handle_close(why, now),
            },
            Post::Released {
                ticket,
                is_released,
            } => {
                if is_released {
                    fail_point!("answer.released", self.handle.about());
                    self.session.handle_answer(ticket, Answer::Released, now);
                } else {
                    self.session.handle_close(Eviction::Busy, now);
                }
            }
        }
        self.drain(now);
    }

    fn published(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let Some(publisher) = &mut self.publisher else {
            return;
        };
        if publisher.is_last_answer(ticket, &answer) {
            self.session.handle_answer(ticket, answer, now);
        }
    }

    fn attached(&mut self, ticket: Ticket, result: Result<Box<Begun>, ReasonCode>, now: Instant) {
        let begun = match result {
            Ok(begun) => *begun,
            Err(reason) => {
                return self
                    .session
                    .handle_answer(ticket, Answer::AttachRefused(reason), now);
            }
        };
        let Some(client) = self.handle.client().cloned() else {
            return;
        };
        let epoch = begun.attached.epoch;
        // A newer connection may have been heard of while this one attached.
        let is_newest = self.node.registry.attached(&client, &self.handle, epoch);
        if !is_newest {
            return self.session.handle_close(Eviction::TakenOver, now);
        }
        if let Some(why) = self.still_objects() {
            return self.session.handle_close(why, now);
        }
        let session = self.begin_session(&client, begun);
        let incarnation = self.durable.as_ref().map(|durable| durable.incarnation);
        self.publisher = Some(Box::new(self.new_publisher(client, epoch, incarnation)));
        self.append = Some(self.handle.mailbox.begin_append());
        let answer = Answer::Attached {
            epoch: epoch.0,
            session,
        };
        self.session.handle_answer(ticket, answer, now);
        // The rules may have changed since its subscriptions were looked at.
        self.check_subscriptions(now);
    }

    /// Begins to keep a session that outlives its connection; gives what an earlier one left of it.
    fn begin_session(
        &mut self,
        client: &ClientId,
        begun: Begun,
    ) -> Option<Box<magpie_session::Session>> {
        let Begun {
            attached,
            unacknowledged,
            left,
        } = begun;
        if attached.session.is_none() && !self.handle.is_durable() {
            return None;
        }
        self.handle.keep_session(ShareSession {
            client: client.clone(),
            session: attached.incarnation,
            epoch: attached.epoch,
        });
        self.durable = Some(Box::new(Durable::new(
            client.clone(),
            attached.epoch,
            attached.incarnation,
        )));
        let positions = &self.node.subscribers.positions;
        let ahead_max = self.node.config.session.ahead_max();
        let resumed = attached
            .session
            .map(|stored| resume(&stored, &unacknowledged, positions, ahead_max));
        let Some(resumed) = resumed else {
            self.handle.mailbox.set_lanes(Lanes::new(ahead_max));
            self.node.durables.add(&self.handle);
            self.leave_shares(&left);
            return None;
        };
        let Resume {
            session,
            lanes,
            reading,
            retained,
            filters,
            shared,
        } = resumed;
        if let Some(shared) = shared {
            let (shares, handle) = (&self.node.shares, &self.handle);
            shared
                .unsettled()
                .for_each(|place| shares.done_bound(handle, place));
            handle.mailbox.set_shared(shared);
        }
        // Now it is known what of theirs the client was sent.
        self.leave_shares(&left);
        self.reading = reading;
        self.retained = retained;
        self.handle.mailbox.set_lanes(lanes);
        self.node.durables.add(&self.handle);
        let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
        subscribe::resume(place, filters);
        Some(session)
    }

    fn leave_shares(&self, filters: &[TopicFilter]) {
        for filter in filters {
            self.node.shares.leave(&self.handle, filter);
        }
    }

    fn resumed(&mut self, resumed: subscribe::Resumed) {
        let Some(durable) = &mut self.durable else {
            return;
        };
        let Some(session) = self.session.session() else {
            return;
        };
        let mut offered = std::mem::take(&mut durable.offered);
        let place = Self::place(&self.node, &self.handle, Some(durable));
        let again = subscribe::resumed(place, session, resumed, &mut offered);
        if again.is_empty() {
            self.handle.mailbox.activate(&offered);
        } else {
            subscribe::resume_later(place, again);
            durable.offered = offered;
        }
    }

    fn new_publisher(&self, client: ClientId, epoch: Epoch, session: Option<Epoch>) -> Publisher {
        let node = &self.node;
        let deliverer = Deliverer::new(
            Arc::clone(&node.subscribers),
            CACHE,
            Arc::clone(&node.metrics),
        );
        Publisher::new(client, epoch, session, &self.handle, deliverer)
    }

    fn go_on_subscribing(&mut self, now: Instant) {
        loop {
            let place = Self::place(&self.node, &self.handle, self.durable.as_deref());
            let session = self.session.session();
            let at_least_once = || session.map_or_else(Vec::new, at_least_once);
            match self
                .subscribing
                .next(place, &mut self.reading, at_least_once)
            {
                Some(next) => self.subscribed(next, now),
                None => return,
            }
        }
    }

    fn subscribed(&mut self, next: Next, now: Instant) {
        match next {
            Next::Answer(ticket, answer, part, unsettled) => {
                self.session.handle_answer(ticket, answer, now);
                if !part.is_empty() || self.retained.is_some() {
                    let retained = self.retained.get_or_insert_default();
                    retained.want(part, unsettled);
                }
                self.settle_retained();
                self.check_subscribed(now);
            }
            Next::Noted => {}
            Next::TakenOver => self.session.handle_close(Eviction::TakenOver, now),
            Next::Unknown => self.session.handle_close(Eviction::Busy, now),
        }
    }

    fn shared_place(&self, token: Token) -> Option<shared::Place> {
        let mailbox = &self.handle.mailbox;
        mailbox.with_shared(|shared| shared.place(token)).flatten()
    }

    /// A message of a share group needs no more: acknowledged, or discarded [MQTT-4.8.2-6].
    pub(super) fn finish_shared(&self, token: Token) {
        let is_durable = self.durable.is_some();
        let finished = self.handle.mailbox.with_shared(|shared| {
            let place = shared.finish(token, is_durable)?;
            Some((place, shared.is_known(token)))
        });
        let shares = &self.node.shares;
        match finished.flatten() {
            Some((place, true)) => shares.done_bound(&self.handle, place),
            Some((place, false)) => shares.done(place),
            None => {}
        }
    }

    /// A retained message is acknowledged.
    fn finish_retained(&mut self) {
        if let Some(retained) = &mut self.retained {
            retained.finish();
            self.settle_retained();
        }
    }

    /// If all retained messages are delivered, the session is told so.
    fn settle_retained(&mut self) {
        let Some(retained) = &mut self.retained else {
            return;
        };
        if let (Some(durable), Some(session), None, true) = (
            &self.durable,
            self.session.session(),
            &self.end,
            self.subscribing.is_idle(),
        ) && let Some(record) = retained.settle(&durable.client, durable.epoch, session)
        {
            let place = Self::place(&self.node, &self.handle, Some(durable));
            self.subscribing.note(place, record);
        }
        if retained.is_over() {
            self.retained = None;
        }
    }

    pub(super) fn place<'a>(
        node: &'a crate::node::Shared,
        handle: &'a Arc<crate::handle::Handle>,
        durable: Option<&'a Durable>,
    ) -> Place<'a> {
        Place {
            cluster: &node.cluster,
            subscribers: &node.subscribers,
            shares: &node.shares,
            handle,
            durable: durable.map(|durable| (&durable.client, durable.epoch)),
        }
    }

    fn count_outcome(&self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => {}
            Outcome::Refused(reason) => debug!(?reason, "the client refused a message"),
            Outcome::TooLarge => self.node.metrics.dropped.count(DropCause::TooLarge, 1),
            Outcome::Expired => self.node.metrics.dropped.count(DropCause::Expired, 1),
        }
    }

    fn count_note(&self, note: Note) {
        match note {
            Note::RetainIgnored | Note::WillRetainIgnored => self.node.note_retain_ignored(),
            Note::QoS0TooLarge => self.node.metrics.dropped.count(DropCause::TooLarge, 1),
            Note::QoS0Expired => self.node.metrics.dropped.count(DropCause::Expired, 1),
            Note::UnknownPacketId => trace!("acknowledgement of an unknown packet id"),
        }
    }
}
