//! The subscriptions of this node.

mod matches;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use magpie_codec::TopicFilter;
use smallvec::SmallVec;

use crate::index::Index;
use crate::short_text::ShortText;
use crate::slots::Slots;
use crate::{Error, FilterId, FilterMap, Limits, ShareGroup, Subscribers};

pub use matches::{Matches, ShareMatch};

/// No group.
const NONE: u32 = u32::MAX;

/// Subscribers `K` with options `O` per filter, and shared subscriptions beside them.
///
/// A subscriber has at most one plain subscription per filter [MQTT-3.8.4-3] and one membership per (share name, filter).
/// The router itself knows the filters of each subscriber, so that none is left behind when it goes.
#[derive(Clone, Debug)]
pub struct Router<K, O> {
    filters: FilterMap<Row<K, O>>,
    groups: Slots<Group<K, O>>,
    /// The groups by filter and share name.
    group_index: Index,
    hasher: RandomState,
    held: HashMap<K, SmallVec<[Held; 2]>, RandomState>,
    generation: u64,
    filter_generation: u64,
}

/// The number of a (share name, filter) in its [`Router`], valid until its last member is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u32);

/// What the router keeps per filter: goes when it has neither subscribers nor groups.
#[derive(Clone, Debug)]
struct Row<K, O> {
    subscribers: Subscribers<K, O>,
    /// The first of the filter's groups, chained by `next` and `previous`.
    first_group: u32,
}

#[derive(Clone, Debug)]
struct Group<K, O> {
    name: ShortText,
    filter: FilterId,
    share: ShareGroup<K, O>,
    next: u32,
    previous: u32,
}

/// One subscription of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Plain(FilterId),
    Shared(GroupId),
}

/// A subscription that ended with its subscriber.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<'a, O> {
    /// The filter without a share name.
    pub filter: &'a str,
    /// The share name of a shared subscription.
    pub share_name: Option<&'a str>,
    /// The options it had.
    pub options: O,
    /// How many others have the same subscription: 0 if this was the last on this node.
    pub left: usize,
}

