//! The outbox: what this partition wants others to do, in batches that leave only after their target has committed them.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Changed, PartitionState, table};
use crate::record::{is_publish, stamp};
use crate::wire::{read_u16, read_u32, read_u64};
use crate::{DecodeError, PartitionId, Record};

/// A batch has more records or bytes than this only if a single one has.
const BATCH_RECORDS: u32 = 4096;
const BATCH_BYTES: usize = 256 << 10;

/// Stands for targets that are not known, since it is not known how many partitions there are. No partition has this number.
pub(super) const UNROUTED: PartitionId = PartitionId(u16::MAX);

/// A batch of the outbox, to be appended in `target` as number `seq` of [the outbox's stream](crate::StreamId::outbox), with
/// `has_control` set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxBatch {
    /// Where to.
    pub target: PartitionId,
    /// Sequence number, from 1 for each target, without gaps.
    pub seq: u64,
    /// How many records there are.
    pub count: u32,
    /// The records, one after the other.
    pub records: Bytes,
}

impl OutboxBatch {
    /// The records, with the messages among them published at `now_ms`, unless they were published later.
    #[must_use]
    pub fn stamped(&self, now_ms: u64) -> Bytes {
        let mut out = BytesMut::from(&self.records[..]);
        let mut rest = self.records.clone();
        for _ in 0..self.count {
            let start = self.records.len() - rest.len();
            let Ok(record) = Record::decode(&mut rest) else {
                break;
            };
            if let Record::Publish(publish) = record {
                debug_assert!(is_publish(&out[start..]), "a publish was decoded here");
                stamp(&mut out[start..], publish.published_ms.max(now_ms));
            }
        }
        out.freeze()
    }
}

/// Batches by target. A batch never changes once the command that made it is applied.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    by_target: BTreeMap<PartitionId, Queue>,
    /// Batches that the present command makes, by target.
    open: BTreeMap<PartitionId, Open>,
    /// Of the records of all batches.
    bytes: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Sequence number of the last batch made; it outlives the batch.
    last: u64,
    batches: BTreeMap<u64, Batch>,
}

#[derive(Debug)]
struct Batch {
    count: u32,
    records: Bytes,
}

#[derive(Debug, Default)]
struct Open {
    count: u32,
    records: BytesMut,
}

impl Outbox {
    /// Adds a record to what `target` is to get.
    pub(super) fn put(&mut self, target: PartitionId, record: &[u8], changed: &mut Changed) {
        let open = self.open.entry(target).or_default();
        let is_full =
            open.count >= BATCH_RECORDS || open.records.len() + record.len() > BATCH_BYTES;
        if is_full && open.count > 0 {
            let full = std::mem::take(open);
            self.close(target, full, changed);
        }
        let open = self.open.entry(target).or_default();
        open.count += 1;
        open.records.extend_from_slice(record);
    }

    /// The command is applied.
    pub(super) fn seal(&mut self, changed: &mut Changed) {
        for (target, open) in std::mem::take(&mut self.open) {
            self.close(target, open, changed);
        }
    }

    fn close(&mut self, target: PartitionId, open: Open, changed: &mut Changed) {
        self.bytes += open.records.len() as u64;
        let queue = self.by_target.entry(target).or_default();
        queue.last += 1;
        changed.insert(last_key(target));
        changed.insert(key(target, queue.last));
        let batch = Batch {
            count: open.count,
            records: Bytes::copy_from_slice(&open.records),
        };
        queue.batches.insert(queue.last, batch);
    }

    /// Takes the records that nobody knew a target for.
    pub(super) fn take_unrouted(&mut self, changed: &mut Changed) -> Vec<Bytes> {
        let Some(queue) = self.by_target.remove(&UNROUTED) else {
            return Vec::new();
        };
        changed.insert(last_key(UNROUTED));
        let mut records = Vec::new();
        for (seq, batch) in queue.batches {
            changed.insert(key(UNROUTED, seq));
            self.bytes -= batch.records.len() as u64;
            let mut rest = batch.records;
            while !rest.is_empty() {
                let whole = rest.clone();
                if Record::decode(&mut rest).is_err() {
                    break;
                }
                records.push(whole.slice(..whole.len() - rest.len()));
            }
        }
        records
    }

