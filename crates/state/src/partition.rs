//! The state of one partition: streams into it, Sessions of the clients whose identifier falls here, and of the topics that do: what is
//! retained, inbound QoS 2, fences and share groups.
//!
//! Messages themselves are not in the state: they stay in the log, and the state remembers only which entries a reader of the log
//! must pass over ([`PartitionState::skip`]), and which outlive it ([`PartitionState::kept`]).

mod answer;
mod append;
mod command;
mod effects;
mod fences;
mod kept;
mod limits;
mod outbox;
mod received;
mod retained;
mod sessions;
mod share_groups;
mod skipped;
mod stored_session;
mod streams;
mod waiting;

use std::collections::HashSet;

use bytes::Bytes;

pub use answer::{AppendAnswer, Attached, Outcome, PartitionAnswer, Superseded};
pub use append::Append;
pub use command::{Deal, GroupDeals, PartitionCommand};
pub use limits::PartitionLimits;
pub use outbox::OutboxBatch;
pub use retained::Retained;
pub use sessions::{Loss, TICK_MS_MAX};
pub use share_groups::{Dealt, ShareGroup, ShareMember, ShareMemberId};
pub use skipped::Skip;
pub use stored_session::{SessionSummary, StoredSession};
pub use streams::ANSWERS_KEPT;
pub use waiting::{Carried, Waiting, waiting};

use crate::wire::read_u8;
use magpie_codec::{TopicFilter, TopicName};

use crate::{
    ClientId, DecodeError, Epoch, PartitionId, Position, Row, RowValue, ShareGroupId, StateMachine,
    StreamId,
};

/// State of one partition, on each of its replicas.
#[derive(Debug, Default)]
pub struct PartitionState {
    streams: streams::Streams,
    sessions: sessions::Sessions,
    received: received::Received,
    fences: fences::Fences,
    share_groups: share_groups::ShareGroups,
    skipped: skipped::Skipped,
    retained: retained::RetainedMessages,
    outbox: outbox::Outbox,
    kept: kept::Kept,
    /// Which partition this is, of how many.
    configured: Option<(PartitionId, u16)>,
    limits: PartitionLimits,
    /// Keys of rows changed since the last checkpoint.
    changed: HashSet<Vec<u8>, foldhash::fast::FixedState>,
}

/// The tables, by the first byte of a row's key. Part of the stored format.
mod table {
    pub(super) const STREAM: u8 = b's';
    pub(super) const SESSION: u8 = b'a';
    pub(super) const COHORT: u8 = b'h';
    pub(super) const CLOCK: u8 = b'n';
    pub(super) const CONFIGURED: u8 = b'c';
    pub(super) const LIMITS: u8 = b'l';
    pub(super) const RECEIVED: u8 = b'q';
    pub(super) const FENCE: u8 = b'f';
    pub(super) const SHARE_GROUP: u8 = b'g';
    pub(super) const SKIPPED: u8 = b'k';
    pub(super) const RETAINED: u8 = b'r';
    pub(super) const OUTBOX: u8 = b'o';
    /// Known to whoever carries snapshots: the rows of kept messages.
    pub(super) const KEPT: u8 = b'm';
    pub(super) const TRIMMED: u8 = b't';
}

