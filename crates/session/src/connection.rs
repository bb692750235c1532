//! One Network Connection, CONNECT to close.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{
    ConnAck, ConnAckProperties, Connect, DecodeError, Disconnect, DisconnectProperties, Packet,
    PacketType, ProtocolVersion, QoS, ReasonCode, Text,
};

use crate::auth::fits;
use crate::connect::Connecting;
use crate::established::Established;
use crate::reason::carried_by;
use crate::ticket::Subject;
use crate::violation::Violation;
use crate::{Answer, CloseCause, Delivery, Eviction, Limits, Output, Session, Ticket, will};

/// The server's side of one MQTT conversation.
///
/// A pure machine: it owns no socket, task or clock. Its driver's loop is
///
/// 1. wait for one input: a packet (only while [`wants_packets`](Self::wants_packets)), an answer, a message (only
///    while [`can_accept`](Self::can_accept)), a timeout ([`poll_timeout`](Self::poll_timeout)), an order to close, or
///    the end of the socket;
/// 2. feed it by its `handle_*`;
/// 3. call [`poll_output`](Self::poll_output) until `None`, doing what each says, in order;
/// 4. again, until [`Output::Close`].
///
/// Several inputs may be fed before draining (all packets of one read, say), but `wants_packets` and `can_accept` are
/// to be asked before each: one that is fed in spite of them ends the connection. Nothing is buffered in here for lack
/// of room: what cannot be taken stays with the driver, in its read buffer or its mailbox, and that is how
/// backpressure works.
///
/// `now` must never go back. After [`Output::Close`] every input is ignored.
///
/// ```text
/// AwaitingConnect ──CONNECT──► Connecting ──CONNACK──► Established
///        └───────────────────────────┴──────────────────────┴──────► Closed
/// ```
#[derive(Debug)]
pub struct Connection {
    limits: Arc<Limits>,
    connection_id: u128,
    version: ProtocolVersion,
    client_id: Option<Text>,
    /// As CONNECT said. Kept to the end, for the DISCONNECT.
    packet_bytes_max: Option<NonZeroU32>,
    outputs: VecDeque<Output>,
    /// As the driver says.
    is_reading_paused: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitingConnect {
        deadline: Option<Instant>,
    },
    Connecting(Box<Connecting>),
    Established(Box<Established>),
    Closed {
        cause: CloseCause,
        session: Option<Box<Session>>,
    },
}

impl Connection {
    /// A connection that was just accepted and waits for CONNECT.
    ///
    /// `connection_id` is a random number that no other connection in the cluster has; a client without a client id
    /// gets one that is made from it.
    pub fn new(limits: Arc<Limits>, connection_id: u128, now: Instant) -> Self {
        let deadline = now.checked_add(limits.connect_timeout);
        Self {
            limits,
            connection_id,
            version: ProtocolVersion::V3_1_1,
            client_id: None,
            packet_bytes_max: None,
            outputs: VecDeque::new(),
            is_reading_paused: false,
            state: State::AwaitingConnect { deadline },
        }
    }

    /// Takes a packet from the client. Only to be called while [`wants_packets`](Self::wants_packets).
    pub fn handle_packet(&mut self, packet: Packet, now: Instant) {
        if !self.wants_packets() {
            return self.close(CloseCause::Evicted(Eviction::QuotaExceeded));
        }
        let result = match &mut self.state {
            State::Established(established) => {
                established.handle_packet(packet, now, &mut self.outputs)
            }
            State::AwaitingConnect { .. } => match packet {
                Packet::Connect(connect) => self.handle_connect(connect, now),
                // [MQTT-3.1.0-1], [MQTT-3.1.0-1 v3.1.1]
                _ => Err(Violation::protocol_error("first packet is not CONNECT").into()),
            },
            State::Connecting(connecting) => {
                connecting.handle_packet(packet, &self.limits, now, &mut self.outputs)
            }
            State::Closed { .. } => Ok(()),
        };
        self.settle(result, now);
    }

    fn handle_connect(&mut self, connect: Box<Connect>, now: Instant) -> Result<(), CloseCause> {
        self.version = connect.version;
        self.packet_bytes_max = connect
            .properties
            .as_ref()
            .and_then(|properties| properties.maximum_packet_size);
        let connecting = Connecting::begin(
            connect,
            &self.limits,
            self.connection_id,
            now,
            &mut self.outputs,
        );
        let connecting = Box::new(connecting.map_err(CloseCause::Refused)?);
        self.client_id = Some(connecting.client_id.clone());
        self.state = State::Connecting(connecting);
        Ok(())
    }

