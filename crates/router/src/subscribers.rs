//! The subscribers of one filter, or the members of one share group: contiguous, so that a fan-out is a walk over a slice.

use std::hash::Hash;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// A list with more keys than this has an index of positions beside it.
const SCANNED_MAX: usize = 64;

/// Keys with their options, in no particular order, each key once.
///
/// One key costs no allocation; of many, adding and removing takes constant time.
#[derive(Clone, Debug)]
pub struct Subscribers<K, O>(Form<K, O>);

#[derive(Clone, Debug)]
enum Form<K, O> {
    Empty,
    One((K, O)),
    Many(Box<Many<K, O>>),
}

#[derive(Clone, Debug)]
struct Many<K, O> {
    list: Vec<(K, O)>,
    /// Where each key is in `list`, while the list is long.
    positions: Option<HashMap<K, u32, RandomState>>,
}

impl<K: Copy + Eq + Hash, O> Subscribers<K, O> {
    /// Nobody.
    pub const fn new() -> Self {
        Self(Form::Empty)
    }

    /// Adds a key, or replaces its options and gives the previous ones.
    pub fn insert(&mut self, key: K, options: O) -> Option<O> {
        if let Some(position) = self.position(key) {
            let present = &mut self.as_mut_slice()[position].1;
            return Some(std::mem::replace(present, options));
        }
        self.0 = match std::mem::replace(&mut self.0, Form::Empty) {
            Form::Empty => Form::One((key, options)),
            Form::One(first) => Form::Many(Box::new(Many {
                list: vec![first, (key, options)],
                positions: None,
            })),
            Form::Many(mut many) => {
                many.push(key, options);
                Form::Many(many)
            }
        };
        None
    }

    /// Removes a key; the last one takes its position.
    pub fn remove(&mut self, key: K) -> Option<O> {
        Some(self.remove_at(self.position(key)?))
    }

    /// The options of a key.
    pub fn get(&self, key: K) -> Option<&O> {
        Some(&self.as_slice()[self.position(key)?].1)
    }

    /// Where a key is in [`as_slice`](Self::as_slice).
    pub fn position(&self, key: K) -> Option<usize> {
        if let Form::Many(many) = &self.0
            && let Some(positions) = &many.positions
        {
            return positions.get(&key).map(|position| *position as usize);
        }
        self.as_slice()
            .iter()
            .position(|(present, _)| *present == key)
    }

    /// All keys with their options.
    pub fn as_slice(&self) -> &[(K, O)] {
        match &self.0 {
            Form::Empty => &[],
            Form::One(one) => std::slice::from_ref(one),
            Form::Many(many) => &many.list,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is nobody.
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, Form::Empty)
    }

    /// Removes what is at a position below [`len`](Self::len); the last one takes the position.
    pub(crate) fn remove_at(&mut self, position: usize) -> O {
        if self.len() > 1
            && let Form::Many(many) = &mut self.0
        {
            return many.swap_remove(position);
        }
        match std::mem::replace(&mut self.0, Form::Empty) {
            Form::Empty => unreachable!("a position below the length was given"),
            Form::One((_, options)) => options,
            Form::Many(mut many) => many.swap_remove(position),
        }
    }

    fn as_mut_slice(&mut self) -> &mut [(K, O)] {
        match &mut self.0 {
            Form::Empty => &mut [],
            Form::One(one) => std::slice::from_mut(one),
            Form::Many(many) => &mut many.list,
        }
    }
}

impl<K: Copy + Eq + Hash, O> Default for Subscribers<K, O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Copy + Eq + Hash, O> Many<K, O> {
    fn push(&mut self, key: K, options: O) {
        let position = self.list.len() as u32;
        self.list.push((key, options));
        if let Some(positions) = &mut self.positions {
            positions.insert(key, position);
        } else if self.list.len() > SCANNED_MAX {
            let all = self
                .list
                .iter()
                .zip(0..)
                .map(|((key, _), position)| (*key, position));
            self.positions = Some(all.collect());
        }
    }

    fn swap_remove(&mut self, position: usize) -> O {
        let (key, options) = self.list.swap_remove(position);
        if let Some(positions) = &mut self.positions {
            positions.remove(&key);
            if let Some((moved, _)) = self.list.get(position) {
                positions.insert(*moved, position as u32);
            }
        }
        // A list that was long once gives its memory back; the gap to `SCANNED_MAX` keeps it from flapping.
        if self.list.len() < SCANNED_MAX / 2 {
            self.positions = None;
        }
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((any::<bool>(), 0..200_u32), 0..2000)) {
            let mut subscribers = Subscribers::new();
            let mut model = BTreeMap::new();
            for (number, (insert, key)) in steps.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(subscribers.insert(key, number), model.insert(key, number));
                } else {
                    prop_assert_eq!(subscribers.remove(key), model.remove(&key));
                }
                prop_assert_eq!(subscribers.is_empty(), model.is_empty());
            }
            let all: BTreeMap<u32, usize> = subscribers.as_slice().iter().copied().collect();
            prop_assert_eq!(subscribers.len(), model.len());
            prop_assert_eq!(&all, &model);
            for (key, number) in model {
                prop_assert_eq!(subscribers.get(key), Some(&number));
                prop_assert_eq!(subscribers.as_slice()[subscribers.position(key).unwrap()].0, key);
            }
        }
    }

    #[test]
    fn is_small_for_one() {
        assert!(size_of::<Subscribers<u32, [u32; 2]>>() <= 16);
    }
}
