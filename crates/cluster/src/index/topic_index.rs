//! Which messages of a partition wait, by topic and in order: pure, fed by whoever reads the log.

mod rules;
mod times;
mod weigh;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use magpie_codec::{TopicFilter, TopicName};
use magpie_state::Position;

use super::columns::{Columns, Placed};
use super::topics::{Age, Topics};

pub(crate) use weigh::WaitingFor;
pub(super) use weigh::Wanted;

/// Topics that a search looks at before it rather goes through the messages.
const TOPICS_LOOKED_AT: usize = 4096;
/// Following the chain of a topic costs so many times what going past a message does.
const CHAIN_COST: u64 = 8;
/// Records of so many different entries at most are found at once: each entry is read.
const ENTRIES_MAX: usize = 2048;
/// Kept messages that are gone are swept out when there are more than this, and more than are there.
const GONE_MAX: u32 = 4096;
/// Lost messages that are remembered, to tell sessions of them.
const LOST_MAX: usize = 16_384;

/// A message that was found, and where its record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: Position,
    /// Where the record lies in the entry, if the log has it.
    pub(super) offset: u32,
    /// Length of the record, in bytes.
    pub(super) bytes: u32,
}

/// What a search came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    /// In log order.
    pub(super) found: Vec<Found>,
    /// Nothing behind this was looked at; `None`: everything was.
    pub(super) upto: Option<Position>,
}

/// A range of waiting messages, to be asked about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The topics of these messages, each once.
    pub(crate) topics: Vec<TopicName>,
    /// In log order.
    pub(crate) messages: Vec<WaitingMessage>,
    /// Log index up to which the range is complete.
    pub(crate) upto: u64,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingMessage {
    pub(crate) position: Position,
    /// Which of the topics.
    pub(crate) topic: u32,
    /// Length of its record.
    pub(crate) bytes: u32,
}

/// The messages that wait in one partition, on one replica.
///
/// Kept ones are those at or below the trimmed index that somebody needed when it was trimmed; young ones are all that came later.
#[derive(Debug, Default)]
pub(super) struct TopicIndex {
    topics: Topics,
    kept: Columns,
    young: Columns,
    kept_bytes: u64,
    young_bytes: u64,
    /// Index up to which the log was trimmed: no message at or below it is young.
    trimmed: u64,
    /// Messages that a limit removed, the latest of them, in log order.
    lost: VecDeque<(Position, TopicName)>,
    times: times::Times,
}

impl TopicIndex {
    /// Without a message, trimmed up to an index.
    pub(super) fn new(trimmed: u64) -> Self {
        Self {
            trimmed,
            ..Self::default()
        }
    }

    pub(super) const fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// Bytes of the records of kept messages.
    pub(super) const fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Bytes of the records of young messages.
    pub(super) const fn young_bytes(&self) -> u64 {
        self.young_bytes
    }

    pub(super) const fn kept_count(&self) -> u32 {
        self.kept.len() - self.kept.gone()
    }

    pub(super) const fn young_count(&self) -> u32 {
        self.young.len()
    }

    /// Adds a message behind all others.
    pub(super) fn add(&mut self, topic: &TopicName, found: Found) {
        let topic = self.topics.number(topic);
        let age = if found.position.index() > self.trimmed {
            Age::Young
        } else {
            Age::Kept
        };
        self.push(topic, found, age);
    }

    /// Everything up to `upto` is trimmed, but for the messages at `keep` (ascending). As the state does it: nothing if it was already.
    pub(super) fn trim(&mut self, upto: u64, keep: &[Position]) {
        if upto <= self.trimmed {
            return;
        }
        self.trimmed = upto;
        let mut keep = keep.iter().copied().peekable();
        while self.young.len() > 0 {
            let number = self.young.first();
            let position = self.young.position(number);
            if position.index() > upto {
                break;
            }
            let message = self.young.message(number);
            let topic = self.young.topic(number);
            let after = self.young.pop();
            let chain = self.topics.chain_mut(topic, Age::Young);
            chain.count -= 1;
            chain.first = after.unwrap_or(chain.first);
            let bytes = message.map_or(0, |message| u64::from(message.bytes));
            chain.bytes -= bytes;
            self.young_bytes -= bytes;
            while keep.next_if(|kept| *kept < position).is_some() {}
            if let (Some(_), Some(message)) = (keep.next_if_eq(&position), message) {
                let Placed {
                    position,
                    offset,
                    bytes,
                    ..
                } = message;
                let found = Found {
                    position,
                    offset,
                    bytes,
                };
                self.push(topic, found, Age::Kept);
            } else {
                self.topics.release(topic);
            }
        }
    }

