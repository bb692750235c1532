//! The topics that messages wait under, each with a number.

use std::collections::BTreeMap;
use std::ops::Bound;

use magpie_codec::{TopicFilter, TopicName};

/// Topics in order of their names, so that a filter's literal beginning leads to the few that it can match.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_name: BTreeMap<TopicName, u32>,
    topics: Vec<Topic>,
    free: Vec<u32>,
    /// Changes whenever a number gets another meaning.
    generation: u64,
}

/// A topic's messages among the kept ones, and among the young ones.
#[derive(Debug)]
struct Topic {
    /// `None`: the number is free.
    name: Option<TopicName>,
    kept: Chain,
    young: Chain,
}

/// The first and the last of a topic's messages; what is in between is linked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) count: u32,
    /// Of the records of those that are not gone.
    pub(super) bytes: u64,
}

/// Which of a topic's two chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Kept,
    Young,
}

impl Topics {
    /// How many topics there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Changes whenever a number gets another meaning.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Numbers are below this.
    pub(super) fn end(&self) -> usize {
        self.topics.len()
    }

    pub(super) fn name(&self, topic: u32) -> Option<&TopicName> {
        self.topics[topic as usize].name.as_ref()
    }

    pub(super) fn number(&mut self, name: &TopicName) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        self.generation += 1;
        // Names are slices of log entries.
        let name = name.compact();
        let topic = Topic {
            name: Some(name.clone()),
            kept: Chain::default(),
            young: Chain::default(),
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.topics[number as usize] = topic;
                number
            }
            None => {
                self.topics.push(topic);
                u32::try_from(self.topics.len() - 1).expect("fewer topics than messages")
            }
        };
        self.by_name.insert(name, number);
        number
    }

    pub(super) fn chain(&self, topic: u32, age: Age) -> Chain {
        let topic = &self.topics[topic as usize];
        match age {
            Age::Kept => topic.kept,
            Age::Young => topic.young,
        }
    }

    pub(super) fn chain_mut(&mut self, topic: u32, age: Age) -> &mut Chain {
        let topic = &mut self.topics[topic as usize];
        match age {
            Age::Kept => &mut topic.kept,
            Age::Young => &mut topic.young,
        }
    }

    /// Forgets the topic if it has no message any more.
    pub(super) fn release(&mut self, number: u32) {
        let topic = &mut self.topics[number as usize];
        if topic.kept.count > 0 || topic.young.count > 0 {
            return;
        }
        if let Some(name) = topic.name.take() {
            self.by_name.remove(&name);
            self.free.push(number);
        }
    }

    /// Empties every topic's chain of that age; [`release`](Self::release) is the caller's.
    pub(super) fn clear(&mut self, age: Age) {
        for topic in 0..self.topics.len() as u32 {
            *self.chain_mut(topic, age) = Chain::default();
        }
    }

    /// The topics that any of the filters matches, ascending; `None` when more than `looked_at_max` would have to be looked at.
    pub(super) fn matching(
        &self,
        filters: &[TopicFilter],
        looked_at_max: usize,
    ) -> Option<Vec<u32>> {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        for filter in filters {
            looked_at += 1;
            if looked_at > looked_at_max {
                return None;
            }
            if filter.is_exact() {
                found.extend(self.by_name.get(filter.filter()).copied());
                continue;
            }
            let (prefix, parent) = literal_beginning(filter.filter());
            let parent = parent.and_then(|parent| self.by_name.get_key_value(parent));
            let parent = parent.filter(|(name, _)| filter.matches(name));
            found.extend(parent.map(|(_, number)| *number));
            let from = (Bound::Included(prefix), Bound::Unbounded);
            for (name, number) in self.by_name.range::<str, _>(from) {
                if !name.as_str().starts_with(prefix) {
                    break;
                }
                looked_at += 1;
                if looked_at > looked_at_max {
                    return None;
                }
                if filter.matches(name) {
                    found.push(*number);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Some(found)
    }

    /// Bytes that the topics take, about.
    pub(super) fn memory(&self) -> usize {
        let texts: usize = self.by_name.keys().map(|name| name.as_str().len()).sum();
        let fixed = size_of::<Topic>() + size_of::<(TopicName, u32)>() * 3 / 2 + 64;
        self.topics.len() * fixed + texts
    }
}

/// What every topic that the filter matches begins with, except for one: `sport/#` matches `sport`, too.
fn literal_beginning(filter: &str) -> (&str, Option<&str>) {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    let prefix = &filter[..end];
    let parent = filter[end..].starts_with('#').then_some(prefix);
    (prefix, parent.and_then(|prefix| prefix.strip_suffix('/')))
}
