//! The messages of a batch that Sessions may wait for, and the rows that they become when the log cannot keep them.

use bytes::{BufMut, Bytes};
use magpie_codec::{QoS, TopicName};

use super::kept::Kept;
use super::skipped::{Skip, Skipped};
use super::{PartitionCommand, PartitionState, table};
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
        let Ok(record) = Record::decode(&mut rest) else {
            break;
        };
        let Record::Publish(publish) = record else {
            continue;
        };
        let waits = publish.qos != QoS::AtMostOnce && !publish.retain_only;
        if waits && !skipped.contains(&ordinal) {
            let length = |bytes| u32::try_from(bytes).expect("a command is far below 4 GiB");
            waiting.push(Waiting {
                ordinal,
                // The records are the end of the command.
                offset: length(command.len() - before),
                bytes: length(before - rest.len()),
                topic: publish.message.topic.clone(),
            });
        }
    }
    waiting
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
