//! A connection after its CONNACK: the dispatcher of what the client may send.
//!
//! Each arm calls one function in the file of its subject, which says by its error that the connection ends.

mod deliver;
mod handshake;
mod publish;
mod resume;
mod subscribe;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Disconnect, Packet, PacketId, ProtocolVersion, ReasonCode, TopicFilter};

use self::handshake::Handshakes;
use self::publish::{OpenPublish, OpenRelease};
use self::subscribe::{Asked, OpenSubscribe};
use crate::auth::{Exchange, refused_again};
use crate::in_order::InOrder;
use crate::keep_alive::KeepAlive;
use crate::packet_ids::PacketIds;
use crate::ticket::Subject;
use crate::topic_alias::{InboundAliases, OutboundAliases};
use crate::violation::Violation;
use crate::{Answer, CloseCause, Limits, Output, Session, Ticket};

/// Room for outputs that an idle connection keeps.
const OUTPUTS_KEPT: usize = 4;

/// What client and server agreed on by CONNECT and CONNACK.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) version: ProtocolVersion,
    /// 0 is off.
    pub(crate) keep_alive_s: u16,
    pub(crate) session_expiry_asked_s: u32,
    /// As asked, cut to our limit.
    pub(crate) session_expiry_s: u32,
    /// QoS 1 and 2 messages that may be on their way to the client.
    pub(crate) window: u16,
    pub(crate) topic_aliases_out_max: u16,
    /// The largest packet that the client takes.
    pub(crate) packet_bytes_max: Option<NonZeroU32>,
    /// Whether the client wants to hear reasons in words.
    pub(crate) problem_information: bool,
}

#[derive(Debug)]
pub(crate) struct Established {
    limits: Arc<Limits>,
    pub(crate) terms: Terms,
    pub(crate) epoch: u64,
    pub(crate) session: Session,
    /// Whether an earlier connection may have left more than `session` knows.
    is_resumed: bool,
    pub(crate) keep_alive: KeepAlive,
    aliases_in: InboundAliases,
    aliases_out: OutboundAliases,

    /// The client's QoS 1 and 2 PUBLISHes that were not answered with PUBACK or PUBREC yet.
    publishes: InOrder<OpenPublish, Result<ReasonCode, ReasonCode>>,
    /// The ids of those in `publishes` that are QoS 2 and wait for the node.
    publishing: PacketIds,
    /// How many PUBLISHes the client has sent beyond what we let it forget: never above our Receive Maximum (v5).
    receive_quota_used: u16,
    /// Oldest first.
    releases: VecDeque<OpenRelease>,
    next_release: u32,
    subscribes: InOrder<OpenSubscribe, Vec<ReasonCode>>,
    /// What will be of the filters in `subscribes` when all are answered with success.
    asked: HashMap<TopicFilter, Asked>,
    /// What the session may grow by when `subscribes` are answered.
    asked_new: usize,
    /// What an earlier connection sent and this one has to send again, oldest first. What the client acknowledges
    /// before stays in here and is passed over.
    resends: VecDeque<PacketId>,
    /// Once there was a QoS 2 delivery in a session that outlives its connection.
    handshakes: Option<Box<Handshakes>>,
    /// Of a client that named a method of authentication.
    exchange: Option<Box<Exchange>>,
}

impl Established {
    pub(crate) fn new(
        limits: Arc<Limits>,
        terms: Terms,
        epoch: u64,
        mut session: Session,
        is_resumed: bool,
        exchange: Option<Box<Exchange>>,
        now: Instant,
    ) -> Self {
        session.expiry_s = terms.session_expiry_s;
        Self {
            // [MQTT-3.3.2-7]: each connection begins without aliases.
            aliases_in: InboundAliases::new(limits.topic_aliases_in_max),
            aliases_out: OutboundAliases::new(terms.topic_aliases_out_max),
            keep_alive: KeepAlive::new(terms.keep_alive_s, now),
            limits,
            terms,
            epoch,
            session,
            is_resumed,
            publishes: InOrder::default(),
            publishing: PacketIds::default(),
            receive_quota_used: 0,
            releases: VecDeque::new(),
            next_release: 0,
            subscribes: InOrder::default(),
            asked: HashMap::new(),
            asked_new: 0,
            resends: VecDeque::new(),
            handshakes: None,
            exchange,
        }
    }

