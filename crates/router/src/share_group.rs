//! Which member of a shared subscription gets a message (section 4.8.2).

use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Subscribers;

/// The members of one shared subscription on whatever the keys stand for: sessions of this node, sessions of a partition.
///
/// Choosing needs no exclusive access: the cursor is only a hint where to look first, and many tasks may choose at once.
#[derive(Clone, Debug)]
pub struct ShareGroup<K, O> {
    members: Subscribers<K, O>,
    cursor: Cursor,
}

/// How the next member is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The same one as long as it is available: for consumers that keep what they learned from earlier messages.
    Sticky,
}

impl<K: Copy + Eq + Hash, O> ShareGroup<K, O> {
    /// A group without members.
    pub const fn new() -> Self {
        Self {
            members: Subscribers::new(),
            cursor: Cursor::new(),
        }
    }

    /// Adds a member, or replaces its options and gives the previous ones.
    pub fn join(&mut self, member: K, options: O) -> Option<O> {
        self.members.insert(member, options)
    }

    /// Removes a member.
    pub fn leave(&mut self, member: K) -> Option<O> {
        let position = self.members.position(member)?;
        let last = self.members.len() - 1;
        let options = self.members.remove_at(position);
        // The last member moved into the gap; who sticks to it goes with it.
        if self.cursor.at(last + 1) == last {
            self.cursor.set(position);
        }
        Some(options)
    }

    /// The member that gets the next message: the first in the order of the policy that is available, or none if nobody is.
    ///
    /// `available` is asked at most once per member, usually once in all.
    pub fn pick(
        &self,
        policy: Policy,
        mut available: impl FnMut(K, &O) -> bool,
    ) -> Option<(K, &O)> {
        let members = self.members.as_slice();
        if members.is_empty() {
            return None;
        }
        let start = match policy {
            Policy::RoundRobin => self.cursor.advance(members.len()),
            Policy::Sticky => self.cursor.at(members.len()),
        };
        let (behind, ahead) = members.split_at(start);
        let mut in_turn = ahead.iter().chain(behind).enumerate();
        let (skipped, (key, options)) =
            in_turn.find(|(_, (key, options))| available(*key, options))?;
        if skipped > 0 {
            // Whoever was skipped shall not make its successor carry twice the load, nor be asked again if we stick.
            let chosen = start + skipped;
            self.cursor.set(match policy {
                Policy::RoundRobin => (chosen + 1) % members.len(),
                Policy::Sticky => chosen % members.len(),
            });
        }
        Some((*key, options))
    }

    /// All members with their options, in no particular order.
    pub fn members(&self) -> &[(K, O)] {
        self.members.as_slice()
    }

    /// The options of a member.
    pub fn get(&self, member: K) -> Option<&O> {
        self.members.get(member)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl<K: Copy + Eq + Hash, O> Default for ShareGroup<K, O> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where to look next. Races between choosers cost fairness for one message, no more.
#[derive(Debug)]
pub(crate) struct Cursor(AtomicU32);

impl Cursor {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The position among `len` > 0.
    pub(crate) fn at(&self, len: usize) -> usize {
        self.0.load(Ordering::Relaxed) as usize % len
    }

    /// The position among `len` > 0, and one step further for the next.
    pub(crate) fn advance(&self, len: usize) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) as usize % len
    }

    pub(crate) fn set(&self, position: usize) {
        self.0.store(position as u32, Ordering::Relaxed);
    }
}

impl Clone for Cursor {
    fn clone(&self) -> Self {
        Self(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: std::ops::Range<u32>) -> ShareGroup<u32, ()> {
        let mut group = ShareGroup::new();
        for member in members {
            group.join(member, ());
        }
        group
    }

    fn picks(
        group: &ShareGroup<u32, ()>,
        policy: Policy,
        count: usize,
        away: &[u32],
    ) -> Vec<Option<u32>> {
        let pick = |_| Some(group.pick(policy, |key, ()| !away.contains(&key))?.0);
        (0..count).map(pick).collect()
    }

    #[test]
    fn round_robin_takes_turns() {
        let group = group(0..3);
        let expected = [0, 1, 2, 0, 1].map(Some);
        assert_eq!(picks(&group, Policy::RoundRobin, 5, &[]), expected);
    }

    #[test]
    fn round_robin_shares_the_load_of_who_is_away() {
        let group = group(0..4);
        let picked = picks(&group, Policy::RoundRobin, 300, &[1]);
        for member in [0, 2, 3] {
            assert_eq!(picked.iter().filter(|it| **it == Some(member)).count(), 100);
        }
    }

    #[test]
    fn sticky_stays_until_away() {
        let mut group = group(0..3);
        assert_eq!(picks(&group, Policy::Sticky, 2, &[]), [Some(0), Some(0)]);
        assert_eq!(
            picks(&group, Policy::Sticky, 2, &[0, 1]),
            [Some(2), Some(2)]
        );
        assert_eq!(picks(&group, Policy::Sticky, 1, &[]), [Some(2)]);
        group.leave(0);
        assert_eq!(picks(&group, Policy::Sticky, 1, &[]), [Some(2)]);
    }

    #[test]
    fn nobody_is_available() {
        let mut group = group(0..3);
        assert_eq!(picks(&group, Policy::RoundRobin, 1, &[0, 1, 2]), [None]);
        for member in 0..3 {
            assert_eq!(group.leave(member), Some(()));
            assert_eq!(group.leave(member), None);
        }
        assert_eq!(picks(&group, Policy::RoundRobin, 1, &[]), [None]);
        assert!(group.is_empty());
    }
}
