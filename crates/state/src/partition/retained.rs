//! Retained messages: the newest of each topic.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::{TopicFilter, TopicName};

use super::{Changed, PartitionLimits, table};
use crate::wire::read_u64;
use crate::{DecodeError, Position, Publish, Record};

/// The retained message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// The topic.
    pub topic: TopicName,
    /// Where it was in the log: an order to compare with a subscription's `since`.
    pub position: Position,
    /// The message. Whether it has expired is for the reader to judge.
    pub publish: Publish,
}

#[derive(Debug, Default)]
pub(super) struct RetainedMessages {
    // [MQTT-3.1.2-7 v3.1.1]: of no session.
    by_topic: BTreeMap<TopicName, Entry>,
    /// Of the records.
    bytes: u64,
    /// Messages that were not kept for want of room. This replica's own count.
    not_kept: u64,
}

/// What became of a publish with the RETAIN flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retaining {
    /// It is the retained message of its topic, or has cleared it.
    Done,
    /// It would be one topic more than there may be, or too many bytes.
    Full,
}

#[derive(Debug)]
struct Entry {
    position: Position,
    /// The record's bytes, in an allocation of their own: the log entry they come from is not kept for them.
    record: Box<[u8]>,
}

impl RetainedMessages {
    /// Takes over a publish with the RETAIN flag. The message of a topic that has one can always be replaced by one that takes no more room.
    pub(super) fn publish(
        &mut self,
        position: Position,
        publish: &Publish,
        limits: &PartitionLimits,
        changed: &mut Changed,
    ) -> Retaining {
        let topic = publish.message.topic.as_str();
        // [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-10 v3.1.1], [MQTT-3.3.1-11 v3.1.1]: an empty payload removes the
        // retained message.
        if publish.message.payload.is_empty() {
            if let Some(gone) = self.by_topic.remove(topic) {
                self.bytes -= gone.record.len() as u64;
                changed.insert(key(topic));
            }
            return Retaining::Done;
        }
        let mut record = BytesMut::new();
        publish.encode(&mut record);
        let entry = Entry {
            position,
            record: record[..].into(),
        };
        let bytes = entry.record.len() as u64;
        let known = self.by_topic.get(topic);
        let room_before = known.map_or(0, |known| known.record.len() as u64);
        let grows_too_much =
            bytes > room_before && self.bytes - room_before + bytes > limits.retained_bytes_max;
        let is_one_too_many = known.is_none() && self.by_topic.len() as u64 >= limits.retained_max;
        if grows_too_much || is_one_too_many {
            self.not_kept += 1;
            return Retaining::Full;
        }
        // [MQTT-3.3.1-5], [MQTT-3.3.1-5 v3.1.1], [MQTT-3.3.1-7 v3.1.1]
        match self.by_topic.get_mut(topic) {
            Some(known) => *known = entry,
            None => drop(self.by_topic.insert(publish.message.topic.compact(), entry)),
        }
        self.bytes = self.bytes - room_before + bytes;
        changed.insert(key(topic));
        Retaining::Done
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn not_kept(&self) -> u64 {
        self.not_kept
    }

    pub(super) fn len(&self) -> usize {
        self.by_topic.len()
    }

    pub(super) fn matching(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Vec<Retained> {
        let after = after.map(TopicName::as_str);
        let text = filter.filter();
        if filter.is_exact() {
            let found = self.by_topic.get(text).filter(|_| after < Some(text));
            return found
                .and_then(Entry::read)
                .into_iter()
                .take(limit)
                .collect();
        }
        let wildcard = text.find(['+', '#']).unwrap_or(text.len());
        let prefix = &text[..wildcard];
        // `sport/#` matches `sport`, which stands before everything that begins with `sport/`.
        let parent = match &text[wildcard..] {
            "#" => prefix.strip_suffix('/'),
            _ => None,
        };
        let parent = parent
            .filter(|parent| after < Some(*parent))
            .and_then(|parent| self.by_topic.get_key_value(parent));
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let below = self
            .by_topic
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix));
        parent
            .into_iter()
            .chain(below)
            // [MQTT-4.7.2-1] is the filter's: a leading wildcard passes over topics that begin with `$`.
            .filter(|(topic, _)| filter.matches(topic))
            .filter_map(|(_, entry)| entry.read())
            .take(limit)
            .collect()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_topic.keys().map(|topic| key(topic.as_str()))
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let entry = self.by_topic.get(std::str::from_utf8(key).ok()?)?;
        let mut out = Vec::with_capacity(entry.record.len() + 8);
        out.put_u64_le(entry.position.0);
        out.put_slice(&entry.record);
        Some(out)
    }

    pub(super) fn load(&mut self, mut value: Bytes) -> Result<(), DecodeError> {
        let entry = Entry {
            position: Position(read_u64(&mut value, "position")?),
            record: value[..].into(),
        };
        let retained = entry
            .read()
            .ok_or(DecodeError::new("retained message", "not a publish"))?;
        self.bytes += entry.record.len() as u64;
        self.by_topic.insert(retained.topic.compact(), entry);
        Ok(())
    }
}

impl Entry {
    fn read(&self) -> Option<Retained> {
        match Record::decode(&mut Bytes::copy_from_slice(&self.record)) {
            Ok(Record::Publish(publish)) => Some(Retained {
                topic: publish.message.topic.clone(),
                position: self.position,
                publish,
            }),
            _ => None,
        }
    }
}

fn key(topic: &str) -> Vec<u8> {
    let mut key = vec![table::RETAINED];
    key.put_slice(topic.as_bytes());
    key
}
