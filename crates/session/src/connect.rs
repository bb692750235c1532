//! CONNECT to CONNACK: who is it, what do we agree on, is there a session.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use magpie_codec::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Packet, ProtocolVersion, ReasonCode,
    Text,
};

use crate::auth::{Exchange, fits};
use crate::established::{Established, Terms};
use crate::ticket::Subject;
use crate::violation::Violation;
use crate::{Answer, Attach, CloseCause, Credentials, Limits, Output, Session, Ticket, will};

/// No CONNACK of ours that lets in is larger, unless it tells response information or authentication data: a handful of numbers and an
/// assigned id.
const CONNACK_BYTES_MAX: u32 = 128;

/// A client whose CONNECT was taken and whose CONNACK was not sent yet.
///
/// ```text
///                 ┌─ AUTH ◄─► AUTH ─┐  of a client that named a method
/// CONNECT ──► Authenticate ──answer──► Attach ──answer──► CONNACK, Established
///    └────────────┴── refused ────────────┴── refused ──► CONNACK with an error, Closed
/// ```
#[derive(Debug)]
pub(crate) struct Connecting {
    step: Step,
    connect: Box<Connect>,
    pub(crate) client_id: Text,
    /// The client brought no id and got one.
    assigned: bool,
    terms: Terms,
    /// When the node must have answered.
    answer_deadline: Option<Instant>,
    /// Of a client that named a method.
    exchange: Option<Box<Exchange>>,
    /// What the method says to the client at its end, for CONNACK.
    last_data: Option<Bytes>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Authenticate,
    Attach,
}

