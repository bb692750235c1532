//! The Session State: what can outlive a Network Connection.

use std::collections::HashMap;

use magpie_codec::{PacketId, QoS, SubscriptionOptions, TopicFilter};

use crate::inflight::{Inflight, Step};
use crate::packet_ids::PacketIds;
use crate::{Published, Token};

/// What the server keeps of one client between connections (section 4.1).
///
/// Handed to the connection by [`Answer::Attached`](crate::Answer::Attached), taken back by
/// [`Connection::into_session`](crate::Connection::into_session). Messages that wait for the client are not in here:
/// they are the node's, which knows what was delivered by the tokens. A delivery that was handed in, is not in
/// [`inflight`](Self::inflight) after the connection closed, and was not told as
/// [`Delivered`](crate::Output::Delivered) is to be handed in again.
#[derive(Debug, Default)]
pub struct Session {
    /// Sent to the client and not acknowledged.
    pub(crate) inflight: Inflight,
    /// QoS 2 PUBLISHes that were taken from the client and not released yet, as far as known here.
    pub(crate) received: PacketIds,
    pub(crate) subscriptions: HashMap<TopicFilter, SubscriptionState>,
    pub(crate) expiry_s: u32,
}

/// A subscription that the node granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionState {
    /// Its options, with the granted QoS.
    pub options: SubscriptionOptions,
    /// The v5 Subscription Identifier.
    pub id: Option<u32>,
}

/// A delivery of QoS 1 or 2 of an earlier connection, to be resumed: a part of [`Session::restore`].
#[derive(Debug, Clone)]
pub struct Restored {
    /// The id under which it was sent. At QoS 2 bound to the message in safety.
    pub packet_id: PacketId,
    /// The node's name for the message.
    pub token: Token,
    /// How far it came.
    pub stage: RestoredStage,
}

/// How far a [`Restored`] delivery came.
#[derive(Debug, Clone)]
pub enum RestoredStage {
    /// The client may have it. It is sent again.
    Published(Published),
    /// At QoS 2, the client has it, and this is safe. PUBREL is sent again.
    Released,
}

/// A delivery of QoS 1 or 2 that the client has not acknowledged to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unacknowledged {
    /// The id under which it was sent.
    pub packet_id: PacketId,
    /// The delivery's.
    pub token: Token,
    /// 1 or 2.
    pub qos: QoS,
    /// How far it came.
    pub stage: Stage,
}

/// How far an [`Unacknowledged`] delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The PUBLISH was sent, and nobody can rely on the client having it.
    Published,
    /// At QoS 2, the client has it, and the node knows: only PUBREL is to be sent again.
    Released,
}

impl Session {
    /// The Session State of a client whose last connection was perhaps on another node.
    ///
    /// `inflight` is in the order in which it was first sent. Of two deliveries with one packet id, which cannot be,
    /// the first counts. QoS 2 PUBLISHes of the client that were taken and not released are not in here: the
    /// partitions know them.
    pub fn restore(
        expiry_s: u32,
        subscriptions: impl IntoIterator<Item = (TopicFilter, SubscriptionState)>,
        inflight: Vec<Restored>,
    ) -> Self {
        let mut session = Self {
            subscriptions: subscriptions.into_iter().collect(),
            expiry_s,
            ..Self::default()
        };
        for Restored {
            packet_id,
            token,
            stage,
        } in inflight
        {
            let published = match stage {
                RestoredStage::Published(published) => Some(published),
                RestoredStage::Released => None,
            };
            session.inflight.restore(packet_id, token, published);
        }
        session
    }

    /// What the client has not acknowledged, in the order in which it was sent; what is released, in the order of
    /// the PUBRECs.
    ///
    /// This is what the node may rely on: a QoS 2 delivery whose packet id is not bound in safety was never sent and
    /// is left out, and one whose PUBREC is not stored yet counts as published. While questions are open, what is
    /// stored may be further than this: a binding that is stored and neither in here nor done is to be resumed, too,
    /// after the others.
    pub fn inflight(&self) -> impl ExactSizeIterator<Item = Unacknowledged> {
        let mut entries = self.inflight.in_order();
        entries.retain(|entry| entry.step() != Step::Unbound);
        entries.into_iter().map(|entry| Unacknowledged {
            packet_id: entry.packet_id,
            token: entry.token,
            qos: entry.qos(),
            stage: match entry.step() {
                Step::Unbound | Step::Waiting | Step::Published | Step::Received => {
                    Stage::Published
                }
                Step::Released => Stage::Released,
            },
        })
    }

    /// How long the session is to be kept after its connection, in seconds. 0: not at all; `u32::MAX`: for ever.
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// One of the granted subscriptions.
    pub fn subscription(&self, filter: &TopicFilter) -> Option<&SubscriptionState> {
        self.subscriptions.get(filter)
    }

    /// The granted subscriptions, in no order.
    pub fn subscriptions(
        &self,
    ) -> impl ExactSizeIterator<Item = (&TopicFilter, &SubscriptionState)> {
        self.subscriptions.iter()
    }

    /// Deliveries of QoS 1 and 2 that are not acknowledged.
    pub fn inflight_len(&self) -> usize {
        self.inflight.len()
    }

    /// QoS 2 PUBLISHes of the client that were taken and not released, without those of a restored session's earlier
    /// connections.
    pub fn received_len(&self) -> usize {
        self.received.len()
    }

    /// Whether the session is to be kept when its connection ends.
    pub(crate) fn is_durable(&self) -> bool {
        self.expiry_s > 0
    }

    /// Gives memory back that a burst took.
    pub(crate) fn shrink(&mut self) {
        self.inflight.shrink();
        self.received.shrink();
    }
}
