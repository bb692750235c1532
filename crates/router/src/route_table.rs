//! Which nodes have subscribers: what the direct class is forwarded by.

mod share_routes;
#[cfg(test)]
mod tests;

use magpie_codec::{TopicFilter, TopicName};
use smallvec::SmallVec;

use crate::{Error, FilterMap, Limits};
use share_routes::ShareRow;

pub use share_routes::ShareRoute;

/// Nodes that a [`RouteTable`] can tell apart at one time: a row is one bit per node.
pub const NODES_MAX: usize = 64;

/// Topic filter -> nodes with a subscriber, and (share name, filter) -> members per node.
///
/// How many filters it takes, plain ones and those with a share name apart, is said when it is made.
#[derive(Clone, Debug)]
pub struct RouteTable<N> {
    plain: FilterMap<NodeSet>,
    shared: FilterMap<Vec<ShareRow>>,
    nodes: Nodes<N>,
    /// Rows below this number know nothing of the retired nodes any more.
    swept: u32,
    generation: u64,
}

/// A set of places in [`Nodes`].
type NodeSet = u64;

/// Each node has a place, which is its bit in the rows.
#[derive(Clone, Debug)]
struct Nodes<N> {
    places: Vec<Option<N>>,
    live: NodeSet,
    /// Removed, but perhaps still in rows.
    retired: NodeSet,
}

impl<N: Copy + Eq> RouteTable<N> {
    /// No routes, and the default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// No routes.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            plain: FilterMap::with_limits(limits),
            shared: FilterMap::with_limits(limits),
            nodes: Nodes::new(),
            swept: 0,
            generation: 0,
        }
    }

    /// Notes that a node has a subscriber of this filter. True if that is new.
    ///
    /// # Errors
    /// When the filter or the node is new and a limit is reached.
    pub fn add(&mut self, filter: &TopicFilter, node: N) -> Result<bool, Error> {
        Ok(self.set_members(filter, node, 1)? == 0)
    }

    /// Notes that a node has no subscriber of this filter any more. True if it had one.
    pub fn remove(&mut self, filter: &TopicFilter, node: N) -> bool {
        self.set_members(filter, node, 0)
            .is_ok_and(|before| before > 0)
    }

    /// Notes how many subscribers a node has for a filter and gives how many it had. For a filter with a share name these
    /// are the group's members on that node; for a plain one only whether there are any is kept: 0 or 1.
    ///
    /// # Errors
    /// When the filter or the node is new and a limit is reached.
    pub fn set_members(
        &mut self,
        filter: &TopicFilter,
        node: N,
        members: u32,
    ) -> Result<u32, Error> {
        let place = match self.nodes.place_of(node) {
            Some(place) => place,
            None if members == 0 => return Ok(0),
            None => self.place_new(node)?,
        };
        let before = match filter.share_name() {
            Some(name) => self.set_share(filter, name, place, members)?,
            None => self.set_plain(filter, place, members > 0)?,
        };
        let after = if filter.is_shared() {
            members
        } else {
            members.min(1)
        };
        if before != after {
            self.generation += 1;
        }
        Ok(before)
    }

    /// Forgets a node. It is in no answer from now on; what its rows occupy is freed by [`sweep`](Self::sweep).
    pub fn remove_node(&mut self, node: N) {
        if let Some(place) = self.nodes.place_of(node) {
            self.nodes.live &= !place;
            self.nodes.retired |= place;
            self.swept = 0;
            self.generation += 1;
        }
    }

    /// Looks at up to `rows_max` rows for what removed nodes left, and frees it. True if there is more to look at.
    ///
    /// Removing a node with millions of routes at one go would hold up everything else.
    pub fn sweep(&mut self, rows_max: usize) -> bool {
        if self.nodes.retired == 0 {
            return false;
        }
        let live = self.nodes.live;
        let rows_max = u32::try_from(rows_max).unwrap_or(u32::MAX);
        let from = self.swept;
        self.swept = from.saturating_add(rows_max);
        for number in from..self.swept.min(self.plain.id_end()) {
            let Some(id) = self.plain.id_at(number) else {
                continue;
            };
            if self.plain.value_mut(id).is_some_and(|row| {
                *row &= live;
                *row == 0
            }) {
                self.plain.remove_id(id);
            }
        }
        for number in from..self.swept.min(self.shared.id_end()) {
            let Some(id) = self.shared.id_at(number) else {
                continue;
            };
            if self
                .shared
                .value_mut(id)
                .is_some_and(|rows| share_routes::retain(rows, live))
            {
                self.shared.remove_id(id);
            }
        }
        if self.swept < self.plain.id_end().max(self.shared.id_end()) {
            return true;
        }
        self.nodes.free_retired();
        false
    }

    /// The nodes with a plain subscriber of this topic, each once, in a fixed order.
    pub fn nodes_for(&self, topic: &TopicName) -> SmallVec<[N; 8]> {
        let mut all = 0;
        self.plain.for_each_match(topic, |_, row| all |= row);
        self.nodes.of(all).collect()
    }

    /// Calls `f` with each shared subscription that matches the topic and has a member.
    pub fn for_each_share(&self, topic: &TopicName, mut f: impl FnMut(ShareRoute<'_, N>)) {
        self.shared.for_each_match(topic, |id, rows| {
            let filter = self.shared.filter(id).unwrap_or_default();
            for row in rows {
                let route = ShareRoute::new(filter, row, &self.nodes);
                if route.members().next().is_some() {
                    f(route);
                }
            }
        });
    }

    /// All plain routes: filter and nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = N>)> {
        let rows = self
            .plain
            .iter()
            .filter(|(_, _, row)| **row & self.nodes.live != 0);
        rows.map(|(_, filter, row)| (filter, self.nodes.of(*row)))
    }

    /// All shared subscriptions.
    pub fn shares(&self) -> impl Iterator<Item = ShareRoute<'_, N>> {
        let all = self
            .shared
            .iter()
            .flat_map(|(_, filter, rows)| rows.iter().map(move |row| (filter, row)));
        let routes = all.map(|(filter, row)| ShareRoute::new(filter, row, &self.nodes));
        routes.filter(|route| route.members().next().is_some())
    }

    /// Changes with every change of a route.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many filters have routes, plain and shared; what is not yet swept included.
    pub fn len(&self) -> usize {
        self.plain.len() + self.shared.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes allocated. Walks the whole table: for tests and benches.
    pub fn heap_bytes(&self) -> usize {
        self.plain.heap_bytes() + self.shared.heap_bytes()
    }

    /// The nodes of one row with their member counts (1 for plain rows), in no particular order.
    #[must_use]
    pub fn members_of(&self, filter: &TopicFilter) -> SmallVec<[(N, u32); 8]> {
        let Some(name) = filter.share_name() else {
            let id = self.plain.id_of(filter);
            let row = id
                .and_then(|id| self.plain.value(id))
                .copied()
                .unwrap_or_default();
            return self.nodes.of(row).map(|node| (node, 1)).collect();
        };
        let id = self.shared.id_of(filter);
        let rows = id
            .and_then(|id| self.shared.value(id))
            .into_iter()
            .flatten();
        rows.map(|row| ShareRoute::new(filter.filter(), row, &self.nodes))
            .filter(|route| route.name() == name)
            .flat_map(|route| route.members().collect::<SmallVec<[_; 8]>>())
            .collect()
    }

    fn set_plain(
        &mut self,
        filter: &TopicFilter,
        place: NodeSet,
        present: bool,
    ) -> Result<u32, Error> {
        if present {
            let (_, row) = self.plain.get_or_insert_with(filter, || 0)?;
            let before = u32::from(*row & place != 0);
            *row |= place;
            return Ok(before);
        }
        let Some(id) = self.plain.id_of(filter) else {
            return Ok(0);
        };
        let Some(row) = self.plain.value_mut(id) else {
            return Ok(0);
        };
        let before = u32::from(*row & place != 0);
        *row &= !place;
        if *row == 0 {
            self.plain.remove_id(id);
        }
        Ok(before)
    }

    fn set_share(
        &mut self,
        filter: &TopicFilter,
        name: &str,
        place: NodeSet,
        members: u32,
    ) -> Result<u32, Error> {
        if members > 0 {
            let (_, rows) = self.shared.get_or_insert_with(filter, Vec::new)?;
            return Ok(share_routes::set(rows, name, place, members));
        }
        let Some(id) = self.shared.id_of(filter) else {
            return Ok(0);
        };
        let Some(rows) = self.shared.value_mut(id) else {
            return Ok(0);
        };
        let before = share_routes::set(rows, name, place, 0);
        if rows.is_empty() {
            self.shared.remove_id(id);
        }
        Ok(before)
    }

    fn place_new(&mut self, node: N) -> Result<NodeSet, Error> {
        if let Some(place) = self.nodes.place_new(node) {
            return Ok(place);
        }
        while self.sweep(usize::MAX) {}
        self.nodes.place_new(node).ok_or(Error::TooManyNodes)
    }
}

