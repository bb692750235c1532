//! How many Sessions of this partition belong to each user. Derived from the rows; a name is stored once, however many are the user's.

use std::collections::HashMap;
use std::sync::Arc;

/// Users with at least one Session here.
#[derive(Debug, Default)]
pub(super) struct Owners {
    counts: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
}

impl Owners {
    /// How many are a user's.
    pub(super) fn count(&self, name: &str) -> u32 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// One more is a user's: the name, as all of them have it.
    pub(super) fn count_in(&mut self, name: &str) -> Arc<str> {
        if let Some((shared, _)) = self.counts.get_key_value(name) {
            let shared = Arc::clone(shared);
            *self.counts.entry(Arc::clone(&shared)).or_default() += 1;
            return shared;
        }
        let shared: Arc<str> = name.into();
        self.counts.insert(Arc::clone(&shared), 1);
        shared
    }

    /// One of a user's is gone.
    pub(super) fn count_out(&mut self, name: &str) {
        if let Some(count) = self.counts.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(name);
            }
        }
    }
}