    pub(super) fn done(&mut self, target: PartitionId, upto: u64, changed: &mut Changed) {
        if let Some(queue) = self.by_target.get_mut(&target) {
            while let Some(first) = queue.batches.first_entry() {
                if *first.key() > upto {
                    break;
                }
                changed.insert(key(target, *first.key()));
                self.bytes -= first.remove().records.len() as u64;
            }
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All batches, by target and then by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = OutboxBatch> + '_ {
        let routed = self.by_target.range(..UNROUTED);
        routed.flat_map(|(target, queue)| {
            queue.batches.iter().map(|(seq, batch)| OutboxBatch {
                target: *target,
                seq: *seq,
                count: batch.count,
                records: batch.records.clone(),
            })
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_target.iter().flat_map(|(target, queue)| {
            let batches = queue.batches.keys().map(|seq| key(*target, *seq));
            batches.chain([last_key(*target)])
        })
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (target, seq) = key.split_at_checked(2)?;
        let target = PartitionId(u16::from_le_bytes(target.try_into().ok()?));
        let queue = self.by_target.get(&target)?;
        if seq.is_empty() {
            return Some(queue.last.to_le_bytes().to_vec());
        }
        let batch = queue
            .batches
            .get(&u64::from_le_bytes(seq.try_into().ok()?))?;
        let mut out = Vec::with_capacity(batch.records.len() + 4);
        out.put_u32_le(batch.count);
        out.put_slice(&batch.records);
        Some(out)
    }

    pub(super) fn load(&mut self, mut key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let target = PartitionId(read_u16(&mut key, "target")?);
        let queue = self.by_target.entry(target).or_default();
        if key.is_empty() {
            queue.last = read_u64(&mut value, "sequence number")?;
            return Ok(());
        }
        let seq = read_u64(&mut key, "sequence number")?;
        let batch = Batch {
            count: read_u32(&mut value, "record count")?,
            records: Bytes::copy_from_slice(&value),
        };
        self.bytes += batch.records.len() as u64;
        queue.batches.insert(seq, batch);
        Ok(())
    }
}

impl PartitionState {
    /// Bytes of the records that wait in the outbox.
    #[must_use]
    pub const fn outbox_bytes(&self) -> u64 {
        self.outbox.bytes()
    }

    /// The partitions that batches of the outbox wait for, each with their number.
    #[must_use]
    pub fn outbox_targets(&self) -> Vec<(PartitionId, usize)> {
        let queues = self.outbox.by_target.range(..UNROUTED);
        let waiting = queues.filter(|(_, queue)| !queue.batches.is_empty());
        waiting
            .map(|(target, queue)| (*target, queue.batches.len()))
            .collect()
    }

    /// The first batches for `target`, by number: at most `batches_max`, and no more once they have `bytes_max` bytes.
    #[must_use]
    pub fn outbox_to(
        &self,
        target: PartitionId,
        batches_max: usize,
        bytes_max: usize,
    ) -> Vec<OutboxBatch> {
        let queue = self.outbox.by_target.get(&target);
        let batches = queue.into_iter().flat_map(|queue| &queue.batches);
        let mut bytes = 0;
        batches
            .take(batches_max)
            .take_while(|(_, batch)| {
                let has_room = bytes < bytes_max;
                bytes += batch.records.len();
                has_room
            })
            .map(|(seq, batch)| OutboxBatch {
                target,
                seq: *seq,
                count: batch.count,
                records: batch.records.clone(),
            })
            .collect()
    }
}

fn last_key(target: PartitionId) -> Vec<u8> {
    let mut key = vec![table::OUTBOX];
    key.put_u16_le(target.0);
    key
}

fn key(target: PartitionId, seq: u64) -> Vec<u8> {
    let mut key = last_key(target);
    key.put_u64_le(seq);
    key
}
