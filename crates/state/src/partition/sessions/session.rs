//! One client's row: its connection, its stored Session, or both. Small, since there are millions; what few have is boxed.

use std::sync::Arc;

use magpie_codec::{SubscriptionOptions, Text, TopicFilter};

use super::cursors;
use crate::record::StoredSubscription;
use crate::{ClientId, Cursor, Epoch, Inflight, PartitionId, Position, StreamId};

/// Time on the partition's clock that never comes.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Box<str>,
    /// Epoch of the attach that created it.
    pub(super) incarnation: Epoch,
    pub(super) expiry_s: u32,
    /// It had an expiry once: something may be stored of it, here and in the partitions of topics.
    pub(super) is_durable: bool,
    pub(super) attachment: Option<Box<Attachment>>,
    /// When it ends, in milliseconds of the partition's clock, while nothing is attached.
    pub(super) ends_at: u64,
    /// Ordered by filter.
    pub(super) subscriptions: Box<[Subscription]>,
    /// Of its own, by partition, ascending. A member of a cohort is at the cohort's floors, if they are higher.
    pub(super) cursors: Box<[Cursor]>,
    pub(super) rare: Option<Box<Rare>>,
    /// User name that it belongs to, never empty; counted in [`Owners`](super::owners::Owners).
    pub(super) owner: Option<Arc<str>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) epoch: Epoch,
    pub(super) holder: StreamId,
    /// Member of the holder's cohort.
    pub(super) is_joined: bool,
    pub(super) will: Option<Will>,
    /// The one before, whose delay ran when this connection came. It is due again if nobody ever used this one.
    pub(super) displaced: Option<DelayedWill>,
}

/// A Will Message of a connection.
#[derive(Debug)]
pub(super) struct Will {
    pub(super) delay_s: u32,
    /// The publish record that it becomes.
    pub(super) record: Box<[u8]>,
}

/// A Will Message whose delay runs.
#[derive(Debug)]
pub(super) struct DelayedWill {
    /// In milliseconds of the partition's clock.
    pub(super) due: u64,
    pub(super) record: Box<[u8]>,
}

/// What few Sessions have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// In the order of the first sending. May hold ones that are done by now: see [`Session::prune`].
    pub(super) inflight: Vec<Inflight>,
    pub(super) will: Option<DelayedWill>,
    /// Messages that limits have taken from it.
    pub(super) lost: u64,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) filter: Box<str>,
    pub(super) options: SubscriptionOptions,
    pub(super) id: Option<u32>,
    pub(super) since: Box<[(PartitionId, Position)]>,
}

impl Session {
    pub(super) fn new(client: &ClientId, incarnation: Epoch, expiry_s: u32) -> Self {
        Self {
            client: (&*client.0).into(),
            incarnation,
            expiry_s,
            is_durable: expiry_s > 0,
            attachment: None,
            ends_at: NEVER,
            subscriptions: Box::default(),
            cursors: Box::default(),
            rare: None,
            owner: None,
        }
    }

    pub(super) fn owner(&self) -> Option<Text> {
        let owner = self.owner.as_deref()?;
        Some(Text::try_from(owner).expect("it was a user name"))
    }

    pub(super) fn client_id(&self) -> ClientId {
        ClientId(Text::try_from(&*self.client).expect("it was a client id"))
    }

    pub(super) fn attached(&self) -> Option<(Epoch, StreamId)> {
        let attachment = self.attachment.as_ref()?;
        Some((attachment.epoch, attachment.holder))
    }

    /// When the clock next matters to it.
    pub(super) fn next_due(&self) -> u64 {
        if self.attachment.is_some() {
            return NEVER;
        }
        let will = self.rare.as_ref().and_then(|rare| rare.will.as_ref());
        self.ends_at.min(will.map_or(NEVER, |will| will.due))
    }

    pub(super) fn inflight(&self) -> &[Inflight] {
        self.rare.as_ref().map_or(&[], |rare| &rare.inflight)
    }