    /// The client's bytes are no packet: the connection is refused or closed with the reason
    /// [MQTT-4.13.1-1], [MQTT-4.8.0-1 v3.1.1].
    pub fn handle_decode_error(&mut self, error: DecodeError, now: Instant) {
        let violation = match (&self.state, error.packet) {
            // [MQTT-3.1.0-2]: whatever is wrong with it.
            (State::Established(_), Some(PacketType::Connect)) => {
                Violation::protocol_error("second CONNECT")
            }
            _ => Violation::new(error.reason, error.what),
        };
        if let (State::AwaitingConnect { .. }, Some(version)) = (&self.state, error.answer_in) {
            // [MQTT-3.1.2-2], [MQTT-3.1.4-1]: CONNACK says why, where the version has a code for it.
            if error.packet == Some(PacketType::Connect) {
                self.version = version;
                self.push_refusal(error.reason);
            }
        }
        self.settle(Err(violation.into()), now);
    }

    /// Takes the node's answer to an output with this ticket. Late and repeated answers are ignored.
    pub fn handle_answer(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let result = match &mut self.state {
            State::Established(established) => {
                established.handle_answer(ticket, answer, now, &mut self.outputs)
            }
            State::Connecting(connecting) => {
                if !matches!(ticket.subject, Subject::Authenticate | Subject::Attach) {
                    return;
                }
                match connecting.handle_answer(ticket, answer, &self.limits, now, &mut self.outputs)
                {
                    Ok(Some(established)) => {
                        self.state = State::Established(established);
                        Ok(())
                    }
                    Ok(None) => Ok(()),
                    Err(cause) => Err(cause),
                }
            }
            State::AwaitingConnect { .. } | State::Closed { .. } => Ok(()),
        };
        self.settle(result, now);
    }

    /// Takes a message for the client. Only to be called while [`can_accept`](Self::can_accept) its QoS.
    pub fn handle_delivery(&mut self, delivery: Delivery, now: Instant) {
        if !self.can_accept(delivery.qos) {
            return self.close(CloseCause::Evicted(Eviction::QuotaExceeded));
        }
        if let State::Established(established) = &mut self.state {
            established.handle_delivery(delivery, now, &mut self.outputs);
        }
    }

    /// Whether a delivery of this QoS can be taken now. At QoS 1 and 2: whether the window is open.
    pub fn can_accept(&self, qos: QoS) -> bool {
        matches!(&self.state, State::Established(established) if established.can_accept(qos))
    }

    /// Whether the next packet can be taken. While false, the socket is not to be read, and decoded bytes are to wait.
    pub fn wants_packets(&self) -> bool {
        match &self.state {
            State::AwaitingConnect { .. } => true,
            // [MQTT-3.1.4-6], [MQTT-3.1.4-5 v3.1.1]: nothing after CONNECT is processed unless the client is let in, but
            // the AUTH that it was asked for.
            State::Connecting(connecting) => connecting.is_challenged(),
            State::Established(established) => established.wants_packets(),
            State::Closed { .. } => false,
        }
    }

    /// The driver does not read the socket for reasons of its own, or reads it again. While it does not, a client is not
    /// closed for its silence, which is ours; then it has a full period again. While
    /// [`wants_packets`](Self::wants_packets) is false this holds anyhow.
    pub fn set_reading_paused(&mut self, is_paused: bool, now: Instant) {
        if self.is_reading_paused != is_paused {
            self.is_reading_paused = is_paused;
            self.settle(Ok(()), now);
        }
    }