impl<K: Copy + Ord + Hash, O> Router<K, O> {
    /// Without subscriptions, with the default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// Without subscriptions.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            filters: FilterMap::with_limits(limits),
            groups: Slots::new(),
            group_index: Index::new(),
            hasher: RandomState::default(),
            held: HashMap::default(),
            generation: 0,
            filter_generation: 0,
        }
    }

    /// Adds a subscription, or replaces its options and gives the previous ones [MQTT-3.8.4-3].
    ///
    /// # Errors
    /// When the filter is new to the router and a limit is reached.
    pub fn subscribe(
        &mut self,
        filter: &TopicFilter,
        key: K,
        options: O,
    ) -> Result<Option<O>, Error> {
        let filters_before = self.filters.len();
        let (id, row) = self.filters.get_or_insert_with(filter, Row::new)?;
        let (held, previous) = if let Some(name) = filter.share_name() {
            let group = self
                .find_group(id, name)
                .unwrap_or_else(|| self.add_group(id, name));
            let previous = self
                .groups
                .get_mut(group.0)
                .and_then(|it| it.share.join(key, options));
            (Held::Shared(group), previous)
        } else {
            (Held::Plain(id), row.subscribers.insert(key, options))
        };
        self.generation += 1;
        if self.filters.len() > filters_before {
            self.filter_generation += 1;
        }
        if previous.is_none() {
            self.held.entry(key).or_default().push(held);
        }
        Ok(previous)
    }

    /// Ends a subscription and gives its options.
    pub fn unsubscribe(&mut self, filter: &TopicFilter, key: K) -> Option<O> {
        let held = self.find(filter)?;
        let options = self.take(held, key)?;
        if let Some(all) = self.held.get_mut(&key) {
            if let Some(position) = all.iter().position(|it| *it == held) {
                all.swap_remove(position);
            }
            if all.is_empty() {
                self.held.remove(&key);
            }
        }
        self.drop_if_empty(held);
        Some(options)
    }

    /// Ends all subscriptions of a subscriber, and tells of each.
    pub fn remove_subscriber(&mut self, key: K, mut tell: impl FnMut(Removed<'_, O>)) {
        for held in self.held.remove(&key).unwrap_or_default() {
            let Some(options) = self.take(held, key) else {
                continue;
            };
            let (filter, share_name, left) = self.describe(held);
            tell(Removed {
                filter,
                share_name,
                options,
                left,
            });
            self.drop_if_empty(held);
        }
    }

    /// The options of a subscription.
    pub fn subscription(&self, filter: &TopicFilter, key: K) -> Option<&O> {
        match self.find(filter)? {
            Held::Plain(id) => self.filters.value(id)?.subscribers.get(key),
            Held::Shared(group) => self.groups.get(group.0)?.share.get(key),
        }
    }

    /// The members of exactly this shared subscription.
    pub fn share_group(&self, filter: &TopicFilter) -> Option<&ShareGroup<K, O>> {
        match self.find(filter)? {
            Held::Plain(_) => None,
            Held::Shared(group) => Some(&self.groups.get(group.0)?.share),
        }
    }

    /// How many subscribers have exactly this filter; with a share name, how many members the group has.
    pub fn subscribers(&self, filter: &TopicFilter) -> usize {
        self.find(filter).map_or(0, |held| self.describe(held).2)
    }

    /// How many subscriptions a subscriber has.
    pub fn subscriptions_of(&self, key: K) -> usize {
        self.held.get(&key).map_or(0, SmallVec::len)
    }

    /// Changes with every subscription that is added, changed or ended: what was found at another generation may be wrong.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Changes when the set of filters or groups does: [`Matches`] of another one must not be used any more.
    pub const fn filter_generation(&self) -> u64 {
        self.filter_generation
    }

    /// How many different filters there are, plain and shared.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// How many share groups there are.
    pub fn share_groups(&self) -> usize {
        self.groups.len()
    }

    /// Different placements of `+` among the filters; see [`Limits::shapes_max`].
    pub fn shapes(&self) -> usize {
        self.filters.shapes()
    }

    fn find(&self, filter: &TopicFilter) -> Option<Held> {
        let id = self.filters.id_of(filter)?;
        match filter.share_name() {
            Some(name) => self.find_group(id, name).map(Held::Shared),
            None => Some(Held::Plain(id)),
        }
    }

    /// Removes a key from a row or a group, and leaves the rest as it is.
    fn take(&mut self, held: Held, key: K) -> Option<O> {
        let options = match held {
            Held::Plain(id) => self.filters.value_mut(id)?.subscribers.remove(key),
            Held::Shared(group) => self.groups.get_mut(group.0)?.share.leave(key),
        };
        if options.is_some() {
            self.generation += 1;
        }
        options
    }

    /// Filter, share name and number of subscribers.
    fn describe(&self, held: Held) -> (&str, Option<&str>, usize) {
        let group = match held {
            Held::Plain(_) => None,
            Held::Shared(group) => self.groups.get(group.0),
        };
        let id = match (held, group) {
            (Held::Plain(id), _) => Some(id),
            (Held::Shared(_), group) => group.map(|group| group.filter),
        };
        let filter = id
            .and_then(|id| self.filters.filter(id))
            .unwrap_or_default();
        match group {
            Some(group) => (filter, Some(group.name.as_str()), group.share.len()),
            None => (
                filter,
                None,
                id.and_then(|id| self.filters.value(id))
                    .map_or(0, |row| row.subscribers.len()),
            ),
        }
    }

    fn drop_if_empty(&mut self, held: Held) {
        let id = match held {
            Held::Plain(id) => id,
            Held::Shared(group) => match self.remove_group_if_empty(group) {
                Some(id) => id,
                None => return,
            },
        };
        if self.filters.value(id).is_some_and(Row::is_empty) {
            self.filters.remove_id(id);
            self.filter_generation += 1;
        }
    }

    fn find_group(&self, filter: FilterId, name: &str) -> Option<GroupId> {
        let is_it = |slot| {
            self.groups
                .get(slot)
                .is_some_and(|it| it.filter == filter && it.name.as_bytes() == name.as_bytes())
        };
        self.group_index
            .find(self.group_hash(filter, name), is_it)
            .map(GroupId)
    }

    fn add_group(&mut self, filter: FilterId, name: &str) -> GroupId {
        let next = self
            .filters
            .value(filter)
            .map_or(NONE, |row| row.first_group);
        let group = self.groups.insert(Group {
            name: ShortText::new(name),
            filter,
            share: ShareGroup::new(),
            next,
            previous: NONE,
        });
        self.link(filter, NONE, group);
        self.link(filter, group, next);
        self.group_index
            .insert(self.group_hash(filter, name), group);
        self.filter_generation += 1;
        GroupId(group)
    }

    /// Gives the group's filter if the group was removed.
    fn remove_group_if_empty(&mut self, group: GroupId) -> Option<FilterId> {
        if !self.groups.get(group.0)?.share.is_empty() {
            return None;
        }
        let Group {
            name,
            filter,
            next,
            previous,
            ..
        } = self.groups.remove(group.0)?;
        self.link(filter, previous, next);
        self.group_index
            .remove(self.group_hash(filter, name.as_str()), group.0);
        self.filter_generation += 1;
        Some(filter)
    }

    /// Makes two groups of a filter neighbours; no previous one means the row, no next one the end.
    fn link(&mut self, filter: FilterId, previous: u32, next: u32) {
        if let Some(group) = self.groups.get_mut(next) {
            group.previous = previous;
        }
        if let Some(group) = self.groups.get_mut(previous) {
            group.next = next;
        } else if let Some(row) = self.filters.value_mut(filter) {
            row.first_group = next;
        }
    }

    fn group_hash(&self, filter: FilterId, name: &str) -> u64 {
        self.hasher.hash_one((filter.number(), name))
    }
}

impl<K: Copy + Ord + Hash, O> Default for Router<K, O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Ord + Hash, O> Row<K, O> {
    const fn new() -> Self {
        Self {
            subscribers: Subscribers::new(),
            first_group: NONE,
        }
    }

    const fn is_empty(&self) -> bool {
        self.subscribers.is_empty() && self.first_group == NONE
    }
}
