//! Who on this node gets a message: the local subscriptions, and how several of one connection come together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use magpie_codec::{QoS, ReasonCode, SubscriptionOptions, TopicFilter, TopicName};
use magpie_router::{Matches, Policy, Router};
use magpie_state::ClientId;
use smallvec::SmallVec;

use crate::handle::Handle;

/// Up to this many receivers of a topic are kept in a cache, ready to be delivered to. A larger crowd is walked in the table.
const FEW_MAX: usize = 1024;

/// The local subscriptions of the node. Written by connection tasks, read by whoever delivers, through a cache that this table's
/// [`generation`](Self::generation) invalidates.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    table: RwLock<Table>,
    /// That of the table, readable without the lock.
    generation: AtomicU64,
}

type Table = Router<u64, Subscription>;

/// One subscription of one connection.
#[derive(Debug)]
struct Subscription {
    handle: Arc<Handle>,
    options: SubscriptionOptions,
    id: Option<u32>,
}

/// What was found for a topic.
#[derive(Debug)]
pub(crate) struct Found {
    /// The topic in an allocation of its own.
    pub(crate) topic: TopicName,
    pub(crate) receivers: Receivers,
}

/// The plain subscribers of a topic.
#[derive(Debug)]
pub(crate) enum Receivers {
    /// Ready to be delivered to.
    Few(Vec<Receiver>),
    /// Too many to be copied: see [`Subscribers::for_each_of_crowd`].
    Crowd,
}

/// A connection that gets the messages of a topic, once each.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) handle: Arc<Handle>,
    /// How it gets messages of others; `None` is not at all.
    others: Option<Grant>,
    /// How it gets its own, where that differs.
    own: Option<Option<Grant>>,
}

/// The options of all matching subscriptions of one connection, merged: one delivery per message, with the highest QoS and all
/// Subscription Identifiers (section 3.3.4 leaves the choice).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) qos: QoS,
    pub(crate) retain_as_published: bool,
    pub(crate) ids: SmallVec<[u32; 1]>,
}

/// What became of a new subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It was not there before.
    New,
    /// Its options were replaced [MQTT-3.8.4-3].
    Replaced,
}