impl PartitionState {
    /// What a reader of the log must pass over at `index`, an index that was applied.
    #[must_use]
    pub fn skip(&self, index: u64) -> Skip<'_> {
        self.skipped.at(index)
    }

    /// What lies before this log index is not to be read from the log any more: it is [forgotten](PartitionCommand::ForgetSkipped) what to pass
    /// over there.
    #[must_use]
    pub const fn readable_from(&self) -> u64 {
        self.skipped.from()
    }

    /// The newest attachment of `client`: its epoch and the node that holds the connection.
    #[must_use]
    pub fn attachment(&self, client: &ClientId) -> Option<(Epoch, StreamId)> {
        self.sessions.attached(client)
    }

    /// How many clients are attached.
    #[must_use]
    pub fn attachment_count(&self) -> usize {
        self.sessions.attached_count()
    }

    /// Streams that have written here and are not ended; what leaders compare with the members that are alive.
    pub fn live_streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.live()
    }

    /// Every stream that something in this state belongs to, so that none is missed when a node's life ends: streams that have
    /// written, holders of attachments, members of share groups, and those that a fence waits for.
    #[must_use]
    pub fn holders(&self) -> HashSet<StreamId> {
        let writers = self.streams.live().chain(self.sessions.holders());
        writers
            .chain(self.fences.awaited())
            .chain(self.share_groups.holders())
            .collect()
    }

    /// Whether that life still holds connections here.
    #[must_use]
    pub fn holds_connections(&self, stream: StreamId) -> bool {
        self.sessions.holders().any(|holder| holder == stream)
    }

    /// The stored Session of `client`, or the attachment that is all there is of one that ends with its connection.
    #[must_use]
    pub fn session(&self, client: &ClientId) -> Option<StoredSession> {
        self.sessions.stored(client)
    }

    /// The first `limit` Sessions behind `after`, ordered by client.
    #[must_use]
    pub fn sessions_after(&self, after: Option<&ClientId>, limit: usize) -> Vec<SessionSummary> {
        self.sessions.after(after, limit)
    }

    /// How many Sessions there are that outlive their connections.
    #[must_use]
    pub const fn stored_session_count(&self) -> usize {
        self.sessions.stored_count()
    }

    /// How many Sessions belong to a user, those included that end with their connection.
    #[must_use]
    pub fn owned_session_count(&self, owner: &str) -> u32 {
        self.sessions.owned_count(owner)
    }

    /// How many entries of Sessions' rows were left out since this replica started, because no correct node writes so many.
    #[must_use]
    pub const fn entries_cut(&self) -> u64 {
        self.sessions.entries_cut()
    }

    /// How many Sessions there are: stored ones, and those that end with their connection.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions that messages wait for and that are behind: without a connection, or with one that is not as far as the others of its node. At
    /// most `limit`, from place `from` (at first 0) on, in an order of this replica; and the place to go on at.
    #[must_use]
    pub fn sessions_behind(
        &self,
        from: u32,
        limit: usize,
    ) -> (Vec<(ClientId, StoredSession)>, Option<u32>) {
        self.sessions.behind(from, limit)
    }

    /// Which partition this is, and of how many, once [configured](PartitionCommand::Configure).
    #[must_use]
    pub const fn configured(&self) -> Option<(PartitionId, u16)> {
        self.configured
    }

    /// Whether something waits for [time to pass](PartitionCommand::Tick).
    #[must_use]
    pub fn has_timers(&self) -> bool {
        self.sessions.has_timers()
    }

    /// What others are to get, by target and then by number.
    pub fn outbox(&self) -> impl Iterator<Item = OutboxBatch> + '_ {
        self.outbox.iter()
    }

    /// Index up to which the log is not needed any more, by anybody: what is needed of it is [kept](Self::kept).
    #[must_use]
    pub const fn trimmed(&self) -> u64 {
        self.kept.trimmed()
    }

    /// Positions of the messages at or below [`trimmed`](Self::trimmed) that are still needed, ascending.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = Position> + '_ {
        self.kept.iter()
    }

    /// Positions of all messages that are rows of this replica, ascending: the [kept](Self::kept) ones, and younger ones that came with a
    /// snapshot because its log begins behind them. The latter differ between replicas.
    pub fn rows_held(&self) -> impl DoubleEndedIterator<Item = Position> + '_ {
        self.kept.held()
    }

    /// The retained messages whose topic matches `filter`, the first `limit` behind the topic `after`, ordered by topic.
    #[must_use]
    pub fn retained_matching(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
    ) -> Vec<Retained> {
        self.retained.matching(filter, after, limit)
    }

    /// How many retained messages there are.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.len()
    }

    /// Bytes of their records.
    #[must_use]
    pub const fn retained_bytes(&self) -> u64 {
        self.retained.bytes()
    }

    /// How many messages were not retained for want of room, since this replica started.
    #[must_use]
    pub const fn retained_not_kept(&self) -> u64 {
        self.retained.not_kept()
    }

    /// Messages to `topic` in `partition` above this are needed by a Session stored here; `None`: by none.
    #[must_use]
    pub fn needed_above(&self, partition: PartitionId, topic: &TopicName) -> Option<Position> {
        self.sessions.needed_above(partition, topic)
    }

    /// Messages in `partition` that Sessions stored here have in flight: needed also if nothing is subscribed to them any more. Ascending.
    #[must_use]
    pub fn inflight_in(&self, partition: PartitionId) -> Vec<Position> {
        self.sessions.inflight_in(partition)
    }

    /// Changes whenever a share group or its members do; 0 until there was one. Different replicas count differently.
    #[must_use]
    pub const fn share_generation(&self) -> u64 {
        self.share_groups.generation()
    }

    /// The share groups whose filter can match a topic of this partition.
    pub fn share_groups(&self) -> impl Iterator<Item = &ShareGroup> {
        self.share_groups.iter()
    }

    /// One of them.
    #[must_use]
    pub fn share_group(&self, group: ShareGroupId) -> Option<&ShareGroup> {
        self.share_groups.group(group)
    }

    /// Those with messages that were dealt, and returned.
    pub fn share_groups_with_returned(&self) -> impl Iterator<Item = &ShareGroup> {
        self.share_groups.with_returned()
    }

    /// What was dealt to connections of `stream` by entries above `after`, and is neither done nor returned, in the order of dealing: at
    /// least `limit` if there are so many, to the end of an entry. With the index of that entry, `after` if there is none; and whether there
    /// is more.
    #[must_use]
    pub fn dealt_to(&self, stream: StreamId, after: u64, limit: usize) -> (Vec<Dealt>, u64, bool) {
        self.share_groups.dealt_to(stream, after, limit)
    }

    /// Messages to `topic` above this are needed by a share group, since it has not got so far; `None`: by none.
    #[must_use]
    pub fn share_groups_need_above(&self, topic: &TopicName) -> Option<Position> {
        self.share_groups.needed_above(topic)
    }

    /// Messages that share groups have dealt, and that are not done. In no order; some may come twice.
    pub fn share_groups_hold(&self) -> impl Iterator<Item = Position> + '_ {
        self.share_groups.held()
    }
}