    /// Nobody needs these kept messages any more.
    pub(super) fn forget(&mut self, positions: &[Position]) {
        for position in positions {
            let number = self.kept.above(*position).wrapping_sub(1);
            if self.kept.len() == 0 || number == self.kept.first().wrapping_sub(1) {
                continue;
            }
            if self.kept.position(number) == *position
                && let Some(message) = self.kept.message(number)
            {
                self.kept.remove(number);
                self.kept_bytes -= u64::from(message.bytes);
                self.topics.chain_mut(message.topic, Age::Kept).bytes -= u64::from(message.bytes);
            }
        }
        while self.kept.len() > 0 && self.kept.message(self.kept.first()).is_none() {
            let topic = self.kept.topic(self.kept.first());
            let after = self.kept.pop();
            let chain = self.topics.chain_mut(topic, Age::Kept);
            chain.count -= 1;
            chain.first = after.unwrap_or(chain.first);
            self.topics.release(topic);
        }
        if self.kept.gone() > GONE_MAX && self.kept.gone() > self.kept.len() / 2 {
            self.sweep();
        }
    }

    /// A limit: every message up to a place goes, as the state does it.
    pub(super) fn lose(&mut self, upto: Position) {
        if upto == Position::end_of(upto.index()) && upto.index() > self.trimmed {
            let young = self.range(
                Age::Young,
                self.young.first(),
                upto.index(),
                usize::MAX,
                usize::MAX,
                u64::MAX,
            );
            let keep: Vec<Position> = young.messages.iter().map(|it| it.position).collect();
            self.trim(upto.index(), &keep);
        }
        let mut gone = Vec::new();
        let mut number = self.kept.first();
        while number != self.kept.next() && self.kept.position(number) <= upto {
            if let Some(message) = self.kept.message(number) {
                gone.push(message.position);
            }
            number = number.wrapping_add(1);
        }
        self.lose_at(&gone);
    }

    /// How many messages above `after` that any of the filters matches a limit removed, as far as is known.
    pub(super) fn lost(&self, filters: &[TopicFilter], after: Position) -> u64 {
        let from = self
            .lost
            .partition_point(|(position, _)| *position <= after);
        let lost = self.lost.range(from..);
        lost.filter(|(_, topic)| filters.iter().any(|filter| filter.matches(topic)))
            .count() as u64
    }

    /// The messages above `after` that any of the filters matches, in order: as many as fit into `bytes_max`, at least one if one is
    /// looked at. Goes past `places_max` messages at most.
    pub(super) fn search(
        &self,
        filters: &[TopicFilter],
        after: Position,
        bytes_max: usize,
        places_max: u32,
    ) -> Search {
        let mut taken = Taken::new(bytes_max, places_max);
        let matching = self.topics.matching(filters, TOPICS_LOOKED_AT);
        for age in [Age::Kept, Age::Young] {
            let columns = self.columns(age);
            let from = columns.above(after);
            let left = u64::from(columns.next().wrapping_sub(from));
            if left == 0 {
                continue;
            }
            let chained = matching.as_deref().map(|topics| {
                let counts = topics.iter();
                let counts = counts.map(|topic| u64::from(self.topics.chain(*topic, age).count));
                (topics, counts.sum::<u64>())
            });
            let went = match chained {
                Some((_, 0)) => Went::Through,
                Some((topics, count)) if count.saturating_mul(CHAIN_COST) < left => {
                    self.follow_chains(topics, age, after, &mut taken)
                }
                Some(([topic], _)) => go_through(columns, from, |of| of == *topic, &mut taken),
                Some((topics, _)) => {
                    let mut is_wanted = vec![false; self.topics.end()];
                    topics.iter().for_each(|of| is_wanted[*of as usize] = true);
                    go_through(columns, from, |of| is_wanted[of as usize], &mut taken)
                }
                None => self.match_each(filters, columns, from, &mut taken),
            };
            match went {
                Went::Through => {}
                Went::Full => {
                    taken.search.upto = taken.search.found.last().map(|last| last.position);
                    break;
                }
                Went::Upto(number) => {
                    taken.search.upto = Some(columns.position(number));
                    break;
                }
            }
        }
        taken.search
    }

