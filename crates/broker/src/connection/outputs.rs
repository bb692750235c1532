//! Doing what the session says.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Connect, EncodeError, Message, Packet, PublishHeader, ReasonCode};
use magpie_failpoint::fail_point;
use magpie_session::{Answer, Note, Outcome, Output, Ticket, Token};
use tracing::{debug, trace};

use super::{Driver, End};
use crate::deliver::UNTRACKED;
use crate::durable::Durable;
use crate::metrics::DropCause;
use crate::publish::Outgoing;
use crate::retained;
use crate::shared::{self, is_shared};
use crate::subscribe::Place;
use crate::task;

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
    pub(super) fn settle_retained(&mut self) {
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
