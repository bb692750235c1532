//! Doing what the session says, and telling it what the node answers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use magpie_cluster::{Attach, Attached};
use magpie_codec::{Connect, EncodeError, Message, Packet, PublishHeader, ReasonCode};
use magpie_router::CacheLimits;
use magpie_session::{Answer, Eviction, Note, Outcome, Output, Ticket};
use magpie_state::{ClientId, Epoch};
use tracing::{debug, trace};

use super::{Driver, End};
use crate::deliver::Deliverer;
use crate::handle::Greeting;
use crate::mailbox::Post;
use crate::publish::{self, Outgoing, Publisher};
use crate::subscribe::Place;
use crate::{attach, task};

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
            Output::Send(packet) => self.send(&packet),
            Output::Deliver { header, message } => self.send_message(&header, &message),
            Output::Authenticate {
                ticket,
                credentials,
            } => {
                let answer = Answer::Authenticated(self.authentication.authenticate(&credentials));
                self.session.handle_answer(ticket, answer, now);
            }
            Output::Attach { ticket, attach } => self.attach(ticket, *attach),
            Output::Publish {
                ticket,
                qos,
                retain,
                packet_id: _,
                message,
            } => self.publish(Outgoing {
                ticket,
                qos,
                retain,
                message,
            }),
            Output::Release { ticket, .. } => {
                self.session.handle_answer(ticket, Answer::Released, now);
            }
            // Only asked for sessions that outlive their connection, of which there are none.
            Output::Bind { ticket, .. } => {
                self.session.handle_answer(ticket, Answer::Bound, now);
            }
            Output::Received { ticket, .. } => {
                self.session
                    .handle_answer(ticket, Answer::ReceivedStored, now);
            }
            Output::Subscribe {
                ticket,
                subscriptions,
            } => {
                let place = Self::place(&self.node, &self.handle);
                self.subscribing.subscribe(place, ticket, subscriptions);
            }
            Output::Unsubscribe { ticket, filters } => {
                self.subscribing.unsubscribe(ticket, filters);
                self.answer_subscribes(now);
            }
            Output::Delivered { outcome, .. } => self.count_outcome(outcome),
            Output::Note(note) => self.count_note(note),
            Output::Close {
                cause,
                will_discarded,
                ..
            } => {
                let will = self.will.take().filter(|_| !will_discarded);
                self.end = Some(End { cause, will });
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
            Err(EncodeError::TooLarge) => self.node.metrics.dropped_too_large.increment(1),
            Err(error) => debug!(%error, "message not sent"),
        }
    }

    /// Notes who the client is, when its CONNECT comes.
    pub(super) fn greet(&mut self, connect: &Connect) {
        self.keep_alive_s = connect.keep_alive_s;
    }

    fn attach(&mut self, ticket: Ticket, wanted: magpie_session::Attach) {
        let client = ClientId(wanted.client_id.compact());
        self.handle.greet(Greeting {
            client: client.clone(),
            version: self.session.version(),
            keep_alive_s: self.keep_alive_s,
        });
        self.will = wanted.will;
        self.node.registry.enter(&client, &self.handle);
        let attach = Attach {
            client,
            clean_start: wanted.clean_start,
            // Sessions end with their connection as yet, and wills are published from here.
            session_expiry_s: 0,
            will: None,
        };
        let cluster = self.node.cluster.clone();
        task::spawn(attach::run(
            cluster,
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

    /// Takes an answer of the node.
    pub(super) fn handle_post(&mut self, post: Post, now: Instant) {
        match post {
            Post::Published { tickets, submitted } => {
                for (ordinal, ticket) in tickets.into_iter().enumerate() {
                    match publish::answer_to_submitted(&submitted, ordinal) {
                        Some(answer) => self.session.handle_answer(ticket, answer, now),
                        None => self.session.handle_close(Eviction::TakenOver, now),
                    }
                }
            }
            Post::Forwarded { tickets, outcome } => {
                for ticket in tickets {
                    self.session
                        .handle_answer(ticket, publish::answer_to_forwarded(outcome), now);
                }
            }
            Post::Attached { ticket, result } => self.attached(ticket, result, now),
            Post::Watched { number, outcomes } => {
                self.subscribing.watched(number, outcomes);
                self.answer_subscribes(now);
            }
        }
        self.drain(now);
    }

    fn attached(&mut self, ticket: Ticket, result: Result<Attached, ReasonCode>, now: Instant) {
        let attached = match result {
            Ok(attached) => attached,
            Err(reason) => {
                return self
                    .session
                    .handle_answer(ticket, Answer::AttachRefused(reason), now);
            }
        };
        let Some(client) = self.handle.client() else {
            return;
        };
        // A newer connection may have been heard of while this one attached.
        let is_newest = self
            .node
            .registry
            .attached(client, &self.handle, attached.epoch);
        if !is_newest {
            return self.session.handle_close(Eviction::TakenOver, now);
        }
        self.publisher = Some(Box::new(self.new_publisher(client.clone(), attached.epoch)));
        self.append = Some(self.handle.mailbox.begin_append());
        let answer = Answer::Attached {
            epoch: attached.epoch.0,
            session: None,
        };
        self.session.handle_answer(ticket, answer, now);
    }

    fn new_publisher(&self, client: ClientId, epoch: Epoch) -> Publisher {
        let node = &self.node;
        let deliverer = Deliverer::new(
            Arc::clone(&node.subscribers),
            CACHE,
            Arc::clone(&node.metrics),
        );
        Publisher::new(client, epoch, &self.handle, deliverer)
    }

    fn answer_subscribes(&mut self, now: Instant) {
        let place = Self::place(&self.node, &self.handle);
        while let Some((ticket, answer)) = self.subscribing.next_answer(place) {
            self.session.handle_answer(ticket, answer, now);
        }
    }

    pub(super) fn place<'a>(
        node: &'a crate::node::Shared,
        handle: &'a Arc<crate::handle::Handle>,
    ) -> Place<'a> {
        Place {
            cluster: &node.cluster,
            subscribers: &node.subscribers,
            handle,
        }
    }

    fn count_outcome(&self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => {}
            Outcome::Refused(reason) => debug!(?reason, "the client refused a message"),
            Outcome::TooLarge => self.node.metrics.dropped_too_large.increment(1),
            Outcome::Expired => self.node.metrics.dropped_expired.increment(1),
        }
    }

    fn count_note(&self, note: Note) {
        match note {
            Note::RetainIgnored | Note::WillRetainIgnored => self.node.note_retain_ignored(),
            Note::QoS0TooLarge => self.node.metrics.dropped_too_large.increment(1),
            Note::QoS0Expired => self.node.metrics.dropped_expired.increment(1),
            Note::UnknownPacketId => trace!("acknowledgement of an unknown packet id"),
        }
    }
}