impl Subscribers {
    /// Adds or replaces a subscription. Messages that are delivered from here on reach it.
    ///
    /// # Errors
    /// The reason code for SUBACK, when the table is full.
    pub(crate) fn insert(
        &self,
        handle: &Arc<Handle>,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Result<Inserted, ReasonCode> {
        let subscription = Subscription {
            handle: Arc::clone(handle),
            options,
            id,
        };
        let previous = self.change(|table| table.subscribe(filter, handle.number, subscription));
        match previous {
            Ok(None) => Ok(Inserted::New),
            Ok(Some(_)) => Ok(Inserted::Replaced),
            Err(magpie_router::Error::TooManyLevels) => Err(ReasonCode::TopicFilterInvalid),
            Err(_) => Err(ReasonCode::QuotaExceeded),
        }
    }

    /// Ends a subscription. False if there was none.
    pub(crate) fn remove(&self, handle: &Handle, filter: &TopicFilter) -> bool {
        self.change(|table| table.unsubscribe(filter, handle.number))
            .is_some()
    }

    /// Ends all subscriptions of a connection, and gives their filters.
    pub(crate) fn remove_all(&self, handle: &Handle) -> Vec<TopicFilter> {
        let mut filters = Vec::new();
        if self.count_of(handle) == 0 {
            return filters;
        }
        self.change(|table| {
            table.remove_subscriber(handle.number, |removed| {
                let text = match removed.share_name {
                    Some(name) => format!("$share/{name}/{}", removed.filter),
                    None => removed.filter.to_owned(),
                };
                filters.extend(TopicFilter::try_from(text));
            });
        });
        filters
    }

    /// Changes with every change of a subscription.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The receivers of a topic, and what they weigh in a cache.
    pub(crate) fn find(&self, topic: &TopicName) -> (Found, usize) {
        let table = self.read();
        let mut matches = Matches::new();
        table.matches(topic, &mut matches);
        let topic = topic.compact();
        let in_rows: usize = table.rows(&matches).map(|(_, row)| row.len()).sum();
        if in_rows > FEW_MAX {
            let receivers = Receivers::Crowd;
            return (Found { topic, receivers }, 0);
        }
        let mut few = Vec::with_capacity(in_rows);
        table.for_each_subscriber(&matches, |_, subscriptions| {
            few.extend(Receiver::merge(subscriptions));
        });
        let bytes = few.capacity() * size_of::<Receiver>() + topic.as_str().len();
        let receivers = Receivers::Few(few);
        (Found { topic, receivers }, bytes)
    }

    /// Visits the receivers of a topic that are too many to be kept. Holds the table for reading meanwhile.
    pub(crate) fn for_each_of_crowd(&self, topic: &TopicName, mut visit: impl FnMut(&Receiver)) {
        let table = self.read();
        let mut matches = Matches::new();
        table.matches(topic, &mut matches);
        table.for_each_subscriber(&matches, |_, subscriptions| {
            if let Some(receiver) = Receiver::merge(subscriptions) {
                visit(&receiver);
            }
        });
    }

    /// The member `number` of the share group `filter`; if it has left, another one of this node, if there is any.
    pub(crate) fn member_or_other(&self, filter: &TopicFilter, number: u64) -> Option<Receiver> {
        let table = self.read();
        let member = table.subscription(filter, number);
        match member {
            Some(member) => Receiver::merge(&[member]),
            None => pick(&table, filter),
        }
    }

    /// A member of the share group `filter` on this node, each in turn.
    pub(crate) fn pick_member(&self, filter: &TopicFilter) -> Option<Receiver> {
        pick(&self.read(), filter)
    }

    /// Whether the connection has exactly this subscription.
    pub(crate) fn contains(&self, handle: &Handle, filter: &TopicFilter) -> bool {
        self.read().subscription(filter, handle.number).is_some()
    }

    /// Subscriptions of a connection.
    pub(crate) fn count_of(&self, handle: &Handle) -> usize {
        self.read().subscriptions_of(handle.number)
    }

    /// Different filters.
    pub(crate) fn filters(&self) -> usize {
        self.read().filters()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.write();
        let result = change(&mut table);
        self.generation.store(table.generation(), Ordering::SeqCst);
        result
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pick(table: &Table, filter: &TopicFilter) -> Option<Receiver> {
    let (_, member) = table
        .share_group(filter)?
        .pick(Policy::RoundRobin, |_, _| true)?;
    Receiver::merge(&[member])
}

impl Receiver {
    fn merge(subscriptions: &[&Subscription]) -> Option<Self> {
        let first = subscriptions.first()?;
        let others = Grant::merge(subscriptions.iter().copied());
        let has_no_local = subscriptions.iter().any(|it| it.options.no_local);
        // [MQTT-3.8.3-3]: with No Local, a subscription does not take part for the client's own messages.
        let own = has_no_local.then(|| {
            Grant::merge(
                subscriptions
                    .iter()
                    .copied()
                    .filter(|it| !it.options.no_local),
            )
        });
        Some(Self {
            handle: Arc::clone(&first.handle),
            others,
            own,
        })
    }

    /// How it gets a message of `publisher`, if at all.
    pub(crate) fn grant(&self, publisher: &ClientId) -> Option<&Grant> {
        match &self.own {
            Some(own) if self.handle.client() == Some(publisher) => own.as_ref(),
            _ => self.others.as_ref(),
        }
    }
}

impl Grant {
    fn merge<'a>(subscriptions: impl Iterator<Item = &'a Subscription>) -> Option<Self> {
        let mut merged: Option<Self> = None;
        for Subscription { options, id, .. } in subscriptions {
            let grant = merged.get_or_insert_with(|| Self {
                qos: QoS::AtMostOnce,
                retain_as_published: false,
                ids: SmallVec::new(),
            });
            grant.qos = grant.qos.max(options.qos);
            grant.retain_as_published |= options.retain_as_published;
            grant.ids.extend(*id);
        }
        merged
    }
}