impl Connecting {
    /// Checks what can be checked without the node, and asks it who the client is.
    pub(crate) fn begin(
        mut connect: Box<Connect>,
        limits: &Limits,
        connection_id: u128,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<Self, ReasonCode> {
        let (mut method, mut data) = (None, None);
        if let Some(properties) = &mut connect.properties {
            method = properties.authentication_method.take();
            data = properties.authentication_data.take();
        }
        if method.as_ref().is_some_and(|method| method.is_empty()) {
            // No method has no name. What others there are, the node knows [MQTT-4.12.0-1].
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        let assigned = connect.client_id.is_empty();
        let client_id = if assigned {
            assigned_client_id(&connect, connection_id)?
        } else {
            connect.client_id.compact()
        };
        // [MQTT-3.1.3-5], [MQTT-3.1.3-8], [MQTT-3.1.3-5 v3.1.1], [MQTT-3.1.3-9 v3.1.1]
        if client_id.len() > usize::from(limits.client_id_bytes_max) {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        if let Some(will) = connect.will.take() {
            connect.will = Some(will::admit(*will, connect.version, limits, outputs)?);
        }
        let terms = Terms::agree(&connect, limits);
        let credentials = Credentials {
            version: connect.version,
            client_id: client_id.clone(),
            username: connect.username.take(),
            password: connect.password.take(),
            method: method.as_ref().map(Text::compact),
            data,
        };
        let exchange = credentials.method.clone().map(|method| {
            let max = terms.packet_bytes_max;
            Box::new(Exchange::begin(method, limits.connect_timeout, max, now))
        });
        let connecting = Self {
            step: Step::Authenticate,
            connect,
            client_id,
            assigned,
            terms,
            answer_deadline: now.checked_add(limits.answer_timeout),
            exchange,
            last_data: None,
        };
        if !connecting.can_be_answered(limits) {
            return Err(ReasonCode::ImplementationSpecificError);
        }
        outputs.push_back(Output::Authenticate {
            ticket: Ticket {
                subject: Subject::Authenticate,
                number: 0,
            },
            credentials: Box::new(credentials),
        });
        Ok(connecting)
    }

    /// Whether the client takes a packet as large as its CONNACK, without which it would wait for ever [MQTT-3.1.4-5],
    /// [MQTT-3.1.2-24]. The acknowledgements of single messages are smaller.
    fn can_be_answered(&self, limits: &Limits) -> bool {
        let max = self.terms.packet_bytes_max;
        if max.is_none_or(|max| max.get() >= CONNACK_BYTES_MAX) {
            return true;
        }
        fits(self.terms.version, &self.connack(false, limits), max)
    }

    /// Whether the client is to send AUTH, and may send nothing else but DISCONNECT.
    pub(crate) fn is_challenged(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(|exchange| exchange.is_challenged())
    }

    /// When the node must have answered, or the client.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.exchange {
            Some(exchange) if exchange.is_challenged() => exchange.deadline(),
            _ => self.answer_deadline,
        }
    }

    /// What is due when the deadline has passed.
    pub(crate) fn overdue(&self) -> CloseCause {
        if self.is_challenged() {
            // [MQTT-4.12.0-4]
            CloseCause::Refused(ReasonCode::NotAuthorized)
        } else {
            CloseCause::Unanswered
        }
    }

    /// Takes what a client sends that was challenged.
    pub(crate) fn handle_packet(
        &mut self,
        packet: Packet,
        limits: &Limits,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        match (packet, &mut self.exchange) {
            (Packet::Auth(auth), Some(exchange)) => {
                self.answer_deadline = now.checked_add(limits.answer_timeout);
                Ok(exchange.handle_auth(auth, now, outputs)?)
            }
            (Packet::Disconnect(disconnect), _) => Err(CloseCause::ByClient(disconnect.reason)),
            // [MQTT-3.1.2-30]
            _ => {
                Err(Violation::protocol_error("neither AUTH nor DISCONNECT before CONNACK").into())
            }
        }
    }

    fn connack(&self, session_present: bool, limits: &Limits) -> Packet {
        let packet = |properties| {
            Packet::ConnAck(ConnAck {
                session_present,
                reason: ReasonCode::Success,
                properties,
            })
        };
        let Terms {
            version,
            packet_bytes_max,
            ..
        } = self.terms;
        if !version.has_properties() {
            return packet(None);
        }
        let mut properties = Box::new(self.connack_properties(limits));
        if properties.response_information.is_some()
            && !fits(version, &packet(Some(properties.clone())), packet_bytes_max)
        {
            // [MQTT-3.1.2-24]: of all of them, this is the one that a client can do without.
            properties.response_information = None;
        }
        packet(Some(properties))
    }

    /// To whom asks.
    fn response_information(&self, limits: &Limits) -> Option<Text> {
        let is_wanted = properties(&self.connect)
            .is_some_and(|properties| properties.request_response_information);
        limits
            .response_information(&self.client_id)
            .filter(|_| is_wanted)
    }

    /// Takes one step on. Gives the established connection after the last one.
    pub(crate) fn handle_answer(
        &mut self,
        ticket: Ticket,
        answer: Answer,
        limits: &Arc<Limits>,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Box<Established>>, CloseCause> {
        let awaited = match &self.exchange {
            Some(exchange) if self.step == Step::Authenticate => exchange.awaits(ticket),
            _ => true,
        };
        if !awaited {
            return Ok(None);
        }
        match (&self.step, answer) {
            (Step::Authenticate, Answer::Challenge(data)) => match &mut self.exchange {
                Some(exchange) => exchange.challenge(data, outputs).map(|()| None),
                // [MQTT-4.12.0-6]: nobody would answer.
                None => Err(CloseCause::Refused(ReasonCode::NotAuthorized)),
            },
            (Step::Authenticate, Answer::Authenticated(Ok(data))) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.finish();
                    self.last_data = data;
                    // It is larger now than when CONNECT came [MQTT-3.1.2-24].
                    let connack = self.connack(false, limits);
                    if !fits(self.terms.version, &connack, self.terms.packet_bytes_max) {
                        let reason = ReasonCode::ImplementationSpecificError;
                        return Err(CloseCause::Refused(reason));
                    }
                }
                self.step = Step::Attach;
                self.answer_deadline = now.checked_add(limits.answer_timeout);
                outputs.push_back(Output::Attach {
                    ticket: Ticket {
                        subject: Subject::Attach,
                        number: 0,
                    },
                    attach: Box::new(Attach {
                        client_id: self.client_id.clone(),
                        assigned: self.assigned,
                        // [MQTT-3.1.4-4], [MQTT-3.1.4-3 v3.1.1]
                        clean_start: self.connect.clean_start,
                        session_expiry_s: self.terms.session_expiry_s,
                        // [MQTT-3.1.2-7], [MQTT-3.1.2-8 v3.1.1], [MQTT-3.1.2-12 v3.1.1]
                        will: self.connect.will.take(),
                    }),
                });
                Ok(None)
            }
            // [MQTT-3.1.4-2]
            (Step::Authenticate, Answer::Authenticated(Err(reason)))
            | (Step::Attach, Answer::AttachRefused(reason)) => Err(CloseCause::Refused(reason)),
            (Step::Attach, Answer::Attached { epoch, session }) => {
                Ok(Some(self.establish(epoch, session, limits, now, outputs)))
            }
            _ => Ok(None),
        }
    }

