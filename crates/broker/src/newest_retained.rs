//! Retained messages that nobody waits for, on their way from one client to their partitions: the newest of each topic.
//!
//! A message of QoS 0 is delivered the direct way, and then only the last one of its topic counts. While some are on their way into the log, those
//! that follow wait here, and each replaces the one before of its topic: a client that sets a topic a thousand times a second costs a record
//! per commit, not a thousand.

use std::collections::HashMap;

use bytes::BytesMut;
use magpie_codec::TopicName;
use magpie_state::PartitionId;

/// What waits is not more than this, and a record: then it goes, whatever is on its way, and the client is held back as usual.
const BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct NewestRetained {
    waiting: HashMap<TopicName, Waiting, foldhash::fast::RandomState>,
    bytes: usize,
    /// Submissions on their way.
    out: usize,
}

#[derive(Debug)]
struct Waiting {
    partition: PartitionId,
    record: BytesMut,
}

/// Records for one partition.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) partition: PartitionId,
    pub(crate) records: BytesMut,
    pub(crate) count: u32,
}

impl NewestRetained {
    /// Takes the newest message of a topic, as a record; whether it takes the place of another one.
    pub(crate) fn put(
        &mut self,
        topic: &TopicName,
        partition: PartitionId,
        record: BytesMut,
    ) -> bool {
        let replaced = self.forget(topic);
        self.bytes += topic.as_str().len() + record.len();
        self.waiting
            .insert(topic.compact(), Waiting { partition, record });
        replaced
    }

    /// A newer message of the topic goes another way; whether one waited.
    pub(crate) fn forget(&mut self, topic: &TopicName) -> bool {
        let forgotten = self.waiting.remove(topic);
        if let Some(waiting) = &forgotten {
            self.bytes -= topic.as_str().len() + waiting.record.len();
        }
        forgotten.is_some()
    }

    /// Whether what waits is to go now.
    pub(crate) fn is_due(&self) -> bool {
        !self.waiting.is_empty() && (self.out == 0 || self.bytes >= BYTES_MAX)
    }

    /// What waits, to be submitted, one submission per partition. Each [comes back](Self::came_back).
    pub(crate) fn take(&mut self) -> Vec<Kept> {
        let mut taken: Vec<Kept> = Vec::new();
        for Waiting { partition, record } in std::mem::take(&mut self.waiting).into_values() {
            match taken.iter_mut().find(|kept| kept.partition == partition) {
                Some(kept) => {
                    kept.records.extend_from_slice(&record);
                    kept.count += 1;
                }
                None => taken.push(Kept {
                    partition,
                    records: record,
                    count: 1,
                }),
            }
        }
        self.bytes = 0;
        self.out += taken.len();
        taken
    }

    /// A submission was answered, however.
    pub(crate) const fn came_back(&mut self) {
        self.out = self.out.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(newest: &mut NewestRetained, topic: &'static str, partition: u16, record: &str) -> bool {
        let topic = TopicName::from_static(topic);
        newest.put(&topic, PartitionId(partition), record.as_bytes().into())
    }

    fn taken(newest: &mut NewestRetained) -> Vec<(u16, String, u32)> {
        let mut taken: Vec<_> = newest
            .take()
            .into_iter()
            .map(|kept| {
                let records = String::from_utf8_lossy(&kept.records).into_owned();
                (kept.partition.0, records, kept.count)
            })
            .collect();
        taken.sort();
        taken
    }

    #[test]
    fn the_newest_of_each_topic_goes_when_those_before_are_back() {
        let mut newest = NewestRetained::default();
        assert!(!newest.is_due());
        assert!(!put(&mut newest, "a", 1, "a1"));
        assert!(put(&mut newest, "a", 1, "a2"));
        assert!(!put(&mut newest, "b", 2, "b1"));
        assert!(newest.is_due());
        assert_eq!(
            taken(&mut newest),
            [(1, String::from("a2"), 1), (2, String::from("b1"), 1)]
        );
        put(&mut newest, "a", 1, "a3");
        newest.came_back();
        assert!(!newest.is_due(), "one is still on its way");
        newest.came_back();
        assert!(newest.is_due());
        assert!(newest.forget(&TopicName::from_static("a")));
        assert!(!newest.is_due());
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut newest = NewestRetained::default();
        put(&mut newest, "a", 1, "a1");
        taken(&mut newest);
        let long = "x".repeat(BYTES_MAX / 4);
        for topic in ["a", "a", "a", "a", "a", "b", "c"] {
            put(&mut newest, topic, 1, &long);
        }
        assert!(!newest.is_due(), "of three topics, three messages");
        put(&mut newest, "d", 1, &long);
        assert!(newest.is_due());
        let records = taken(&mut newest);
        assert_eq!((records.len(), records[0].2), (1, 4));
    }
}
