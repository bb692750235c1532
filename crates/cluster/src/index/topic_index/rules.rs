//! What limits by time and bytes are about: the oldest kept messages of some topics.

use magpie_codec::TopicFilter;
use magpie_state::Position;

use super::{Age, LOST_MAX, TopicIndex, Waiting, WaitingMessage};

impl TopicIndex {
    /// A message at this place, or close to it, was published then; in order.
    pub(in super::super) fn note_time(&mut self, position: Position, published_ms: u64) {
        self.times.note(position, published_ms);
    }

    /// Messages up to here were published by then, milliseconds since 1970.
    pub(in super::super) fn published_by(&self, ms: u64) -> Position {
        self.times.published_by(ms)
    }

    /// When the newest message was published, about.
    pub(in super::super) fn newest_ms(&self) -> u64 {
        self.times.newest_ms()
    }

    /// Bytes of the kept messages that a filter matches; without one, of all.
    pub(in super::super) fn kept_bytes_of(&self, filter: Option<&TopicFilter>) -> u64 {
        let Some(filter) = filter else {
            return self.kept_bytes;
        };
        let topics = self
            .topics
            .matching(std::slice::from_ref(filter), usize::MAX);
        let topics = topics.unwrap_or_default().into_iter();
        topics
            .map(|topic| self.topics.chain(topic, Age::Kept).bytes)
            .sum()
    }

    /// The oldest kept messages that a filter matches, of those up to a place: as many as have `bytes` bytes together, and at most as many
    /// as said.
    pub(in super::super) fn oldest_kept_of(
        &self,
        filter: Option<&TopicFilter>,
        upto: Position,
        bytes: u64,
        count_max: usize,
        topics_max: usize,
    ) -> Waiting {
        let mut waiting = Waiting::default();
        // By number: which of the topics it is, if it matches.
        let mut numbers =
            hashbrown::HashMap::<u32, Option<u32>, foldhash::fast::FixedState>::default();
        let (mut left, mut number) = (bytes, self.kept.first());
        while number != self.kept.next()
            && self.kept.position(number) <= upto
            && left > 0
            && waiting.messages.len() < count_max
        {
            if let Some(message) = self.kept.message(number) {
                let topics = &mut waiting.topics;
                let topic = *numbers.entry(message.topic).or_insert_with(|| {
                    let name = self.topics.name(message.topic)?;
                    let matches = filter.is_none_or(|filter| filter.matches(name));
                    if !matches || topics.len() >= topics_max {
                        return None;
                    }
                    topics.push(name.clone());
                    u32::try_from(topics.len() - 1).ok()
                });
                if let Some(topic) = topic {
                    left = left.saturating_sub(u64::from(message.bytes));
                    waiting.messages.push(WaitingMessage {
                        position: message.position,
                        topic,
                        bytes: message.bytes,
                    });
                }
            }
            number = number.wrapping_add(1);
        }
        waiting
    }

    /// A limit: these kept messages go (ascending).
    pub(in super::super) fn lose_at(&mut self, positions: &[Position]) {
        for position in positions {
            let number = self.kept.above(*position).wrapping_sub(1);
            if self.kept.len() == 0 || number == self.kept.first().wrapping_sub(1) {
                continue;
            }
            let message = self.kept.message(number);
            let Some(message) = message.filter(|message| message.position == *position) else {
                continue;
            };
            let name = self.topics.name(message.topic).cloned();
            let at = self.lost.partition_point(|(lost, _)| *lost < *position);
            if let Some(name) = name {
                self.lost.insert(at, (*position, name));
            }
            while self.lost.len() > LOST_MAX {
                self.lost.pop_front();
            }
        }
        self.forget(positions);
    }
}
