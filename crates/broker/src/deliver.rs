//! Delivery on this node: from a message to the mailboxes of those who subscribed to it.

use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Message, QoS, TopicFilter, TopicName};
use magpie_router::{CacheLimits, MatchCache};
use magpie_session::{Delivery, Token};
use magpie_state::{ClientId, PartitionId, Position};

use crate::clock;
use crate::mailbox::{Pushed, Wakes};
use crate::metrics::{DropCause, Metrics};
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

/// The token of a delivery that no session is to remember: it did not come from a log.
pub(crate) const UNTRACKED: Token = Token {
    partition: u16::MAX,
    position: 0,
};

/// A message to be delivered, from whichever way it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published<'a> {
    /// In the log of its topic's partition; `None` if it came another way.
    pub(crate) position: Option<Position>,
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
            position: None,
            publisher,
            qos,
            retain,
            expires_at: clock::expires_at(message, published_ms),
            message,
        }
    }

    /// The same, from the log.
    pub(crate) const fn at(self, position: Position) -> Self {
        Self {
            position: Some(position),
            ..self
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
        let mut push = |receiver: &Receiver| {
            dropped.count(match published.position {
                Some(position) if !receiver.is_whole_at(position) => {
                    // It subscribed while this very entry was being delivered.
                    let (topic, number) = (&found.topic, receiver.handle.number);
                    let then =
                        subscribers.find_at(topic, found.partition, number, position.index());
                    then.map_or(Pushed::Queued, |receiver| {
                        push(&receiver, published, found.partition, wakes)
                    })
                }
                _ => push(receiver, published, found.partition, wakes),
            });
        };
        // [MQTT-4.5.0-1], [MQTT-4.6.0-5], [MQTT-4.6.0-6], [MQTT-4.5.0-1 v3.1.1], [MQTT-4.6.0-5 v3.1.1],
        // [MQTT-4.6.0-6 v3.1.1]: to all, message by message.
        match &found.receivers {
            Receivers::Few(few) => few.iter().for_each(push),
            Receivers::Crowd => subscribers.for_each_of_crowd(&found.topic, &mut push),
        }
    }

    /// Delivers to a member of a share group on this node.
    pub(crate) fn deliver_to_any_member(&mut self, filter: &TopicFilter, published: Published<'_>) {
        let receiver = self.subscribers.pick_member(filter);
        self.deliver_to_one(receiver, published);
    }

    fn deliver_to_one(&mut self, receiver: Option<Receiver>, published: Published<'_>) {
        match receiver {
            Some(receiver) => {
                // The group keeps no place for a member: what it does not acknowledge is not remembered.
                let published = Published {
                    position: None,
                    ..published
                };
                let pushed = push(&receiver, published, PartitionId(0), &mut self.wakes);
                self.dropped.count(pushed);
            }
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
            self.metrics
                .dropped
                .count(DropCause::MailboxFull, mailbox_full);
            self.metrics.mailbox_overflows.increment(overflowed);
            self.metrics
                .dropped
                .count(DropCause::NoShareMember, no_member);
        }
    }

    /// Where this task counts.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
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
            Pushed::Queued | Pushed::Deferred | Pushed::Closed => {}
            Pushed::Dropped => self.mailbox_full += 1,
            Pushed::Overflowed => self.overflowed += 1,
        }
    }
}

fn push(
    receiver: &Receiver,
    published: Published<'_>,
    partition: PartitionId,
    wakes: &mut Wakes,
) -> Pushed {
    let Some(grant) = receiver.grant(published.publisher) else {
        return Pushed::Queued;
    };
    let delivery = Delivery {
        message: Arc::clone(published.message),
        // [MQTT-3.8.4-8], [MQTT-4.8.2-3], [MQTT-3.8.4-6 v3.1.1]
        qos: published.qos.min(grant.qos),
        // [MQTT-3.3.1-12], [MQTT-3.3.1-13], [MQTT-3.3.1-9 v3.1.1]
        retain: published.retain && grant.retain_as_published,
        subscription_ids: grant.ids.clone(),
        token: published.position.map_or(UNTRACKED, |position| Token {
            partition: partition.0,
            position: position.0,
        }),
        expires_at: published.expires_at,
    };
    receiver.handle.mailbox.deliver(delivery, wakes)
}

#[cfg(test)]
mod tests;