    pub(crate) fn handle_packet(
        &mut self,
        packet: Packet,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        self.keep_alive.heard(now);
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, now, outputs),
            Packet::PubRel(ack) => self.handle_pubrel(ack.packet_id, now, outputs),
            Packet::PubAck(ack) => self.handle_puback(&ack, now, outputs),
            Packet::PubRec(ack) => self.handle_pubrec(&ack, now, outputs),
            Packet::PubComp(ack) => self.handle_pubcomp(&ack, now, outputs),
            Packet::Subscribe(subscribe) => self.handle_subscribe(subscribe, now, outputs),
            Packet::Unsubscribe(unsubscribe) => self.handle_unsubscribe(unsubscribe, now, outputs),
            Packet::PingReq => {
                // [MQTT-3.12.4-1], [MQTT-3.12.4-1 v3.1.1]
                outputs.push_back(Output::Send(Packet::PingResp));
                // A client that pings had nothing else to say: a good time to be small.
                self.shrink();
                outputs.shrink_to(OUTPUTS_KEPT);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.handle_disconnect(&disconnect)),
            // [MQTT-3.1.0-2], [MQTT-3.1.0-2 v3.1.1]
            Packet::Connect(_) => Err(Violation::protocol_error("second CONNECT").into()),
            Packet::Auth(auth) => match &mut self.exchange {
                // What else it sends meanwhile goes on as before (section 4.12.1).
                Some(exchange) => Ok(exchange.handle_auth(auth, now, outputs)?),
                // [MQTT-4.12.0-7]
                None => {
                    Err(Violation::protocol_error("AUTH without an authentication method").into())
                }
            },
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Violation::protocol_error("packet that only a server sends").into())
            }
        }
    }

    pub(crate) fn handle_answer(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        match (ticket.subject, answer) {
            (Subject::Authenticate, answer) => self.handle_authenticated(ticket, answer, outputs),
            (Subject::Publish, Answer::Published(outcome)) => {
                self.handle_published(ticket.number, outcome, outputs)
            }
            (Subject::Publish, Answer::PublishUnknown)
                if self.publishes.question(ticket.number).is_some() =>
            {
                Err(CloseCause::Unanswered)
            }
            (Subject::Release, Answer::Released) => {
                self.handle_released(ticket.number, outputs);
                Ok(())
            }
            (Subject::Bind, Answer::Bound) => {
                self.handle_bound(ticket.number, now, outputs);
                Ok(())
            }
            (Subject::Received, Answer::ReceivedStored) => {
                self.handle_received_stored(ticket.number, outputs);
                Ok(())
            }
            (Subject::Subscribe, Answer::Subscribed(reasons)) => {
                self.handle_subscribed(ticket.number, reasons, outputs);
                Ok(())
            }
            (Subject::Subscribe, Answer::Unsubscribed(reasons)) => {
                self.handle_unsubscribed(ticket.number, reasons, outputs);
                Ok(())
            }
            // Not open any more, or never was.
            _ => Ok(()),
        }
    }

    /// The node's word on a client that shows again who it is.
    fn handle_authenticated(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let exchange = self.exchange.as_mut();
        let Some(exchange) = exchange.filter(|exchange| exchange.awaits(ticket)) else {
            return Ok(());
        };
        match answer {
            Answer::Challenge(data) => exchange.challenge(data, outputs),
            Answer::Authenticated(Ok(data)) => exchange.finish_again(data, outputs),
            Answer::Authenticated(Err(reason)) => Err(refused_again(reason)),
            _ => Ok(()),
        }
    }

    /// How the connection ends by a DISCONNECT of the client.
    fn handle_disconnect(&mut self, disconnect: &Disconnect) -> CloseCause {
        let properties = disconnect.properties.as_deref();
        if let Some(expiry_s) =
            properties.and_then(|properties| properties.session_expiry_interval_s)
        {
            // Section 3.14.2.2.2: what CONNECT said was to end with the connection cannot be kept by DISCONNECT.
            if self.terms.session_expiry_asked_s == 0 && expiry_s > 0 {
                return Violation::protocol_error("session expiry interval raised from 0").into();
            }
            self.session.expiry_s = expiry_s.min(self.limits.session_expiry_s_max);
        }
        CloseCause::ByClient(disconnect.reason)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), CloseCause> {
        if self.answer_deadline().is_some_and(|at| now >= at) {
            return Err(CloseCause::Unanswered);
        }
        if self.exchange_deadline().is_some_and(|at| now >= at) {
            return Err(CloseCause::Refused(ReasonCode::NotAuthorized));
        }
        if self.keep_alive.is_due(now) {
            return Err(CloseCause::KeepAliveTimeout);
        }
        Ok(())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.answer_deadline()
            .into_iter()
            .chain(self.keep_alive.deadline())
            .chain(self.exchange_deadline())
            .min()
    }

    fn exchange_deadline(&self) -> Option<Instant> {
        self.exchange.as_ref()?.deadline()
    }

    /// Backpressure: what is past these is left in the socket.
    pub(crate) fn wants_packets(&self) -> bool {
        let receive_maximum = usize::from(self.receive_maximum());
        // A v5 client knows our Receive Maximum, so one packet more is read, to see whether it keeps to it; its PINGREQ
        // must get through as well. An older client does not know, and is made to wait.
        let publishes_max = if self.terms.version.has_properties() {
            receive_maximum + 1
        } else {
            receive_maximum
        };
        self.publishes.len() < publishes_max
            && self.releases.len() < receive_maximum
            && self.subscribes.len() < usize::from(self.limits.subscribes_pending_max).max(1)
    }

    fn receive_maximum(&self) -> u16 {
        self.limits.receive_maximum.max(1)
    }

    /// When the oldest open question must have been answered. The first of each queue is open, and the oldest.
    fn answer_deadline(&self) -> Option<Instant> {
        let publish = self.publishes.front().map(|publish| publish.asked_at);
        let release = self.releases.front().map(|release| release.asked_at);
        let subscribe = self.subscribes.front().map(|subscribe| subscribe.asked_at);
        let handshake = self.handshakes.as_ref().and_then(|it| it.oldest_asked_at());
        let questions = [publish, release, subscribe, handshake];
        // [MQTT-4.8.0-2 v3.1.1]: a node that does not answer ends the connection.
        let oldest = questions.into_iter().flatten().min()?;
        oldest.checked_add(self.limits.answer_timeout)
    }

    fn shrink(&mut self) {
        self.session.shrink();
        self.publishing.shrink();
        self.publishes.shrink();
        self.subscribes.shrink();
        self.releases.shrink_to(0);
        self.asked.shrink_to(0);
        self.resends.shrink_to(0);
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.shrink();
        }
    }
}
