//! Delivery on this node: from a message to the mailboxes of those who subscribed to it.

use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Message, QoS, TopicFilter, TopicName};
use magpie_router::{CacheLimits, MatchCache};
use magpie_session::{Delivery, Token};
use magpie_state::ClientId;

use crate::clock;
use crate::mailbox::{Pushed, Wakes};
use crate::metrics::Metrics;
use crate::subscribers::{Found, Receiver, Receivers, Subscribers};

/// Delivers messages, burst by burst. Each task that delivers owns one, with a cache of its own, so that topics that come again take
/// no lock but those of the mailboxes.
#[derive(Debug)]
pub(crate) struct Deliverer {
    subscribers: Arc<Subscribers>,
    cache: MatchCache<Found>,
    wakes: Wakes,
    dropped: Dropped,
    metrics: Arc<Metrics>,
}

/// A message to be delivered, from whichever way it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published<'a> {
    /// For No Local.
    pub(crate) publisher: &'a ClientId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) message: &'a Arc<Message>,
}

/// Deliveries that did not reach a mailbox, since the last report.
#[derive(Debug, Default)]
struct Dropped {
    mailbox_full: u64,
    overflowed: u64,
    no_member: u64,
}

impl<'a> Published<'a> {
    pub(crate) fn new(
        publisher: &'a ClientId,
        qos: QoS,
        retain: bool,
        published_ms: u64,
        message: &'a Arc<Message>,
    ) -> Self {
        Self {
            publisher,
            qos,
            retain,
            expires_at: clock::expires_at(message, published_ms),
            message,
        }
    }
}

impl Deliverer {
    pub(crate) fn new(
        subscribers: Arc<Subscribers>,
        cache: CacheLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            subscribers,
            cache: MatchCache::new(cache),
            wakes: Wakes::default(),
            dropped: Dropped::default(),
            metrics,
        }
    }

    /// Who gets messages to `topic`, as far as is known now.
    pub(crate) fn find(&mut self, topic: &TopicName) -> Arc<Found> {
        let subscribers = &self.subscribers;
        let generation = subscribers.generation();
        self.cache
            .get_or_find(topic, generation, || subscribers.find(topic))
    }

    /// Delivers to all plain subscribers.
    pub(crate) fn deliver(&mut self, published: Published<'_>) {
        let found = self.find(&published.message.topic);
        self.deliver_to(&found, published);
    }

    /// Delivers to those that [`find`](Self::find) found just before.
    pub(crate) fn deliver_to(&mut self, found: &Found, published: Published<'_>) {
        let Self {
            subscribers,
            wakes,
            dropped,
            ..
        } = self;
        let mut push = |receiver: &Receiver| dropped.count(push(receiver, published, wakes));
        match &found.receivers {
            Receivers::Few(few) => few.iter().for_each(push),
            Receivers::Crowd => subscribers.for_each_of_crowd(&found.topic, &mut push),
        }
    }

    /// Delivers to the member of a share group that was chosen elsewhere; if it has left meanwhile, to another one here.
    pub(crate) fn deliver_to_member(
        &mut self,
        filter: &TopicFilter,
        member: u64,
        published: Published<'_>,
    ) {
        let receiver = self.subscribers.member_or_other(filter, member);
        self.deliver_to_one(receiver, published);
    }

    /// Delivers to a member of a share group on this node.
    pub(crate) fn deliver_to_any_member(&mut self, filter: &TopicFilter, published: Published<'_>) {
        let receiver = self.subscribers.pick_member(filter);
        self.deliver_to_one(receiver, published);
    }

    fn deliver_to_one(&mut self, receiver: Option<Receiver>, published: Published<'_>) {
        match receiver {
            Some(receiver) => self
                .dropped
                .count(push(&receiver, published, &mut self.wakes)),
            None => self.dropped.no_member += 1,
        }
    }

    /// Ends a burst: wakes the receivers and reports what was dropped. Must not be forgotten, or messages wait for the next burst.
    pub(crate) fn flush(&mut self) {
        self.wakes.flush();
        let Dropped {
            mailbox_full,
            overflowed,
            no_member,
        } = std::mem::take(&mut self.dropped);
        if mailbox_full + overflowed + no_member > 0 {
            self.metrics.dropped_mailbox_full.increment(mailbox_full);
            self.metrics.mailbox_overflows.increment(overflowed);
            self.metrics.dropped_no_member.increment(no_member);
        }
    }

    /// Whether [`shrink`](Self::shrink) would give anything back.
    pub(crate) fn has_cache(&self) -> bool {
        !self.cache.is_empty()
    }

    /// Gives back the memory of an idle task.
    pub(crate) fn shrink(&mut self) {
        self.cache.clear();
    }
}

impl Dropped {
    fn count(&mut self, pushed: Pushed) {
        match pushed {
            // A connection that is going gets nothing more, and that is no loss to count.
            Pushed::Queued | Pushed::Closed => {}
            Pushed::Dropped => self.mailbox_full += 1,
            Pushed::Overflowed => self.overflowed += 1,
        }
    }
}

fn push(receiver: &Receiver, published: Published<'_>, wakes: &mut Wakes) -> Pushed {
    let Some(grant) = receiver.grant(published.publisher) else {
        return Pushed::Queued;
    };
    let delivery = Delivery {
        message: Arc::clone(published.message),
        // [MQTT-3.8.4-8]
        qos: published.qos.min(grant.qos),
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
        retain: published.retain && grant.retain_as_published,
        subscription_ids: grant.ids.clone(),
        token: Token::default(),
        expires_at: published.expires_at,
    };
    receiver.handle.mailbox.deliver(delivery, wakes)
}

#[cfg(test)]
mod tests;