    /// Those of the messages at these positions that there are.
    pub(super) fn at(&self, positions: &[Position]) -> Vec<Found> {
        let found = positions.iter().filter_map(|position| {
            let columns = self.columns(if position.index() > self.trimmed {
                Age::Young
            } else {
                Age::Kept
            });
            let above = columns.above(*position);
            if above == columns.first() {
                return None;
            }
            let message = columns.message(above.wrapping_sub(1))?;
            (message.position == *position).then(|| message.into())
        });
        found.collect()
    }

    /// Young messages from the oldest on, up to log index `upto`: whole entries, at least one, of about `count_max` messages and
    /// `topics_max` topics.
    pub(super) fn oldest_young(&self, upto: u64, count_max: usize, topics_max: usize) -> Waiting {
        self.range(
            Age::Young,
            self.young.first(),
            upto,
            count_max,
            topics_max,
            u64::MAX,
        )
    }

    /// Kept messages above `after`, at most as many as said.
    pub(super) fn kept_after(
        &self,
        after: Position,
        count_max: usize,
        topics_max: usize,
        bytes_max: u64,
    ) -> Waiting {
        let from = self.kept.above(after);
        self.range(Age::Kept, from, u64::MAX, count_max, topics_max, bytes_max)
    }

    /// Bytes of memory, about.
    pub(super) fn memory(&self) -> usize {
        self.kept.memory() + self.young.memory() + self.topics.memory()
    }

    /// How many topics have waiting messages.
    pub(super) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    const fn columns(&self, age: Age) -> &Columns {
        match age {
            Age::Kept => &self.kept,
            Age::Young => &self.young,
        }
    }

    fn push(&mut self, topic: u32, found: Found, age: Age) {
        let columns = match age {
            Age::Kept => {
                self.kept_bytes += u64::from(found.bytes);
                &mut self.kept
            }
            Age::Young => {
                self.young_bytes += u64::from(found.bytes);
                &mut self.young
            }
        };
        let Found {
            position,
            offset,
            bytes,
        } = found;
        let number = columns.push(Placed {
            position,
            topic,
            offset,
            bytes,
        });
        let chain = self.topics.chain_mut(topic, age);
        if chain.count == 0 {
            chain.first = number;
        } else {
            columns.link(chain.last, number);
        }
        chain.last = number;
        chain.count += 1;
        chain.bytes += u64::from(bytes);
    }

    /// Merges the chains of some topics.
    fn follow_chains(&self, topics: &[u32], age: Age, after: Position, taken: &mut Taken) -> Went {
        let columns = self.columns(age);
        let mut heads = BinaryHeap::with_capacity(topics.len());
        for topic in topics {
            let chain = self.topics.chain(*topic, age);
            if chain.count == 0 || columns.position(chain.last) <= after {
                continue;
            }
            let mut number = chain.first;
            while columns.position(number) <= after {
                match columns.after(number) {
                    Some(next) => number = next,
                    None => break,
                }
            }
            heads.push(Reverse((columns.position(number), number)));
        }
        while let Some(Reverse((_, number))) = heads.pop() {
            if let Some(message) = columns.message(number)
                && !taken.take(message)
            {
                return Went::Full;
            }
            if let Some(next) = columns.after(number) {
                heads.push(Reverse((columns.position(next), next)));
            }
        }
        Went::Through
    }

    /// Goes through the messages, and matches each topic when it is met first.
    fn match_each(
        &self,
        filters: &[TopicFilter],
        columns: &Columns,
        from: u32,
        taken: &mut Taken,
    ) -> Went {
        let mut known: Vec<Option<bool>> = vec![None; self.topics.end()];
        let is_wanted = |topic: u32| {
            *known[topic as usize].get_or_insert_with(|| {
                let name = self.topics.name(topic);
                name.is_some_and(|name| filters.iter().any(|filter| filter.matches(name)))
            })
        };
        go_through(columns, from, is_wanted, taken)
    }

