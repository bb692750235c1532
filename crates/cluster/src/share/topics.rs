//! Which share groups a message is for.

use magpie_codec::{TopicFilter, TopicName};
use magpie_router::FilterMap;
use magpie_state::ShareGroupId;

/// The groups of a partition by their filters.
#[derive(Default)]
pub(super) struct Topics {
    by_filter: FilterMap<Vec<ShareGroupId>>,
    /// Filters that the map does not take, because they are too deep or too many shapes of them are there: asked one by one.
    beside: Vec<(TopicFilter, ShareGroupId)>,
}

impl Topics {
    /// `filter` is without share name.
    pub(super) fn insert(&mut self, filter: TopicFilter, group: ShareGroupId) {
        match self.by_filter.get_or_insert_with(&filter, Vec::new) {
            Ok((_, groups)) => groups.push(group),
            Err(_) => self.beside.push((filter, group)),
        }
    }

    pub(super) fn for_each_match(&self, topic: &TopicName, mut f: impl FnMut(ShareGroupId)) {
        self.by_filter
            .for_each_match(topic, |_, groups| groups.iter().for_each(|group| f(*group)));
        for (filter, group) in &self.beside {
            if filter.matches(topic) {
                f(*group);
            }
        }
    }
}