impl StateMachine for PartitionState {
    type Answer = PartitionAnswer;
    type Carry = Carried;

    fn apply(&mut self, index: u64, command: &Bytes) -> PartitionAnswer {
        let room = self.limits.outbox_bytes_max;
        let room = room.saturating_sub(self.outbox.bytes());
        let partitions = self.configured.map_or(1, |(_, partitions)| partitions);
        self.sessions.make_room(room, partitions);
        let changed = &mut self.changed;
        match PartitionCommand::decode(command) {
            Ok(PartitionCommand::Append(append)) => {
                let answer = self.append(index, &append);
                self.send_effects();
                return PartitionAnswer::Append(answer);
            }
            Ok(PartitionCommand::EndStream { stream }) => self.end_stream(stream),
            Ok(PartitionCommand::ForgetSkipped { below }) => self.skipped.forget(below, changed),
            Ok(PartitionCommand::Configure {
                partition,
                partitions,
            }) => self.configure(partition, partitions),
            Ok(PartitionCommand::Limit(limits)) => self.limit(limits),
            Ok(PartitionCommand::LoseWaiting { losses }) => {
                for loss in &losses {
                    self.sessions.lose(loss, changed);
                }
            }
            Ok(PartitionCommand::Tick { elapsed_ms }) => self.sessions.tick(elapsed_ms, changed),
            Ok(PartitionCommand::OutboxDone { target, upto }) => {
                self.outbox.done(target, upto, changed);
            }
            Ok(PartitionCommand::Trim { upto, keep }) => self.kept.trim(upto, &keep, changed),
            Ok(PartitionCommand::Lose { upto, told }) => {
                self.kept.lose(upto, changed);
                self.tell_lost(told);
            }
            Ok(PartitionCommand::LoseAt { positions, told }) => {
                self.kept.forget(&positions, changed);
                self.tell_lost(told);
            }
            Ok(PartitionCommand::Forget { positions }) => self.kept.forget(&positions, changed),
            Ok(PartitionCommand::Deal { deals }) => {
                for group in &deals {
                    self.share_groups.deal(index, group, changed);
                }
            }
            Ok(PartitionCommand::DropShares { memberships }) => {
                self.share_groups.drop_waiting(&memberships, changed);
            }
            Err(error) => {
                self.skipped.whole(index, changed);
                return PartitionAnswer::Unreadable(error);
            }
        }
        self.send_effects();
        PartitionAnswer::Done
    }

