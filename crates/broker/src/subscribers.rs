//! Who on this node gets a message: the local subscriptions, and how several of one connection come together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use magpie_codec::{QoS, ReasonCode, SubscriptionOptions, TopicFilter, TopicName};
use magpie_router::{Matches, Policy, Router};
use magpie_session::SubscriptionState;
use magpie_state::{ClientId, PartitionId, Position, partition_of};
use smallvec::SmallVec;

use crate::handle::Handle;
use crate::positions::{Indexes, Positions};

/// Up to this many receivers of a topic are kept in a cache, ready to be delivered to. A larger crowd is walked in the table.
const FEW_MAX: usize = 1024;

/// The local subscriptions of the node. Written by connection tasks, read by whoever delivers, through a cache that this table's
/// [`generation`](Self::generation) invalidates.
#[derive(Debug)]
pub(crate) struct Subscribers {
    table: RwLock<Table>,
    /// Counts changes of the table, readable without the lock.
    generation: AtomicU64,
    pub(crate) positions: Positions,
}

type Table = Router<u64, Subscription>;

/// One subscription of one connection.
#[derive(Debug)]
struct Subscription {
    handle: Arc<Handle>,
    options: SubscriptionOptions,
    id: Option<u32>,
    /// Of the log, it gets what is above these indexes: those of the entries whose delivery had begun when it was inserted.
    after: After,
}

/// Log indexes by partition: of the only one that an exact filter concerns, or of all.
#[derive(Debug, Clone)]
enum After {
    One(u64),
    All(Box<[u64]>),
}

/// What was found for a topic.
#[derive(Debug)]
pub(crate) struct Found {
    /// The topic in an allocation of its own.
    pub(crate) topic: TopicName,
    /// Whose log holds its messages.
    pub(crate) partition: PartitionId,
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
    /// At log indexes up to this one, some of the merged subscriptions do not count: see [`Subscribers::find_at`].
    after: u64,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inserted {
    /// Whether only the options of one that was there were replaced [MQTT-3.8.4-3].
    pub(crate) is_replaced: bool,
    /// Of the log of each partition concerned, everything above this index is offered to it.
    pub(crate) after: Indexes,
}

impl Subscribers {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            table: RwLock::default(),
            generation: AtomicU64::new(1),
            positions: Positions::new(partitions),
        }
    }

    /// Adds or replaces a subscription. Messages that are delivered from here on reach it. `at_least` are log indexes that all tails
    /// have passed.
    ///
    /// # Errors
    /// The reason code for SUBACK, when the table is full.
    pub(crate) fn insert(
        &self,
        handle: &Arc<Handle>,
        filter: &TopicFilter,
        options: SubscriptionOptions,
        id: Option<u32>,
        at_least: &[(PartitionId, u64)],
    ) -> Result<Inserted, ReasonCode> {
        let previous = self.change(|table| {
            // A tail that begins an entry after this is read finds the generation changed, and waits for the lock.
            let after = self.positions.begun(filter, at_least);
            let kept = match table.subscription(filter, handle.number) {
                Some(previous) => previous.after.clone(),
                None => After::from(&after[..]),
            };
            let subscription = Subscription {
                handle: Arc::clone(handle),
                options,
                id,
                after: kept,
            };
            let previous = table.subscribe(filter, handle.number, subscription);
            previous.map(|previous| Inserted {
                is_replaced: previous.is_some(),
                after,
            })
        });
        match previous {
            Ok(inserted) => Ok(inserted),
            Err(magpie_router::Error::TooManyLevels) => Err(ReasonCode::TopicFilterInvalid),
            Err(_) => Err(ReasonCode::QuotaExceeded),
        }
    }

    /// Ends a subscription. False if there was none.
    pub(crate) fn remove(&self, handle: &Handle, filter: &TopicFilter) -> bool {
        // [MQTT-3.10.4-2], [MQTT-3.10.4-2 v3.1.1]
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
        let partition = partition_of(topic.as_str(), self.positions.partitions());
        let in_rows: usize = table.rows(&matches).map(|(_, row)| row.len()).sum();
        let (receivers, bytes) = if in_rows > FEW_MAX {
            (Receivers::Crowd, 0)
        } else {
            let mut few = Vec::with_capacity(in_rows);
            table.for_each_subscriber(&matches, |_, subscriptions| {
                few.extend(Receiver::merge(subscriptions, partition));
            });
            let bytes = few.capacity() * size_of::<Receiver>() + topic.as_str().len();
            (Receivers::Few(few), bytes)
        };
        let found = Found {
            topic,
            partition,
            receivers,
        };
        (found, bytes)
    }

    /// One receiver of a topic, as its subscriptions were when the delivery of the entry at `index` began: those that came later do not
    /// count. Only a receiver that subscribed in the middle of an entry needs this.
    pub(crate) fn find_at(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        number: u64,
        index: u64,
    ) -> Option<Receiver> {
        let table = self.read();
        let mut matches = Matches::new();
        table.matches(topic, &mut matches);
        let mut found = None;
        table.for_each_subscriber(&matches, |key, subscriptions| {
            if key == number {
                let counting: SmallVec<[&Subscription; 4]> = subscriptions
                    .iter()
                    .copied()
                    .filter(|it| it.after.of(partition) < index)
                    .collect();
                found = Receiver::merge(&counting, partition);
            }
        });
        found
    }

    /// Visits the receivers of a topic that are too many to be kept. Holds the table for reading meanwhile.
    pub(crate) fn for_each_of_crowd(&self, topic: &TopicName, mut visit: impl FnMut(&Receiver)) {
        let partition = partition_of(topic.as_str(), self.positions.partitions());
        let table = self.read();
        let mut matches = Matches::new();
        table.matches(topic, &mut matches);
        table.for_each_subscriber(&matches, |_, subscriptions| {
            if let Some(receiver) = Receiver::merge(subscriptions, partition) {
                visit(&receiver);
            }
        });
    }

    /// The options of a member of the share group `filter`, if it is there.
    pub(crate) fn share_options(&self, filter: &TopicFilter, number: u64) -> Option<Grant> {
        let table = self.read();
        Grant::merge(std::iter::once(table.subscription(filter, number)?))
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
        // First: whoever sees the new generation waits for the lock, and finds the change.
        self.generation.fetch_add(1, Ordering::SeqCst);
        change(&mut table)
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
    // A member was chosen by whoever knows the group: it does not matter since when.
    Receiver::merge(&[member], PartitionId(0))
}

