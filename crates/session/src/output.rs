//! What a [`Connection`](crate::Connection) asks its driver to do.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use magpie_codec::{
    Message, Packet, PacketId, ProtocolVersion, PublishHeader, QoS, ReasonCode,
    SubscriptionOptions, Text, TopicFilter, Will,
};

use crate::{CloseCause, Ticket, Token};

/// One thing to do. Outputs are to be done in the order in which they are polled.
///
/// What carries a [`Ticket`] is a question to the node, answered by
/// [`Connection::handle_answer`](crate::Connection::handle_answer) in any order and at any later time; the driver goes
/// on meanwhile. The acknowledgement that the client waits for leaves only after the answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Encode the packet for [`version`](crate::Connection::version) and write it. If it is larger than the client
    /// takes ([`packet_bytes_max`](crate::Connection::packet_bytes_max)), the codec leaves out reason string and user
    /// properties.
    Send(Packet),
    /// Write a PUBLISH to the client.
    Deliver {
        /// What is this delivery's own.
        header: PublishHeader,
        /// What all receivers share.
        message: Arc<Message>,
    },
    /// Is this client who it says? Answer: [`Answer::Authenticated`](crate::Answer::Authenticated).
    Authenticate {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// What the client showed.
        credentials: Box<Credentials>,
    },
    /// An AUTH of the client: the next step of the method that its CONNECT named (section 4.12). Answer:
    /// [`Answer::Challenge`](crate::Answer::Challenge) or [`Answer::Authenticated`](crate::Answer::Authenticated).
    AuthenticateOn {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// Authentication Data.
        data: Option<Bytes>,
        /// Whether a client that is let in begins the exchange anew; else it goes on.
        begins: bool,
    },
    /// Make this the client's one connection in the cluster, and find its session. Answer:
    /// [`Answer::Attached`](crate::Answer::Attached) or [`Answer::AttachRefused`](crate::Answer::AttachRefused).
    Attach {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// Who wants what.
        attach: Box<Attach>,
    },
    /// An Application Message of the client.
    Publish {
        /// To be handed back with [`Answer::Published`](crate::Answer::Published) or
        /// [`Answer::PublishUnknown`](crate::Answer::PublishUnknown). `None` at QoS 0, which has no answer.
        ticket: Option<Ticket>,
        /// The QoS that the client chose.
        qos: QoS,
        /// Whether the message is also to be kept for its topic. Never set when
        /// [`Limits::retain_available`](crate::Limits::retain_available) is false.
        retain: bool,
        /// At QoS 2 the packet id, by which a repeat on a later connection of the session is known.
        packet_id: Option<PacketId>,
        /// The message.
        message: Arc<Message>,
    },
    /// At QoS 2, the client has released this packet id: a later PUBLISH with it is a new message. Answer:
    /// [`Answer::Released`](crate::Answer::Released). Only asked for sessions that outlive their connection, or that
    /// began with an earlier one; the ids of the others end with it.
    Release {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// The id of the PUBLISH.
        packet_id: PacketId,
        /// Whether this connection saw the PUBLISH, or the [`Session`](crate::Session) that it began with. If not, an
        /// earlier connection of the session may have: the id is to be released wherever it may be known.
        known: bool,
    },
    /// The [`Delivery`](crate::Delivery) of this name, of QoS 2, is to go out under this packet id: to be made safe, so
    /// that whoever resumes the session sends it under the same id. It replaces an earlier binding of the id, whose
    /// delivery is done. Answer: [`Answer::Bound`](crate::Answer::Bound); the PUBLISH leaves after it. Only asked for
    /// sessions that outlive their connection.
    Bind {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// As the PUBLISH will have it.
        packet_id: PacketId,
        /// The delivery's.
        token: Token,
    },
    /// The client has the message that was bound to this packet id: to be made safe, so that whoever resumes the
    /// session does not send it again, but PUBREL [MQTT-4.3.3-5]. Answer:
    /// [`Answer::ReceivedStored`](crate::Answer::ReceivedStored); PUBREL leaves after it. Only asked for sessions that
    /// outlive their connection.
    Received {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// The id of the PUBREC.
        packet_id: PacketId,
    },
    /// Make or replace subscriptions. Answer: [`Answer::Subscribed`](crate::Answer::Subscribed).
    Subscribe {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// In the client's order, at least one. The same filter may occur twice; the last one counts.
        subscriptions: Vec<Subscription>,
    },
    /// End subscriptions. Answer: [`Answer::Unsubscribed`](crate::Answer::Unsubscribed).
    Unsubscribe {
        /// To be handed back with the answer.
        ticket: Ticket,
        /// In the client's order, at least one.
        filters: Vec<TopicFilter>,
    },
    /// A [`Delivery`](crate::Delivery) of QoS 1 or 2 needs no more: its place in the window is free. Comes exactly
    /// once for each, unless the connection closes first.
    Delivered {
        /// The delivery's.
        token: Token,
        /// How it ended.
        outcome: Outcome,
    },
    /// Something to count, and perhaps to log once.
    Note(Note),
    /// Write what is queued, close the socket, and release what the node holds for this connection (also when
    /// tickets are open: their answers are of no interest any more). Always the last output.
    Close {
        /// Why.
        cause: CloseCause,
        /// Whether the client took its Will back: true exactly after DISCONNECT with 0x00 [MQTT-3.14.4-3]. Else the
        /// Will that was handed over with `Attach` is due, if the client was attached: after its Will Delay Interval
        /// or with the end of the session, and unless the client comes back before [MQTT-3.1.2-8].
        will_discarded: bool,
        /// How long the session is to be kept from now on, in seconds, cut to
        /// [`Limits::session_expiry_s_max`](crate::Limits::session_expiry_s_max). 0 if the client was never attached.
        session_expiry_s: u32,
        /// Whether DISCONNECT made `session_expiry_s` another than `Attach` said.
        session_expiry_changed: bool,
    },
}

