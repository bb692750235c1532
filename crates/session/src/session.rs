//! The Session State: what can outlive a Network Connection.

use std::collections::HashMap;

use magpie_codec::{SubscriptionOptions, TopicFilter};

use crate::inflight::Inflight;
use crate::packet_ids::PacketIds;

/// What the server keeps of one client between connections (section 4.1).
///
/// Handed to the connection by [`Answer::Attached`](crate::Answer::Attached), taken back by
/// [`Connection::into_session`](crate::Connection::into_session). Messages that wait for the client are not in here:
/// they are the node's, which knows what was delivered by the tokens.
#[derive(Debug, Default)]
pub struct Session {
    /// Sent to the client and not acknowledged.
    pub(crate) inflight: Inflight,
    /// QoS 2 PUBLISHes that were taken from the client and not released yet.
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

impl Session {
    /// How long the session is to be kept after its connection, in seconds. 0: not at all; `u32::MAX`: for ever.
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
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

    /// QoS 2 PUBLISHes of the client that were taken and not released.
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