    fn purge_bound(&self) -> u64 {
        self.kept.trimmed()
    }

    fn wants_checkpoint(&self) -> bool {
        // Rows are written under the state's lock: rather few of them more often.
        self.kept.wants_copies() || self.changed.len() > CHANGED_MAX
    }

    fn take_changed(&mut self) -> Vec<Row> {
        self.kept.copied();
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
            .chain(self.sessions.keys())
            .chain(self.received.keys())
            .chain(self.configured.map(|_| vec![table::CONFIGURED]))
            .chain(self.limits_value().map(|_| vec![table::LIMITS]))
            .chain(self.fences.keys())
            .chain(self.share_groups.keys())
            .chain(self.skipped.keys())
            .chain(self.retained.keys())
            .chain(self.outbox.keys())
            .chain(self.kept.keys());
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
        let table = read_u8(&mut key, "table of a row")?;
        if table == table::KEPT {
            return self.kept.load(key);
        }
        let value = value
            .bytes()
            .ok_or(DecodeError::new("row", "its value is in the log"))?;
        let value = Bytes::from(value);
        match table {
            table::STREAM => self.streams.load(key, value),
            table::SESSION => self.sessions.load(key, value),
            table::COHORT => self.sessions.load_cohort(key, value),
            table::CLOCK => self.sessions.load_clock(value),
            table::CONFIGURED => self.load_configured(value),
            table::LIMITS => self.load_limits(value),
            table::RECEIVED => self.received.load(key, value),
            table::FENCE => self.fences.load(key, value),
            table::SHARE_GROUP => self.share_groups.load(key, value),
            table::SKIPPED => self.skipped.load(key, value),
            table::RETAINED => self.retained.load(value),
            table::OUTBOX => self.outbox.load(key, value),
            table::TRIMMED => self.kept.load_trimmed(&value),
            _ => Err(DecodeError::new("table of a row", "unknown")),
        }
    }

    fn extract(command: &Bytes, ordinal: u32) -> Option<Bytes> {
        match PartitionCommand::decode(command) {
            Ok(PartitionCommand::Append(append)) => append.record_bytes(ordinal),
            _ => None,
        }
    }
}

impl PartitionState {
    /// The present value of a row; `None` when it is gone.
    fn value(&self, key: &[u8]) -> Option<RowValue> {
        let (table, key) = key.split_first()?;
        let value = match *table {
            table::KEPT => return self.kept.value(key),
            table::STREAM => self.streams.value(key),
            table::SESSION => self.sessions.value(key),
            table::COHORT => self.sessions.cohort_value(key),
            table::CLOCK => self.sessions.clock_value(),
            table::CONFIGURED => self.configured_value(),
            table::LIMITS => self.limits_value(),
            table::RECEIVED => self.received.value(key),
            table::FENCE => self.fences.value(key),
            table::SHARE_GROUP => self.share_groups.value(key),
            table::SKIPPED => self.skipped.value(key),
            table::RETAINED => self.retained.value(key),
            table::OUTBOX => self.outbox.value(key),
            table::TRIMMED => self.kept.trimmed_value(),
            _ => None,
        };
        value.map(RowValue::Bytes)
    }

    /// A life of a node is over: nothing more is taken from it, and what it held is let go; of connections so many at once, so that nobody waits
    /// for long. Leaders tell it again while the life is one of the [holders](Self::holders).
    fn end_stream(&mut self, stream: StreamId) {
        if stream.is_outbox() {
            return;
        }
        self.streams.end(stream, &mut self.changed);
        self.sessions.end_stream(stream, &mut self.changed);
        self.fences.end_stream(stream, &mut self.changed);
        self.share_groups.end_stream(stream, &mut self.changed);
    }
}

/// More changed rows are a reason for a checkpoint.
const CHANGED_MAX: usize = 32_768;

/// The set of changed row keys, written to by every table.
type Changed = HashSet<Vec<u8>, foldhash::fast::FixedState>;

#[cfg(test)]
mod tests;
