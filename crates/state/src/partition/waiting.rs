//! The messages of a batch that Sessions may wait for, and the rows that they become when the log cannot keep them.

use bytes::{BufMut, Bytes};
use magpie_codec::{QoS, Text, TopicName};

use super::kept::Kept;
use super::skipped::{Skip, Skipped};
use super::{PartitionCommand, PartitionState, table};
use crate::record::skim;
use crate::wire::read_u8;
use crate::{Carry, DecodeError, Position, Record};

/// A message in a command, that Sessions may wait for: not refused, not a repeat, not only retained, and of QoS 1 or 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Ordinal (0-based) of its record.
    pub ordinal: u32,
    /// Where the record begins in the command's bytes.
    pub offset: u32,
    /// How long it is.
    pub bytes: u32,
    /// Of the PUBLISH, 1 or 2.
    pub qos: QoS,
    /// Its topic; a slice of the command.
    pub topic: TopicName,
}

impl PartitionState {
    /// First byte of the keys of rows that are messages. The value is the record's bytes.
    pub const MESSAGE_ROWS: u8 = table::KEPT;

    /// Key of the row that holds the message at a position, if it is kept.
    #[must_use]
    pub fn message_row(position: Position) -> Vec<u8> {
        let mut key = vec![table::KEPT];
        // Big-endian: the rows stand in the order of the log.
        key.put_u64(position.0);
        key
    }

    /// The position that such a key stands for.
    #[must_use]
    pub fn message_of_row(key: &[u8]) -> Option<Position> {
        let (&table::KEPT, position) = key.split_first()? else {
            return None;
        };
        Some(Position(u64::from_be_bytes(position.try_into().ok()?)))
    }
}

/// The messages of a command that Sessions may wait for, in order. `skip` is what the state says of its index.
#[must_use]
pub fn waiting(command: &Bytes, append: &super::Append, skip: Skip<'_>) -> Vec<Waiting> {
    let skipped = match skip {
        Skip::Whole => return Vec::new(),
        Skip::Nothing => &[][..],
        Skip::Records(ordinals) => ordinals,
    };
    let mut waiting = Vec::new();
    let mut rest = append.records.clone();
    for ordinal in 0..append.count {
        let before = rest.len();
        let Ok(next) = next_waiting(&mut rest) else {
            break;
        };
        let Some((topic, qos)) = next.filter(|_| !skipped.contains(&ordinal)) else {
            continue;
        };
        let length = |bytes| u32::try_from(bytes).expect("a command is far below 4 GiB");
        waiting.push(Waiting {
            ordinal,
            // The records are the end of the command.
            offset: length(command.len() - before),
            bytes: length(before - rest.len()),
            qos,
            topic,
        });
    }
    waiting
}

/// Takes a record off the front of `rest`; its topic and QoS, if it is a message that Sessions may wait for.
fn next_waiting(rest: &mut Bytes) -> Result<Option<(TopicName, QoS)>, DecodeError> {
    if let Some(skimmed) = skim(rest) {
        let record = rest.split_to(skimmed.bytes);
        if !skimmed.waits {
            return Ok(None);
        }
        let topic = Text::try_from(record.slice(skimmed.topic)).ok();
        let topic = topic.and_then(|topic| TopicName::try_from(topic).ok());
        return match topic {
            Some(topic) => Ok(Some((topic, skimmed.qos))),
            None => Err(DecodeError::new("topic name", "not a topic name")),
        };
    }
    match Record::decode(rest)? {
        Record::Publish(publish) => {
            let waits = publish.qos != QoS::AtMostOnce && !publish.retain_only;
            Ok(waits.then(|| (publish.message.topic.clone(), publish.qos)))
        }
        _ => Ok(None),
    }
}

/// What a snapshot of a partition carries beside its checkpoint: the messages of the log that nobody has been asked about yet.
#[derive(Debug, Default)]
pub struct Carried {
    kept: Kept,
    skipped: Skipped,
}

