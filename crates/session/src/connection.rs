//! One Network Connection, CONNECT to close.

use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{DecodeError, Packet, ProtocolVersion, QoS, Text};

use crate::{Answer, CloseCause, Delivery, Eviction, Limits, Output, Session, Ticket};

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
/// to be asked before each. Nothing is buffered in here for lack of room: what cannot be taken stays with the driver,
/// in its read buffer or its mailbox, and that is how backpressure works.
///
/// `now` must never go back. After [`Output::Close`] every input is ignored.
#[derive(Debug)]
pub struct Connection {
    limits: Arc<Limits>,
    session: Session,
}

impl Connection {
    /// A connection that was just accepted and waits for CONNECT.
    ///
    /// `connection_id` is a random number that no other connection in the cluster has; a client without a client id
    /// gets one that is made from it.
    pub fn new(limits: Arc<Limits>, connection_id: u128, now: Instant) -> Self {
        let _ = (connection_id, now);
        Self {
            limits,
            session: Session::default(),
        }
    }

    /// Takes a packet from the client. Only to be called while [`wants_packets`](Self::wants_packets).
    pub fn handle_packet(&mut self, packet: Packet, now: Instant) {
        let _ = (packet, now);
    }

    /// The client's bytes are no packet: the connection is refused or closed with the reason [MQTT-4.13.1-1].
    pub fn handle_decode_error(&mut self, error: DecodeError, now: Instant) {
        let _ = (error, now);
    }

    /// Takes the node's answer to an output with this ticket. Late and repeated answers are ignored.
    pub fn handle_answer(&mut self, ticket: Ticket, answer: Answer, now: Instant) {
        let _ = (ticket, answer, now);
    }

    /// Takes a message for the client. Only to be called while [`can_accept`](Self::can_accept) its QoS.
    pub fn handle_delivery(&mut self, delivery: Delivery, now: Instant) {
        let _ = (delivery, now);
    }

    /// Whether a delivery of this QoS can be taken now. At QoS 1 and 2: whether the window is open.
    pub fn can_accept(&self, qos: QoS) -> bool {
        let _ = qos;
        false
    }

    /// Whether the next packet can be taken. While false, the socket is not to be read, and decoded bytes are to wait.
    pub fn wants_packets(&self) -> bool {
        true
    }

    /// Does what is due. To be called at [`poll_timeout`](Self::poll_timeout) or later; too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next. Usually moves later, packet by packet: an
    /// armed timer need not be moved along.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The node ends this connection: a v5 client is told by DISCONNECT (or CONNACK, if it was not let in yet).
    pub fn handle_close(&mut self, why: Eviction, now: Instant) {
        let _ = (why, now);
    }

    /// The socket is gone.
    pub fn handle_disconnected(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// The version that packets are to be encoded for. Until CONNECT, 3.1.1.
    pub fn version(&self) -> ProtocolVersion {
        ProtocolVersion::V3_1_1
    }

    /// The client, once its CONNECT was taken. The assigned id, if it brought none.
    pub fn client_id(&self) -> Option<&Text> {
        None
    }

    /// The largest packet in bytes that the client takes, if it said so.
    pub fn packet_bytes_max(&self) -> Option<u32> {
        None
    }

    /// The number of the attachment, once attached.
    pub fn epoch(&self) -> Option<u64> {
        None
    }

    /// Whether CONNACK with success was sent and the connection is not closed.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// Why it was closed, if it was.
    pub fn close_cause(&self) -> Option<CloseCause> {
        None
    }

    /// What this connection may do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The Session State.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The Session State, for a client that will come back. `None` if the client was never attached.
    pub fn into_session(self) -> Option<Box<Session>> {
        None
    }
}