/// What a client showed to prove who it is. `Debug` shows neither password nor data.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The version that it speaks.
    pub version: ProtocolVersion,
    /// Its client id, or the one that it will get.
    pub client_id: Text,
    /// User Name.
    pub username: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// Of enhanced authentication, never empty: the method that proves who it is, in place of the password.
    pub method: Option<Text>,
    /// Authentication Data, the first of the method's exchange.
    pub data: Option<Bytes>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("method", &self.method)
            .finish()
    }
}

/// A client that wants to be attached to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The client; never empty.
    pub client_id: Text,
    /// Whether the id was made from [`Connection::new`](crate::Connection::new)'s `connection_id`, so that nobody
    /// else can have it.
    pub assigned: bool,
    /// The client wants to begin anew: an existing session is to be ended.
    pub clean_start: bool,
    /// How long the session is to be kept after the connection, in seconds, cut to
    /// [`Limits::session_expiry_s_max`](crate::Limits::session_expiry_s_max). 0: not at all; `u32::MAX`: for ever.
    pub session_expiry_s: u32,
    /// The Will Message of this connection [MQTT-3.1.2-7], in allocations of its own. It replaces the one of the
    /// connection before, also when there is none.
    pub will: Option<Box<Will>>,
}

/// One filter of a SUBSCRIBE that passed the session's checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The filter.
    pub filter: TopicFilter,
    /// Its options; the QoS cut to [`Limits::qos_max`](crate::Limits::qos_max).
    pub options: SubscriptionOptions,
    /// The v5 Subscription Identifier to be sent with each message.
    pub id: Option<u32>,
    /// Whether the session has this subscription already: its options and id are replaced, no message is lost
    /// [MQTT-3.8.4-4], and Retain Handling 1 sends nothing.
    pub replaces: bool,
}

/// How a delivery of QoS 1 or 2 ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// PUBACK or PUBCOMP came.
    Acknowledged,
    /// The client answered with this error; the message is not sent again.
    Refused(ReasonCode),
    /// The packet was larger than the client takes: discarded as if sent [MQTT-3.1.2-25].
    TooLarge,
    /// Its Message Expiry Interval passed before it was sent [MQTT-3.3.2-5].
    Expired,
}

/// A fact for counters and logs. None changes what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A 3.x client set RETAIN on a PUBLISH, which is not available; the message is published without.
    RetainIgnored,
    /// A 3.x client set Will Retain, which is not available; the Will will be published without.
    WillRetainIgnored,
    /// A QoS 0 delivery was larger than the client takes, and dropped [MQTT-3.1.2-25].
    QoS0TooLarge,
    /// A QoS 0 delivery had expired, and was dropped [MQTT-3.3.2-5].
    QoS0Expired,
    /// The client acknowledged a packet id that is not in use. Happens after a lost acknowledgement.
    UnknownPacketId,
}