impl Carry for Carried {
    fn see(&mut self, key: &[u8], value: &Bytes) -> Result<(), DecodeError> {
        let mut key = Bytes::copy_from_slice(key);
        match read_u8(&mut key, "table of a row")? {
            table::TRIMMED => self.kept.load_trimmed(value),
            table::SKIPPED => self.skipped.load(key, value.clone()),
            _ => Ok(()),
        }
    }

    fn from(&self) -> Option<u64> {
        Some(self.kept.trimmed() + 1)
    }

    fn rows(&self, index: u64, command: &Bytes) -> Vec<(Vec<u8>, Bytes)> {
        let Ok(PartitionCommand::Append(append)) = PartitionCommand::decode(command) else {
            return Vec::new();
        };
        let waiting = waiting(command, &append, self.skipped.at(index)).into_iter();
        let row = |message: Waiting| {
            let position = Position::at(index, message.ordinal);
            let (start, end) = (message.offset, message.offset + message.bytes);
            let record = command.slice(start as usize..end as usize);
            (PartitionState::message_row(position), record)
        };
        waiting.map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::BytesMut;
    use magpie_codec::{Message, MessageProperties, PacketId};

    use super::super::Append;
    use super::*;
    use crate::{ClientId, Dedup, Epoch, Publish, StreamId};

    fn publish(topic: &'static str, change: impl FnOnce(&mut Publish)) -> Record {
        let mut publish = Publish {
            client: ClientId(Text::from_static("phone")),
            epoch: Epoch(1),
            qos: QoS::AtLeastOnce,
            retain: false,
            retain_only: false,
            published_ms: 1,
            dedup: None,
            message: Arc::new(Message {
                topic: TopicName::from_static(topic),
                payload: Bytes::from_static(b"payload"),
                properties: None,
            }),
        };
        change(&mut publish);
        Record::Publish(publish)
    }

    #[test]
    fn messages_that_wait_are_found_with_their_bytes() {
        let dedup = Dedup {
            session: Epoch(3),
            packet_id: PacketId::new(7).expect("not zero"),
        };
        let records = [
            publish("a", |_| ()),
            Record::Unfence {
                client: ClientId(Text::from_static("phone")),
                epoch: Epoch(1),
            },
            publish("b", |publish| publish.qos = QoS::AtMostOnce),
            publish("c/d", |publish| publish.dedup = Some(dedup)),
            publish("e", |publish| publish.retain_only = true),
            publish("f", |publish| {
                let mut message = (*publish.message).clone();
                message.properties = Some(Box::new(MessageProperties {
                    content_type: Some(Text::from_static("text")),
                    ..MessageProperties::default()
                }));
                publish.message = Arc::new(message);
            }),
            publish("g", |_| ()),
        ];
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let append = Append {
            stream: StreamId::default(),
            seq: 1,
            has_control: true,
            count: 7,
            records: bytes.freeze(),
        };
        let command = PartitionCommand::Append(append.clone()).encode();
        let found = waiting(&command, &append, Skip::Records(&[6]));
        let topics: Vec<(u32, &str)> = found
            .iter()
            .map(|message| (message.ordinal, message.topic.as_str()))
            .collect();
        assert_eq!(topics, [(0, "a"), (3, "c/d"), (5, "f")]);
        for message in found {
            let (start, end) = (message.offset, message.offset + message.bytes);
            let mut record = command.slice(start as usize..end as usize);
            assert_eq!(append.record_bytes(message.ordinal), Some(record.clone()));
            let record = Record::decode(&mut record);
            assert_eq!(record.as_ref(), Ok(&records[message.ordinal as usize]));
        }
        assert_eq!(append.record_bytes(7), None);
    }

    #[test]
    fn what_is_cut_off_is_not_skimmed() {
        let mut bytes = BytesMut::new();
        publish("a/b", |_| ()).encode(&mut bytes);
        assert_eq!(skim(&bytes).map(|skimmed| skimmed.bytes), Some(bytes.len()));
        for length in 0..bytes.len() {
            assert_eq!(skim(&bytes[..length]), None);
        }
    }
}