impl<N: Copy + Eq> Default for RouteTable<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<N: Copy + Eq> Nodes<N> {
    const fn new() -> Self {
        Self {
            places: Vec::new(),
            live: 0,
            retired: 0,
        }
    }

    /// The place of a live node.
    fn place_of(&self, node: N) -> Option<NodeSet> {
        let is_it = |(at, present): (usize, &Option<N>)| {
            *present == Some(node) && self.live & (1 << at) != 0
        };
        self.places
            .iter()
            .enumerate()
            .position(is_it)
            .map(|at| 1 << at)
    }

    fn place_new(&mut self, node: N) -> Option<NodeSet> {
        let at = (self.live | self.retired).trailing_ones() as usize;
        if at >= NODES_MAX {
            return None;
        }
        if at >= self.places.len() {
            self.places.resize(at + 1, None);
        }
        self.places[at] = Some(node);
        self.live |= 1 << at;
        Some(1 << at)
    }

    fn free_retired(&mut self) {
        self.retired = 0;
    }

    /// The live nodes of a set.
    fn of(&self, set: NodeSet) -> impl Iterator<Item = N> {
        let mut left = set & self.live;
        std::iter::from_fn(move || {
            let at = left.trailing_zeros() as usize;
            // Clears the lowest bit.
            left &= left.checked_sub(1)?;
            self.places[at]
        })
    }
}
