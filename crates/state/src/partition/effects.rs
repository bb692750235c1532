//! From what a command came to elsewhere to batches of the outbox.

use bytes::{BufMut, Bytes, BytesMut};

use super::outbox::UNROUTED;
use super::sessions::Effect;
use super::{PartitionState, table};
use crate::wire::read_u16;
use crate::{DecodeError, LostTopic, PartitionId, Record, partition_of};

impl PartitionState {
    /// Puts what the command came to into the outbox.
    pub(super) fn send_effects(&mut self) {
        for effect in self.sessions.take_effects() {
            match effect {
                Effect::Publish(record) => self.send(&record),
                Effect::Release { client, session } => {
                    let release = Record::Release {
                        client,
                        session,
                        packet_id: None,
                    };
                    let mut record = BytesMut::new();
                    release.encode(&mut record);
                    self.send(&record);
                }
            }
        }
        self.outbox.seal(&mut self.changed);
    }

    /// Tells all partitions what a limit took from the Sessions that are stored there.
    pub(super) fn tell_lost(&mut self, topics: Vec<LostTopic>) {
        // A count may be left out; what is in the outbox must be sent.
        let Some((partition, partitions)) = self.configured.filter(|_| !topics.is_empty()) else {
            return;
        };
        let mut record = BytesMut::new();
        Record::Lost { partition, topics }.encode(&mut record);
        let bytes = record.len() as u64 * u64::from(partitions);
        if self.outbox.bytes().saturating_add(bytes) <= self.limits.outbox_bytes_max {
            self.send(&record);
        }
    }

    /// Puts a record into the outbox: a publish for the partition of its topic, all else for every partition.
    fn send(&mut self, record: &[u8]) {
        let Some((_, partitions)) = self.configured else {
            return self.outbox.put(UNROUTED, record, &mut self.changed);
        };
        if let Ok(Record::Publish(publish)) = Record::decode(&mut Bytes::copy_from_slice(record)) {
            let target = partition_of(publish.message.topic.as_str(), partitions);
            return self.outbox.put(target, record, &mut self.changed);
        }
        for target in 0..partitions {
            self.outbox
                .put(PartitionId(target), record, &mut self.changed);
        }
    }

    /// Learns which partition this is; what waited for that is sent.
    pub(super) fn configure(&mut self, partition: PartitionId, partitions: u16) {
        if self.configured.is_some() {
            return;
        }
        self.configured = Some((partition, partitions));
        self.changed.insert(vec![table::CONFIGURED]);
        for record in self.outbox.take_unrouted(&mut self.changed) {
            self.send(&record);
        }
    }

    pub(super) fn configured_value(&self) -> Option<Vec<u8>> {
        let (partition, partitions) = self.configured?;
        let mut out = Vec::with_capacity(4);
        out.put_u16_le(partition.0);
        out.put_u16_le(partitions);
        Some(out)
    }

    pub(super) fn load_configured(&mut self, mut value: Bytes) -> Result<(), DecodeError> {
        let partition = PartitionId(read_u16(&mut value, "partition")?);
        self.configured = Some((partition, read_u16(&mut value, "partitions")?));
        Ok(())
    }
}