    fn establish(
        &mut self,
        epoch: u64,
        session: Option<Box<Session>>,
        limits: &Arc<Limits>,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Box<Established> {
        // [MQTT-3.2.2-2], [MQTT-3.2.2-3], [MQTT-3.2.2-1 v3.1.1], [MQTT-3.2.2-2 v3.1.1], [MQTT-3.2.2-3 v3.1.1]: set exactly if
        // there is a session.
        let is_resumed = session.is_some();
        // [MQTT-3.1.4-5], [MQTT-3.2.0-1], [MQTT-3.2.0-2], [MQTT-3.1.4-4 v3.1.1], [MQTT-3.2.0-1 v3.1.1]: before
        // anything else, and only here.
        outputs.push_back(Output::Send(self.connack(is_resumed, limits)));
        // [MQTT-3.1.2-5], [MQTT-3.1.2-6], [MQTT-3.1.2-4 v3.1.1]
        let session = session.map_or_else(Session::default, |session| *session);
        let mut established = Box::new(Established::new(
            Arc::clone(limits),
            self.terms,
            epoch,
            session,
            is_resumed,
            self.exchange.take(),
            now,
        ));
        established.resume(now, outputs);
        established
    }

    fn connack_properties(&self, limits: &Limits) -> ConnAckProperties {
        let terms = &self.terms;
        ConnAckProperties {
            session_expiry_interval_s: (terms.session_expiry_s != terms.session_expiry_asked_s)
                .then_some(terms.session_expiry_s),
            receive_maximum: NonZeroU16::new(limits.receive_maximum)
                .filter(|max| *max < NonZeroU16::MAX),
            // [MQTT-3.2.2-9]
            maximum_qos: limits.qos_max,
            retain_available: limits.retain_available,
            maximum_packet_size: NonZeroU32::new(limits.packet_bytes_max),
            // [MQTT-3.2.2-16], [MQTT-3.1.3-7]
            assigned_client_identifier: self.assigned.then(|| self.client_id.clone()),
            topic_alias_maximum: limits.topic_aliases_in_max,
            wildcard_subscription_available: limits.wildcards_available,
            subscription_identifiers_available: limits.subscription_ids_available,
            shared_subscription_available: limits.shared_available,
            // [MQTT-3.1.2-21]: the client has to follow ours.
            server_keep_alive_s: (terms.keep_alive_s != self.connect.keep_alive_s)
                .then_some(terms.keep_alive_s),
            // [MQTT-3.1.2-28]
            response_information: self.response_information(limits),
            // [MQTT-4.12.0-5], [MQTT-4.12.0-6]
            authentication_method: self.exchange.as_ref().map(|it| it.method().clone()),
            authentication_data: self.last_data.clone(),
            ..ConnAckProperties::default()
        }
    }
}

impl Terms {
    /// What the client asked, cut to the limits.
    fn agree(connect: &Connect, limits: &Limits) -> Self {
        let version = connect.version;
        let defaults = ConnectProperties::default();
        let properties = properties(connect).unwrap_or(&defaults);
        let session_expiry_asked_s = match version {
            ProtocolVersion::V5 => properties.session_expiry_interval_s,
            // Clean Session 0: the session lasts, and nobody says how long [MQTT-3.1.2-4 v3.1.1].
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 if connect.clean_start => 0,
            ProtocolVersion::V3_1 | ProtocolVersion::V3_1_1 => u32::MAX,
        };
        let too_long = connect.keep_alive_s == 0 || connect.keep_alive_s > limits.keep_alive_s_max;
        let keep_alive_s = if version.has_properties() && limits.keep_alive_s_max > 0 && too_long {
            limits.keep_alive_s_max
        } else {
            // [MQTT-3.2.2-22]
            connect.keep_alive_s
        };
        Self {
            version,
            keep_alive_s,
            session_expiry_asked_s,
            session_expiry_s: session_expiry_asked_s.min(limits.session_expiry_s_max),
            // [MQTT-4.9.0-1]
            window: limits
                .inflight_max
                .min(properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get))
                .max(1),
            topic_aliases_out_max: limits
                .topic_aliases_out_max
                .min(properties.topic_alias_maximum),
            packet_bytes_max: properties.maximum_packet_size,
            problem_information: properties.request_problem_information,
        }
    }
}

/// An id for a client that brought none, if it may.
fn assigned_client_id(connect: &Connect, connection_id: u128) -> Result<Text, ReasonCode> {
    match connect.version {
        // [MQTT-3.1.3-6], [MQTT-3.1.3-7], [MQTT-3.1.3-6 v3.1.1]
        ProtocolVersion::V5 => {}
        // [MQTT-3.1.3-7 v3.1.1], [MQTT-3.1.3-8 v3.1.1]: only with Clean Session 1.
        ProtocolVersion::V3_1_1 if connect.clean_start => {}
        ProtocolVersion::V3_1_1 | ProtocolVersion::V3_1 => {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
    }
    Ok(Text::try_from(format!("magpie-{connection_id:032x}"))
        .expect("hexadecimal digits are a text"))
}

fn properties(connect: &Connect) -> Option<&ConnectProperties> {
    connect.properties.as_deref()
}