    /// Does what is due. To be called at [`poll_timeout`](Self::poll_timeout) or later; too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let result = match &mut self.state {
            State::AwaitingConnect { deadline: Some(at) } if now >= *at => {
                Err(CloseCause::ConnectTimeout)
            }
            State::Connecting(connecting) if connecting.deadline().is_some_and(|at| now >= at) => {
                Err(connecting.overdue())
            }
            State::Established(established) => established.handle_timeout(now),
            State::AwaitingConnect { .. } | State::Connecting(_) | State::Closed { .. } => Ok(()),
        };
        self.settle(result, now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next. To be asked after every input, but a timer
    /// needs to be armed anew only for an earlier instant: most inputs just move it later, and a timer that fires too
    /// early does nothing but ask again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::AwaitingConnect { deadline } => *deadline,
            State::Connecting(connecting) => connecting.deadline(),
            State::Established(established) => established.poll_timeout(),
            State::Closed { .. } => None,
        }
    }

    /// The node ends this connection: a v5 client is told by DISCONNECT (or CONNACK, if it was not let in yet).
    pub fn handle_close(&mut self, why: Eviction, now: Instant) {
        self.settle(Err(CloseCause::Evicted(why)), now);
    }

    /// The socket is gone.
    pub fn handle_disconnected(&mut self, now: Instant) {
        self.settle(Err(CloseCause::Lost), now);
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What every input ends with.
    fn settle(&mut self, result: Result<(), CloseCause>, now: Instant) {
        if let Err(cause) = result {
            return self.close(cause);
        }
        if let State::Established(established) = &mut self.state {
            let paused = self.is_reading_paused || !established.wants_packets();
            established.keep_alive.set_paused(paused, now);
        }
    }

    /// Says goodbye as the version and the state allow, and ends.
    fn close(&mut self, cause: CloseCause) {
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        let closed = State::Closed {
            cause,
            session: None,
        };
        let mut session_expiry_s = 0;
        let mut session_expiry_changed = false;
        // [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-4.13.2-1], [MQTT-3.2.2-7], [MQTT-3.2.2-5 v3.1.1]: after the goodbye
        // of this nothing is sent, and the last output is the close.
        let session = match std::mem::replace(&mut self.state, closed) {
            State::Established(established) => {
                self.push_disconnect(cause, established.terms.problem_information);
                let Established {
                    mut session, terms, ..
                } = *established;
                // It was never sent: who resumes the session begins anew with it.
                session.inflight.remove_unbound();
                session_expiry_s = session.expiry_s;
                session_expiry_changed = session_expiry_s != terms.session_expiry_s;
                Some(Box::new(session))
            }
            State::Connecting(_) => {
                self.push_refusal_of(cause);
                None
            }
            State::AwaitingConnect { .. } => {
                // [MQTT-3.14.0-1]: no DISCONNECT before CONNACK.
                // A CONNECT that was refused at once; of other clients nothing is known.
                if let CloseCause::Refused(_) = cause {
                    self.push_refusal_of(cause);
                }
                None
            }
            State::Closed { .. } => None,
        };
        self.state = State::Closed { cause, session };
        self.outputs.push_back(Output::Close {
            cause,
            will_discarded: will::is_discarded_by(cause),
            session_expiry_s,
            session_expiry_changed,
        });
    }

    /// CONNACK for a client that is not let in.
    fn push_refusal_of(&mut self, cause: CloseCause) {
        match cause {
            CloseCause::Refused(reason) | CloseCause::Violation { reason, .. } => {
                self.push_refusal(reason)
            }
            CloseCause::Evicted(Eviction::ShuttingDown) if self.is_sent_elsewhere() => {
                self.push_refusal(ReasonCode::UseAnotherServer)
            }
            CloseCause::Evicted(why) => self.push_refusal(why.connack_reason()),
            CloseCause::Unanswered => self.push_refusal(ReasonCode::ServerUnavailable),
            CloseCause::ByClient(_)
            | CloseCause::Lost
            | CloseCause::ConnectTimeout
            | CloseCause::KeepAliveTimeout
            | CloseCause::PublishRefused(_) => {}
        }
    }

    fn push_refusal(&mut self, reason: ReasonCode) {
        // [MQTT-3.2.2-6 v3.1.1]
        // Before version 5 there is no return code for a CONNECT that breaks the protocol: closed without a word
        // [MQTT-3.1.4-1 v3.1.1].
        let unsaid = matches!(
            reason,
            ReasonCode::MalformedPacket | ReasonCode::ProtocolError | ReasonCode::PacketTooLarge
        );
        if !self.version.has_properties() && unsaid {
            return;
        }
        let properties = (reason == ReasonCode::UseAnotherServer).then(|| {
            Box::new(ConnAckProperties {
                server_reference: self.limits.server_reference.clone(),
                ..ConnAckProperties::default()
            })
        });
        // [MQTT-3.2.2-6], [MQTT-3.2.2-4 v3.1.1]: no session with an error.
        let mut connack = ConnAck {
            session_present: false,
            reason: carried_by(PacketType::ConnAck, reason),
            properties,
        };
        // [MQTT-3.1.2-24]: the reason matters more than where to go.
        if connack.properties.is_some() && !self.is_taken(&Packet::ConnAck(connack.clone())) {
            connack.properties = None;
        }
        self.outputs
            .push_back(Output::Send(Packet::ConnAck(connack)));
    }

    /// DISCONNECT, where the version has one from the server and there is something to say.
    fn push_disconnect(&mut self, cause: CloseCause, problem_information: bool) {
        let (reason, what) = match cause {
            CloseCause::Violation { reason, what } => (reason, Some(what)),
            CloseCause::Evicted(Eviction::ShuttingDown) if self.is_sent_elsewhere() => {
                (ReasonCode::UseAnotherServer, None)
            }
            CloseCause::Evicted(why) => (why.reason(), None),
            CloseCause::KeepAliveTimeout => (ReasonCode::KeepAliveTimeout, None),
            CloseCause::Unanswered => (ReasonCode::ServerBusy, None),
            CloseCause::Refused(reason) | CloseCause::PublishRefused(reason) => (reason, None),
            CloseCause::ByClient(_) | CloseCause::Lost | CloseCause::ConnectTimeout => return,
        };
        if !self.version.has_properties() {
            return;
        }
        // [MQTT-3.1.2-29], [MQTT-3.14.2-2]: no other packet of ours has a reason string, and none a session expiry.
        let what = what.filter(|_| problem_information);
        let goes_elsewhere = reason == ReasonCode::UseAnotherServer;
        let properties = (what.is_some() || goes_elsewhere).then(|| {
            let server_reference = self.limits.server_reference.clone();
            Box::new(DisconnectProperties {
                reason_string: what.map(Text::from_static),
                server_reference: server_reference.filter(|_| goes_elsewhere),
                ..DisconnectProperties::default()
            })
        });
        let mut disconnect = Disconnect {
            reason: carried_by(PacketType::Disconnect, reason),
            properties,
        };
        // [MQTT-3.1.2-24]: the reason matters more than where to go. A reason string is left out by the codec.
        if goes_elsewhere && !self.is_taken(&Packet::Disconnect(disconnect.clone())) {
            disconnect.properties = None;
        }
        self.outputs
            .push_back(Output::Send(Packet::Disconnect(disconnect)));
    }

    /// Whether the client takes a packet of this size.
    fn is_taken(&self, packet: &Packet) -> bool {
        fits(self.version, packet, self.packet_bytes_max)
    }

    /// Whether a client that is sent away is told where to.
    fn is_sent_elsewhere(&self) -> bool {
        self.version.has_properties() && self.limits.server_reference.is_some()
    }

    /// The version that packets are to be encoded for. Until CONNECT, 3.1.1.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The client, once its CONNECT was taken. The assigned id, if it brought none.
    pub fn client_id(&self) -> Option<&Text> {
        self.client_id.as_ref()
    }

    /// The largest packet in bytes that the client takes, if it said so.
    pub fn packet_bytes_max(&self) -> Option<u32> {
        self.packet_bytes_max.map(NonZeroU32::get)
    }

    /// The number of the attachment, while connected.
    pub fn epoch(&self) -> Option<u64> {
        match &self.state {
            State::Established(established) => Some(established.epoch),
            State::AwaitingConnect { .. } | State::Connecting(_) | State::Closed { .. } => None,
        }
    }

    /// Whether CONNACK with success was sent and the connection is not closed.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// Why it was closed, if it was.
    pub fn close_cause(&self) -> Option<CloseCause> {
        match &self.state {
            State::Closed { cause, .. } => Some(*cause),
            State::AwaitingConnect { .. } | State::Connecting(_) | State::Established(_) => None,
        }
    }

    /// What this connection may do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The Session State, once the client was attached.
    pub fn session(&self) -> Option<&Session> {
        match &self.state {
            State::Established(established) => Some(&established.session),
            State::Closed { session, .. } => session.as_deref(),
            State::AwaitingConnect { .. } | State::Connecting(_) => None,
        }
    }

    /// The Session State of a closed connection, for a client that will come back. `None` if the client was never
    /// attached.
    pub fn into_session(self) -> Option<Box<Session>> {
        match self.state {
            State::Closed { session, .. } => session,
            State::AwaitingConnect { .. } | State::Connecting(_) | State::Established(_) => None,
        }
    }
}
