//! A bounded memory of what was proven, without what it was proven with: keyed hashes that expire.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// A keyed hash. The key is random, and of this process.
pub(crate) type Key = [u8; 32];

/// What was proven, and until when that holds.
#[derive(Debug)]
pub(crate) struct Proven<T = ()> {
    secret: [u8; 32],
    keep: Duration,
    entries_max: usize,
    entries: Mutex<HashMap<Key, (Instant, T)>>,
}

impl<T: Clone> Proven<T> {
    pub(crate) fn new(keep: Duration, entries_max: usize) -> Self {
        Self {
            secret: random(),
            keep,
            entries_max,
            entries: Mutex::default(),
        }
    }

    /// The key of some parts, each with its length: no two lists of parts have the same.
    pub(crate) fn key(&self, parts: &[&[u8]]) -> Key {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<T> {
        let entries = self.lock();
        let (until, value) = entries.get(key)?;
        (*until > Instant::now()).then(|| value.clone())
    }

    pub(crate) fn put(&self, key: Key, value: T) {
        if self.keep.is_zero() || self.entries_max == 0 {
            return;
        }
        let now = Instant::now();
        let Some(until) = now.checked_add(self.keep) else {
            return;
        };
        let mut entries = self.lock();
        if entries.len() >= self.entries_max {
            entries.retain(|_, (until, _)| *until > now);
        }
        if entries.len() >= self.entries_max {
            // Any half: which one costs nothing but another check.
            let mut is_kept = false;
            entries.retain(|_, _| {
                is_kept = !is_kept;
                is_kept
            });
        }
        entries.insert(key, (until, value));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, T)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proven {
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn insert(&self, key: Key) {
        self.put(key, ());
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let proven = Proven::<()>::new(Duration::from_secs(1), 1);
        assert_ne!(proven.key(&[b"ab", b"c"]), proven.key(&[b"a", b"bc"]));
        assert_eq!(proven.key(&[b"ab", b"c"]), proven.key(&[b"ab", b"c"]));
    }

    #[test]
    fn it_is_bounded_and_forgets() {
        let proven = Proven::new(Duration::from_secs(60), 100);
        for n in 0..1000_u32 {
            proven.put(proven.key(&[&n.to_le_bytes()]), n);
        }
        assert!(proven.lock().len() <= 100);
        let last = proven.key(&[&999_u32.to_le_bytes()]);
        assert_eq!(proven.get(&last), Some(999));
        let never = Proven::new(Duration::ZERO, 100);
        never.put([0; 32], 1);
        assert_eq!(never.get(&[0; 32]), None);
    }
}
