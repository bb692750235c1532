//! The rows by client and by number. A number is valid while its row is there; replicas number differently.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;

use super::session::Session;

#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Option<Box<Session>>>,
    free: Vec<u32>,
    by_client: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn find(&self, client: &str) -> Option<u32> {
        let is_it = |number: &u32| &*self.at(*number).client == client;
        self.by_client
            .find(self.hasher.hash_one(client), is_it)
            .copied()
    }

    pub(super) fn at(&self, number: u32) -> &Session {
        self.slots[number as usize]
            .as_deref()
            .expect("a number is dropped with its row")
    }

    pub(super) fn at_mut(&mut self, number: u32) -> &mut Session {
        self.slots[number as usize]
            .as_deref_mut()
            .expect("a number is dropped with its row")
    }

    /// Adds the row of a client that has none.
    pub(super) fn insert(&mut self, session: Session) -> u32 {
        let hash = self.hasher.hash_one(&*session.client);
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 sessions")
            }
        };
        self.slots[number as usize] = Some(Box::new(session));
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |number: &u32| {
            let session = slots[*number as usize].as_deref();
            hasher.hash_one(&*session.expect("a number is dropped with its row").client)
        };
        self.by_client.insert_unique(hash, number, rehash);
        number
    }

    pub(super) fn remove(&mut self, number: u32) -> Box<Session> {
        let hash = self.hasher.hash_one(&*self.at(number).client);
        if let Ok(entry) = self.by_client.find_entry(hash, |of| *of == number) {
            entry.remove();
        }
        self.free.push(number);
        self.slots[number as usize]
            .take()
            .expect("a number is dropped with its row")
    }

    /// As [`iter`](Self::iter), from a number on.
    pub(super) fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, &Session)> {
        let slots = self.slots.get(from as usize..).unwrap_or_default();
        (from..)
            .zip(slots)
            .filter_map(|(number, slot)| Some((number, slot.as_deref()?)))
    }

    /// In no order that another replica would share.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Session)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(number, slot)| Some((number, slot.as_deref()?)))
    }
}
