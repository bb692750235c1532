//! The state of one partition: streams into it, attachments of the clients whose key falls here, fences and share groups.
//!
//! Messages themselves are not in the state: they stay in the log, and the state remembers only which entries a reader of the log
//! must pass over ([`PartitionState::skip`]).

mod answer;
mod append;
mod attachments;
mod command;
mod fences;
mod share_groups;
mod skipped;
mod streams;

use std::collections::HashSet;

use bytes::Bytes;

pub use answer::{AppendAnswer, Attached, Outcome, PartitionAnswer, Superseded};
pub use append::{Append, ShareChoice};
pub use command::PartitionCommand;
pub use share_groups::ShareMemberId;
pub use skipped::Skip;
pub use streams::ANSWERS_KEPT;

use crate::wire::read_u8;
use crate::{ClientId, DecodeError, Epoch, Row, StateMachine, StreamId};

/// State of one partition, on each of its replicas.
#[derive(Debug, Default)]
pub struct PartitionState {
    streams: streams::Streams,
    attachments: attachments::Attachments,
    fences: fences::Fences,
    share_groups: share_groups::ShareGroups,
    skipped: skipped::Skipped,
    /// Keys of rows changed since the last checkpoint.
    changed: HashSet<Vec<u8>, foldhash::fast::FixedState>,
}

/// The tables, by the first byte of a row's key. Part of the stored format.
mod table {
    pub(super) const STREAM: u8 = b's';
    pub(super) const ATTACHMENT: u8 = b'a';
    pub(super) const FENCE: u8 = b'f';
    pub(super) const SHARE_GROUP: u8 = b'g';
    pub(super) const SKIPPED: u8 = b'k';
}

impl PartitionState {
    /// What a reader of the log must pass over at `index`, an index that was applied.
    #[must_use]
    pub fn skip(&self, index: u64) -> Skip<'_> {
        self.skipped.at(index)
    }

    /// The newest attachment of `client`: its epoch and the node that holds the connection.
    #[must_use]
    pub fn attachment(&self, client: &ClientId) -> Option<(Epoch, StreamId)> {
        self.attachments.newest(client)
    }

    /// How many clients are attached.
    #[must_use]
    pub fn attachment_count(&self) -> usize {
        self.attachments.len()
    }

    /// Streams that have written here and are not ended; what leaders compare with the members that are alive.
    pub fn live_streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.live()
    }

    /// Every stream that something in this state belongs to, so that none is missed when a node's life ends: streams that have
    /// written, holders of attachments, members of share groups, and those that a fence waits for.
    #[must_use]
    pub fn holders(&self) -> HashSet<StreamId> {
        let writers = self.streams.live().chain(self.attachments.holders());
        writers
            .chain(self.fences.awaited())
            .chain(self.share_groups.holders())
            .collect()
    }

    /// Changes whenever a share group does; 0 until there was one. Different replicas count differently.
    #[must_use]
    pub const fn share_generation(&self) -> u64 {
        self.share_groups.generation()
    }

    /// Share groups with their members, `$share/{name}/{filter}` first.
    pub fn share_groups(
        &self,
    ) -> impl Iterator<Item = (&magpie_codec::TopicFilter, &[ShareMemberId])> {
        self.share_groups.iter()
    }
}

impl StateMachine for PartitionState {
    type Answer = PartitionAnswer;

    fn apply(&mut self, index: u64, command: &Bytes) -> PartitionAnswer {
        match PartitionCommand::decode(command) {
            Ok(PartitionCommand::Append(append)) => {
                PartitionAnswer::Append(self.append(index, &append))
            }
            Ok(PartitionCommand::EndStream { stream }) => {
                self.end_stream(stream);
                PartitionAnswer::Done
            }
            Ok(PartitionCommand::ForgetSkipped { below }) => {
                self.skipped.forget(below, &mut self.changed);
                PartitionAnswer::Done
            }
            Err(error) => {
                self.skipped.whole(index, &mut self.changed);
                PartitionAnswer::Unreadable(error)
            }
        }
    }

    fn take_changed(&mut self) -> Vec<Row> {
        let keys = std::mem::take(&mut self.changed);
        keys.into_iter()
            .map(|key| Row {
                value: self.value(&key),
                key,
            })
            .collect()
    }

    fn rows(&self) -> Vec<Row> {
        let keys = self
            .streams
            .keys()
            .chain(self.attachments.keys())
            .chain(self.fences.keys())
            .chain(self.share_groups.keys())
            .chain(self.skipped.keys());
        keys.map(|key| Row {
            value: self.value(&key),
            key,
        })
        .collect()
    }

    fn load(&mut self, row: Row) -> Result<(), DecodeError> {
        let mut key = Bytes::from(row.key);
        let Some(value) = row.value else {
            return Ok(());
        };
        let value = Bytes::from(value);
        match read_u8(&mut key, "table of a row")? {
            table::STREAM => self.streams.load(key, value),
            table::ATTACHMENT => self.attachments.load(key, value),
            table::FENCE => self.fences.load(key, value),
            table::SHARE_GROUP => self.share_groups.load(key, value),
            table::SKIPPED => self.skipped.load(key, value),
            _ => Err(DecodeError::new("table of a row", "unknown")),
        }
    }
}

impl PartitionState {
    /// The present value of a row; `None` when it is gone.
    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let (table, key) = key.split_first()?;
        match *table {
            table::STREAM => self.streams.value(key),
            table::ATTACHMENT => self.attachments.value(key),
            table::FENCE => self.fences.value(key),
            table::SHARE_GROUP => self.share_groups.value(key),
            table::SKIPPED => self.skipped.value(key),
            _ => None,
        }
    }

    /// A life of a node is over: nothing more is taken from it, and what it held is let go.
    fn end_stream(&mut self, stream: StreamId) {
        self.streams.end(stream, &mut self.changed);
        self.attachments.end_holder(stream, &mut self.changed);
        self.fences.end_stream(stream, &mut self.changed);
        self.share_groups.end_stream(stream, &mut self.changed);
    }
}

/// The set of changed row keys, written to by every table.
type Changed = HashSet<Vec<u8>, foldhash::fast::FixedState>;

#[cfg(test)]
mod tests;
