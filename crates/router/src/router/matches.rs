//! Who gets a message with a given topic.

use std::hash::Hash;

use magpie_codec::TopicName;
use smallvec::SmallVec;

use super::{GroupId, NONE, Router};
use crate::{FilterId, ShareGroup, Subscribers};

/// The filters and share groups that match a topic. Small, whoever many subscribe: the subscribers stay in the router.
///
/// Good until [`Router::filter_generation`] changes; subscribers that come to a filter or leave it are seen.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    filters: SmallVec<[FilterId; 6]>,
    groups: SmallVec<[GroupId; 2]>,
    filter_generation: u64,
}

/// A shared subscription that matches.
#[derive(Clone, Copy, Debug)]
pub struct ShareMatch<'a, K, O> {
    /// Its number.
    pub id: GroupId,
    /// The share name.
    pub name: &'a str,
    /// The filter without the share name.
    pub filter: &'a str,
    /// The members on this node, of which one gets the message.
    pub group: &'a ShareGroup<K, O>,
}

impl Matches {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no filter matches.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }
}

impl<K: Copy + Ord + Hash, O> Router<K, O> {
    /// Replaces `matches` by what matches the topic (section 4.7).
    pub fn matches(&self, topic: &TopicName, matches: &mut Matches) {
        matches.filters.clear();
        matches.groups.clear();
        matches.filter_generation = self.filter_generation;
        self.filters.for_each_match(topic, |id, row| {
            matches.filters.push(id);
            let mut group = row.first_group;
            while group != NONE {
                matches.groups.push(GroupId(group));
                group = self.groups.get(group).map_or(NONE, |it| it.next);
            }
        });
    }

    /// Whether anybody, also as a member of a share group, wants messages with this topic.
    pub fn any_match(&self, topic: &TopicName) -> bool {
        self.filters.any_match(topic)
    }

    /// The plain subscribers as they are kept: a row per matching filter. Somebody with two matching filters is in two.
    ///
    /// # Panics
    /// When `matches` is of another [`filter_generation`](Self::filter_generation).
    pub fn rows<'a>(
        &'a self,
        matches: &'a Matches,
    ) -> impl Iterator<Item = (&'a str, &'a [(K, O)])> {
        self.assert_current(matches);
        matches.filters.iter().filter_map(|id| {
            let row = self.filters.value(*id)?;
            (!row.subscribers.is_empty())
                .then_some((self.filters.filter(*id)?, row.subscribers.as_slice()))
        })
    }

    /// Calls `f` once with every plain subscriber and the options of all its matching subscriptions (section 3.3.4: the
    /// caller merges them, or sends once for each).
    ///
    /// The largest row is walked in place, and those who are also in others are found by their position in it, so one
    /// crowd beside a few observers costs hardly more than the crowd alone.
    ///
    /// # Panics
    /// When `matches` is of another [`filter_generation`](Self::filter_generation).
    pub fn for_each_subscriber(&self, matches: &Matches, mut f: impl FnMut(K, &[&O])) {
        self.assert_current(matches);
        let rows = matches
            .filters
            .iter()
            .filter_map(|id| self.filters.value(*id));
        let mut rows: SmallVec<[&Subscribers<K, O>; 6]> = rows
            .map(|row| &row.subscribers)
            .filter(|row| !row.is_empty())
            .collect();
        let Some(largest) = (0..rows.len()).max_by_key(|at| rows[*at].len()) else {
            return;
        };
        let crowd = rows.remove(largest);
        let seen = if rows.is_empty() {
            Vec::new()
        } else {
            visit_others(crowd, &rows, &mut f)
        };
        let crowd = crowd.as_slice();
        let mut from = 0;
        for until in seen.into_iter().chain([crowd.len()]) {
            for (key, options) in &crowd[from..until] {
                f(*key, &[options]);
            }
            from = until + 1;
        }
    }

    /// The shared subscriptions that match.
    ///
    /// # Panics
    /// When `matches` is of another [`filter_generation`](Self::filter_generation).
    pub fn shares<'a>(
        &'a self,
        matches: &'a Matches,
    ) -> impl Iterator<Item = ShareMatch<'a, K, O>> {
        self.assert_current(matches);
        matches.groups.iter().filter_map(|id| self.share(*id))
    }

    /// A shared subscription by its number.
    pub fn share(&self, id: GroupId) -> Option<ShareMatch<'_, K, O>> {
        let group = self.groups.get(id.0)?;
        Some(ShareMatch {
            id,
            name: group.name.as_str(),
            filter: self.filters.filter(group.filter)?,
            group: &group.share,
        })
    }

    /// Whether `matches` may still be used.
    pub const fn is_current(&self, matches: &Matches) -> bool {
        matches.filter_generation == self.filter_generation
    }

    fn assert_current(&self, matches: &Matches) {
        assert!(
            self.is_current(matches),
            "numbers of filters are used only while they mean the same filters"
        );
    }
}

/// Calls `f` for all subscribers in `rows`, with their options in `crowd` too; gives the positions in `crowd` that this
/// settled, ascending.
fn visit_others<K: Copy + Ord + Hash, O>(
    crowd: &Subscribers<K, O>,
    rows: &[&Subscribers<K, O>],
    f: &mut impl FnMut(K, &[&O]),
) -> Vec<usize> {
    let mut others: Vec<(K, &O)> = Vec::with_capacity(rows.iter().map(|row| row.len()).sum());
    others.extend(
        rows.iter()
            .flat_map(|row| row.as_slice())
            .map(|(key, options)| (*key, options)),
    );
    others.sort_by_key(|(key, _)| *key);
    let mut seen = Vec::new();
    let mut all: SmallVec<[&O; 8]> = SmallVec::new();
    for same in others.chunk_by(|one, other| one.0 == other.0) {
        let key = same[0].0;
        all.clear();
        if let Some(position) = crowd.position(key) {
            all.push(&crowd.as_slice()[position].1);
            seen.push(position);
        }
        all.extend(same.iter().map(|(_, options)| *options));
        f(key, &all);
    }
    seen.sort_unstable();
    seen
}
