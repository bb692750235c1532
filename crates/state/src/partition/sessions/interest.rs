//! Which Sessions messages of a topic wait for.

use std::collections::BTreeMap;

use magpie_codec::{TopicFilter, TopicName};
use magpie_router::{FilterMap, Subscribers};

#[derive(Debug, Default)]
pub(in super::super) struct Interest {
    by_filter: FilterMap<Subscribers<u32, ()>>,
    /// Filters that the index does not take, because they are too deep or too many shapes of them are there: asked one by one.
    beside: BTreeMap<TopicFilter, Vec<u32>>,
}

impl Interest {
    pub(in super::super) fn add(&mut self, filter: &TopicFilter, number: u32) {
        match self.by_filter.get_or_insert_with(filter, Subscribers::new) {
            Ok((_, subscribers)) => {
                subscribers.insert(number, ());
            }
            Err(_) => {
                let numbers = self.beside.entry(filter.compact()).or_default();
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
        }
    }

    pub(in super::super) fn remove(&mut self, filter: &TopicFilter, number: u32) {
        if let Some(subscribers) = self.by_filter.get_mut(filter) {
            subscribers.remove(number);
            if subscribers.is_empty() {
                self.by_filter.remove(filter);
            }
        }
        // Also where the index took it meanwhile for another Session.
        if let Some(numbers) = self.beside.get_mut(filter) {
            numbers.retain(|of| *of != number);
            if numbers.is_empty() {
                self.beside.remove(filter);
            }
        }
    }

    /// Calls `f` with every filter that matches, and each Session that has it.
    pub(in super::super) fn for_each_match(&self, topic: &TopicName, mut f: impl FnMut(&str, u32)) {
        self.by_filter.for_each_match(topic, |id, subscribers| {
            let filter = self.by_filter.filter(id).expect("it just matched");
            for (number, ()) in subscribers.as_slice() {
                f(filter, *number);
            }
        });
        for (filter, numbers) in &self.beside {
            if filter.matches(topic) {
                numbers
                    .iter()
                    .for_each(|number| f(filter.as_str(), *number));
            }
        }
    }
}