    pub(super) fn set_inflight(&mut self, inflight: Vec<Inflight>) {
        if !inflight.is_empty() || self.rare.is_some() {
            self.rare.get_or_insert_default().inflight = inflight;
            self.drop_rare();
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.lost)
    }

    pub(super) fn add_lost(&mut self, messages: u64) {
        if messages > 0 {
            let lost = &mut self.rare.get_or_insert_default().lost;
            *lost = lost.saturating_add(messages);
        }
    }

    pub(super) fn take_delayed_will(&mut self) -> Option<DelayedWill> {
        let will = self.rare.as_mut()?.will.take();
        self.drop_rare();
        will
    }

    fn drop_rare(&mut self) {
        if let Some(rare) = &mut self.rare {
            if rare.inflight.is_empty() && rare.will.is_none() && rare.lost == 0 {
                self.rare = None;
            } else {
                rare.inflight.shrink_to_fit();
            }
        }
    }

    pub(super) fn subscription(&self, filter: &str) -> Option<&Subscription> {
        let at = self.position_of(filter).ok()?;
        Some(&self.subscriptions[at])
    }

    /// Where a filter is among the subscriptions, or would be.
    pub(super) fn position_of(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions
            .binary_search_by(|subscription| (*subscription.filter).cmp(filter))
    }

    /// Drops what was in flight and is done, and cursors that say no more than the subscriptions do.
    pub(super) fn prune(&mut self) {
        if !self.inflight().is_empty() {
            let mut inflight = self.inflight().to_vec();
            inflight.retain(|it| !cursors::is_over(&self.cursors, it));
            self.set_inflight(inflight);
        }
        let says_something = |cursor: &Cursor| {
            let concerned = self.subscriptions.iter();
            let since = concerned.filter_map(|it| it.since(cursor.partition)).min();
            since.is_some_and(|since| cursor.floor > since || !cursor.done.is_empty())
        };
        if !self.cursors.iter().all(says_something) {
            let mut kept = self.cursors.to_vec();
            kept.retain(says_something);
            self.cursors = kept.into();
        }
    }
}

impl Subscription {
    pub(super) fn new(stored: &StoredSubscription) -> Self {
        Self {
            filter: stored.filter.as_str().into(),
            options: stored.options,
            id: stored.id,
            since: stored.since.as_slice().into(),
        }
    }

    pub(super) fn stored(&self) -> StoredSubscription {
        StoredSubscription {
            filter: self.topic_filter(),
            options: self.options,
            id: self.id,
            since: self.since.to_vec(),
        }
    }

    pub(super) fn topic_filter(&self) -> TopicFilter {
        TopicFilter::try_from(&*self.filter).expect("it was a topic filter")
    }

    /// Above which position messages of a partition belong to it; `None`: it has none there.
    pub(super) fn since(&self, partition: PartitionId) -> Option<Position> {
        let listed = self.since.iter().find(|(of, _)| *of == partition);
        match listed {
            Some((_, position)) => Some(*position),
            // A filter with a wildcard concerns every partition.
            None => self.filter.contains(['+', '#']).then_some(Position::START),
        }
    }

    /// Messages of a partition up to a place do not belong to it any more.
    pub(super) fn begin_behind(&mut self, partition: PartitionId, upto: Position) {
        if self.since(partition).is_none_or(|since| since >= upto) {
            return;
        }
        let mut all = std::mem::take(&mut self.since).into_vec();
        match all.iter_mut().find(|(of, _)| *of == partition) {
            Some((_, since)) => *since = upto,
            None => all.push((partition, upto)),
        }
        all.sort_unstable();
        self.since = all.into();
    }

    /// Whether messages wait for it while nobody is connected: at QoS 0 none does, and those of a share group wait for the group.
    pub(super) fn holds_messages(&self) -> bool {
        self.options.qos > magpie_codec::QoS::AtMostOnce && !self.filter.starts_with("$share/")
    }
}
