//! What the node tells a [`Connection`](crate::Connection): answers to its questions, and messages for the client.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use magpie_codec::{Message, QoS, ReasonCode};
use smallvec::SmallVec;

use crate::Session;

/// The node's answer to a question of the same name in [`Output`](crate::Output).
#[derive(Debug)]
pub enum Answer {
    /// To `Authenticate` and `AuthenticateOn`: it is who it says, and is told this, which only a method of enhanced
    /// authentication has. The code of a refusal goes into CONNACK, or into DISCONNECT if the client was let in before.
    Authenticated(Result<Option<Bytes>, ReasonCode>),
    /// To `Authenticate` of a client that named a method, and to `AuthenticateOn`: the client is to answer this, by AUTH.
    Challenge(Option<Bytes>),
    /// To `Attach`: this is now the client's one connection.
    Attached {
        /// The number of this attachment; higher than any before it for the client.
        epoch: u64,
        /// The state that was kept for the client. CONNACK says Session Present exactly if there is one
        /// [MQTT-3.2.2-2], [MQTT-3.2.2-3], and its unacknowledged packets are sent again. `None` after a clean start.
        session: Option<Box<Session>>,
    },
    /// To `Attach`: not now, or not here. The code goes into CONNACK.
    AttachRefused(ReasonCode),
    /// To `Publish`: the message is safe, or (`Err`, an error code) certainly not taken. A 3.x client cannot be told
    /// the latter, so its connection is closed instead of a false success. A code below 0x80 in `Ok`, such as
    /// [`ReasonCode::NoMatchingSubscribers`], is passed on.
    Published(Result<ReasonCode, ReasonCode>),
    /// To `Publish`: nobody knows. The connection is closed without an acknowledgement, so that the client repeats.
    PublishUnknown,
    /// To `Release`: done.
    Released,
    /// To `Bind`: the binding is safe.
    Bound,
    /// To `Received`: it is safe that the client has the message.
    ReceivedStored,
    /// To `Subscribe`: for each subscription, in order, the granted QoS or an error. Messages that are committed from
    /// here on reach the subscription.
    Subscribed(Vec<ReasonCode>),
    /// To `Unsubscribe`: for each filter, in order, 0x00, 0x11 or an error.
    Unsubscribed(Vec<ReasonCode>),
}

/// The node's name for a message: its place in the log of its partition. Opaque to the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The number of the partition.
    pub partition: u16,
    /// The place in the partition's log.
    pub position: u64,
}

/// A message for the client. Handed in only when [`Connection::can_accept`](crate::Connection::can_accept).
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message, shared with all other receivers.
    pub message: Arc<Message>,
    /// The QoS of this delivery: the lower one of the message's and the subscription's [MQTT-3.8.4-8].
    pub qos: QoS,
    /// The RETAIN flag of this delivery, after Retain As Published [MQTT-3.3.1-12], [MQTT-3.3.1-13].
    pub retain: bool,
    /// The identifiers of all matching subscriptions that have one.
    pub subscription_ids: SmallVec<[u32; 1]>,
    /// The node's name for the message; comes back in [`Output::Delivered`](crate::Output::Delivered). Not used at
    /// QoS 0.
    pub token: Token,
    /// When the message expires, if ever. The client is told the seconds that are left when it is sent.
    pub expires_at: Option<Instant>,
}