impl From<&[(PartitionId, u64)]> for After {
    fn from(indexes: &[(PartitionId, u64)]) -> Self {
        match indexes {
            [(_, only)] => Self::One(*only),
            all => Self::All(all.iter().map(|(_, index)| *index).collect()),
        }
    }
}

impl After {
    fn of(&self, partition: PartitionId) -> u64 {
        match self {
            Self::One(index) => *index,
            Self::All(indexes) => indexes.get(usize::from(partition.0)).copied().unwrap_or(0),
        }
    }
}

impl Receiver {
    fn merge(subscriptions: &[&Subscription], partition: PartitionId) -> Option<Self> {
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
            after: subscriptions
                .iter()
                .map(|it| it.after.of(partition))
                .max()
                .unwrap_or(0),
        })
    }

    /// Whether all merged subscriptions count for a message at this place of the log.
    pub(crate) fn is_whole_at(&self, position: Position) -> bool {
        position.index() > self.after
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
        Self::of_options(subscriptions.map(|it| (it.options, it.id)))
    }

    /// The same for subscriptions of a session.
    pub(crate) fn of<'a>(
        subscriptions: impl Iterator<Item = &'a SubscriptionState>,
    ) -> Option<Self> {
        Self::of_options(subscriptions.map(|it| (it.options, it.id)))
    }

    fn of_options(
        subscriptions: impl Iterator<Item = (SubscriptionOptions, Option<u32>)>,
    ) -> Option<Self> {
        let mut merged: Option<Self> = None;
        for (options, id) in subscriptions {
            let grant = merged.get_or_insert_with(|| Self {
                qos: QoS::AtMostOnce,
                retain_as_published: false,
                ids: SmallVec::new(),
            });
            // [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.3.5-1 v3.1.1]
            grant.qos = grant.qos.max(options.qos);
            grant.retain_as_published |= options.retain_as_published;
            grant.ids.extend(id);
        }
        merged
    }
}