    fn range(
        &self,
        age: Age,
        from: u32,
        upto: u64,
        count_max: usize,
        topics_max: usize,
        bytes_max: u64,
    ) -> Waiting {
        let columns = self.columns(age);
        let mut waiting = Waiting {
            upto,
            ..Waiting::default()
        };
        let mut numbers = hashbrown::HashMap::with_hasher(foldhash::fast::RandomState::default());
        let mut bytes = 0;
        let mut number = from;
        while number != columns.next() {
            let position = columns.position(number);
            if position.index() > upto {
                break;
            }
            let is_full = waiting.messages.len() >= count_max
                || waiting.topics.len() >= topics_max
                || bytes >= bytes_max;
            let last = waiting.messages.last().map(|last| last.position.index());
            if is_full && last != Some(position.index()) {
                waiting.upto = position.index() - 1;
                break;
            }
            if let Some(message) = columns.message(number) {
                let topic = *numbers.entry(message.topic).or_insert_with(|| {
                    waiting
                        .topics
                        .extend(self.topics.name(message.topic).cloned());
                    waiting.topics.len() as u32 - 1
                });
                bytes += u64::from(message.bytes);
                waiting.messages.push(WaitingMessage {
                    position,
                    topic,
                    bytes: message.bytes,
                });
            }
            number = number.wrapping_add(1);
        }
        waiting
    }

    /// Writes the kept messages anew, without those that are gone.
    fn sweep(&mut self) {
        let old = std::mem::take(&mut self.kept);
        self.topics.clear(Age::Kept);
        self.kept_bytes = 0;
        let mut number = old.first();
        while number != old.next() {
            if let Some(message) = old.message(number) {
                self.push(message.topic, message.into(), Age::Kept);
            }
            number = number.wrapping_add(1);
        }
        for topic in 0..self.topics.end() as u32 {
            self.topics.release(topic);
        }
    }
}

/// What a search takes, up to its limits.
struct Taken {
    search: Search,
    bytes: usize,
    bytes_max: usize,
    entries: usize,
    /// Messages that may still be gone past.
    places: u32,
}

/// How far a search came in the columns.
enum Went {
    Through,
    /// There is no room for the next one.
    Full,
    /// This was the last that it might go past.
    Upto(u32),
}

impl Taken {
    fn new(bytes_max: usize, places: u32) -> Self {
        Self {
            places,
            search: Search::default(),
            bytes: 0,
            bytes_max,
            entries: 0,
        }
    }

    /// Takes a message, unless there is no room.
    fn take(&mut self, message: Placed) -> bool {
        let last = self.search.found.last();
        let is_new = last.is_none_or(|last| last.position.index() != message.position.index());
        let bytes = self.bytes.saturating_add(message.bytes as usize);
        if last.is_some() && (bytes > self.bytes_max || (is_new && self.entries == ENTRIES_MAX)) {
            return false;
        }
        self.bytes = bytes;
        self.entries += usize::from(is_new);
        self.search.found.push(message.into());
        true
    }
}

fn go_through(
    columns: &Columns,
    mut from: u32,
    mut is_wanted: impl FnMut(u32) -> bool,
    taken: &mut Taken,
) -> Went {
    // At least one, so that each search gets further.
    let left = columns.next().wrapping_sub(from);
    let places = left.min(taken.places.max(1));
    taken.places = taken.places.saturating_sub(places);
    let to = from.wrapping_add(places);
    while let Some(number) = columns.find(from, to, &mut is_wanted) {
        if let Some(message) = columns.message(number)
            && !taken.take(message)
        {
            return Went::Full;
        }
        from = number.wrapping_add(1);
    }
    if to == columns.next() {
        Went::Through
    } else {
        Went::Upto(to.wrapping_sub(1))
    }
}

impl From<Placed> for Found {
    fn from(message: Placed) -> Self {
        let Placed {
            position,
            offset,
            bytes,
            ..
        } = message;
        Self {
            position,
            offset,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests;
