//! The Sessions of the clients whose identifier falls into this partition: connections, what is stored beyond them, and when it ends.
//!
//! ```text
//!             attach                      detach, expiry > 0
//!   (none) ───────────► attached ───────────────────────────► waiting ──► (none) when the expiry has passed
//!              ▲            │ │ ▲                                │ │
//!              │            │ │ └────────────── attach ──────────┘ │
//!              └────────────┘ └──► (none) on detach, expiry 0      └──► (none) on attach with clean start, and a new one
//!               attach: takeover
//! ```

mod cohorts;
mod cursors;
mod deliveries;
pub(super) mod interest;
mod lifecycle;
mod losses;
mod owners;
mod progress;
mod row;
mod session;
mod subscriptions;
mod table;
mod timers;

use std::collections::{BTreeSet, BinaryHeap};

use bytes::{BufMut, Bytes};
use magpie_codec::TopicName;

pub(super) use lifecycle::{Ending, NewConnection, Unattached};
pub use losses::Loss;
pub use timers::TICK_MS_MAX;

use self::session::Session;
use super::stored_session::{SessionSummary, StoredSession};
use super::table as tables;
use crate::wire::read_u64;
use crate::{ClientId, Cursor, DecodeError, Epoch, PartitionId, Position, Stage, StreamId};

/// All Sessions of a partition. Numbers of Sessions, and what is derived from them, are this replica's own; nothing that is answered or
/// stored depends on them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: table::Table,
    cohorts: cohorts::Cohorts,
    timers: timers::Timers,
    interest: interest::Interest,
    /// Those with something in flight.
    inflight: BTreeSet<u32>,
    effects: Vec<Effect>,
    /// Bytes of the outbox that those take, about.
    effect_bytes: u64,
    /// What there is room for, and how many partitions a release goes to.
    room: (u64, u64),
    /// How many of them outlive their connections.
    stored: usize,
    owners: owners::Owners,
    /// Entries left out of rows. This replica's own count.
    entries_cut: u64,
}

/// What other partitions are to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// Take this publish record: a Will Message.
    Publish(Box<[u8]>),
    /// Let go of what this incarnation of a Session, and those before, hold.
    Release { client: ClientId, session: Epoch },
}

/// The client has a newer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superseded;

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) const fn stored_count(&self) -> usize {
        self.stored
    }

    /// How many belong to that user.
    pub(super) fn owned_count(&self, owner: &str) -> u32 {
        self.owners.count(owner)
    }

    pub(super) const fn entries_cut(&self) -> u64 {
        self.entries_cut
    }

    pub(super) fn attached_count(&self) -> usize {
        self.cohorts.attached()
    }

    pub(super) fn attached(&self, client: &ClientId) -> Option<(Epoch, StreamId)> {
        self.table.at(self.table.find(&client.0)?).attached()
    }

    /// Lives whose end matters here.
    pub(super) fn holders(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.cohorts.streams()
    }

    pub(super) fn has_timers(&self) -> bool {
        !self.timers.is_empty()
    }

    /// What the command came to, in the order in which it did.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        self.effect_bytes = 0;
        std::mem::take(&mut self.effects)
    }

    /// A command is to be applied while the outbox has room for so many bytes.
    pub(super) const fn make_room(&mut self, bytes: u64, partitions: u16) {
        self.room = (bytes, partitions as u64);
    }

    /// The outbox takes no more: what can wait, does.
    const fn is_full(&self) -> bool {
        self.effect_bytes >= self.room.0
    }

    fn cause(&mut self, effect: Effect) {
        self.effect_bytes += match &effect {
            Effect::Publish(record) => record.len() as u64,
            Effect::Release { client, .. } => (client.0.len() as u64 + 32) * self.room.1,
        };
        self.effects.push(effect);
    }

    pub(super) fn stored(&self, client: &ClientId) -> Option<StoredSession> {
        let session = self.table.at(self.table.find(&client.0)?);
        let cursors = self.cursors(session);
        let mut inflight = session.inflight().to_vec();
        inflight.retain(|it| !cursors::is_over(&cursors, it));
        Some(StoredSession {
            session: session.incarnation,
            attached: session.attached(),
            session_expiry_s: session.expiry_s,
            subscriptions: session.subscriptions.iter().map(|it| it.stored()).collect(),
            cursors,
            inflight,
            lost: session.lost(),
            owner: session.owner(),
        })
    }

    /// Sessions that messages wait for and that have no connection. Of one that has, only its node knows what is on its way to the client.
    /// At most `limit`, from place `from` on, in no order that another replica would share; and where to go on.
    pub(super) fn behind(
        &self,
        from: u32,
        limit: usize,
    ) -> (Vec<(ClientId, StoredSession)>, Option<u32>) {
        let mut found = Vec::new();
        for (number, session) in self.table.iter_from(from) {
            if found.len() >= limit {
                return (found, Some(number));
            }
            if session.attachment.is_some()
                || !session.subscriptions.iter().any(|it| it.holds_messages())
            {
                continue;
            }
            let client = session.client_id();
            let stored = self.stored(&client);
            found.extend(stored.map(|stored| (client, stored)));
        }
        (found, None)
    }

    pub(super) fn after(&self, after: Option<&ClientId>, limit: usize) -> Vec<SessionSummary> {
        let after = after.map(|after| &*after.0);
        // The `limit` least ones of those behind, the greatest on top.
        let mut found = BinaryHeap::with_capacity(limit.min(self.table.len()));
        for (number, session) in self.table.iter() {
            if Some(&*session.client) <= after {
                continue;
            }
            if found.len() < limit {
                found.push((&session.client, number));
            } else if let Some(mut greatest) = found.peek_mut()
                && session.client < *greatest.0
            {
                *greatest = (&session.client, number);
            }
        }
        let numbers = found.into_sorted_vec().into_iter();
        numbers
            .map(|(_, number)| {
                let session = self.table.at(number);
                SessionSummary {
                    client: session.client_id(),
                    session: session.incarnation,
                    attached: session.attached(),
                    session_expiry_s: session.expiry_s,
                    subscriptions: session.subscriptions.len(),
                    owner: session.owner(),
                }
            })
            .collect()
    }

    pub(super) fn needed_above(
        &self,
        partition: PartitionId,
        topic: &TopicName,
    ) -> Option<Position> {
        let mut lowest: Option<Position> = None;
        self.interest.for_each_match(topic, |filter, number| {
            let session = self.table.at(number);
            let since = session
                .subscription(filter)
                .and_then(|subscription| subscription.since(partition))
                .unwrap_or_default();
            let above = since.max(self.floor(session, partition));
            lowest = Some(lowest.map_or(above, |lowest| lowest.min(above)));
        });
        lowest
    }

    pub(super) fn inflight_in(&self, partition: PartitionId) -> Vec<Position> {
        let mut positions = Vec::new();
        for number in &self.inflight {
            let session = self.table.at(*number);
            let floor = self.floor(session, partition);
            let here = session.inflight().iter().filter(|it| {
                it.partition == partition
                    // The group keeps what it has handed out.
                    && it.share.is_none()
                    // After PUBREC the client has the message: only the identifier is needed.
                    && it.stage == Stage::Published
                    && it.position > floor
                    && !cursors::is_done(&session.cursors, partition, it.position)
            });
            positions.extend(here.map(|it| it.position));
        }
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// How far a Session has got, its cohort's floors included.
    fn cursors(&self, session: &Session) -> Vec<Cursor> {
        let mut cursors = session.cursors.to_vec();
        if let Some(attachment) = &session.attachment
            && attachment.is_joined
        {
            cursors::merge_floors(&mut cursors, self.cohorts.floors(attachment.holder));
        }
        cursors
    }

    fn floor(&self, session: &Session, partition: PartitionId) -> Position {
        let own = cursors::floor(&session.cursors, partition);
        match &session.attachment {
            Some(attachment) if attachment.is_joined => {
                own.max(self.cohorts.floor(attachment.holder, partition))
            }
            _ => own,
        }
    }

    /// The Session that a connection acts for.
    fn acting(&self, client: &ClientId, epoch: Epoch) -> Result<u32, Superseded> {
        let number = self.table.find(&client.0).ok_or(Superseded)?;
        match self.table.at(number).attached() {
            Some((attached, _)) if attached == epoch => Ok(number),
            _ => Err(Superseded),
        }
    }

    /// Enters a row into what is derived from the rows.
    fn index(&mut self, number: u32) {
        let session = self.table.at(number);
        self.stored += usize::from(session.is_durable);
        for subscription in &session.subscriptions {
            if subscription.holds_messages() {
                self.interest.add(&subscription.topic_filter(), number);
            }
        }
        self.timers.set(session, number);
        if !session.inflight().is_empty() {
            self.inflight.insert(number);
        }
        if let Some((_, holder)) = session.attached() {
            self.cohorts.count_in(holder);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let sessions = self.table.iter().map(|(_, session)| key(&session.client));
        let clock = (self.timers.now_ms() > 0).then(|| vec![tables::CLOCK]);
        sessions.chain(self.cohorts.keys()).chain(clock)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let number = self.table.find(std::str::from_utf8(key).ok()?)?;
        Some(row::encode(self.table.at(number)))
    }

    pub(super) fn cohort_value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cohorts.value(key)
    }

    pub(super) fn clock_value(&self) -> Option<Vec<u8>> {
        Some(self.timers.now_ms().to_le_bytes().to_vec())
    }

    pub(super) fn load(&mut self, key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let client = key
            .try_into()
            .map_err(|_| DecodeError::new("client id", "not an MQTT string"))?;
        let mut session = row::decode(&ClientId(client), &mut value)?;
        if let Some(owner) = session.owner.take() {
            session.owner = Some(self.owners.count_in(&owner));
        }
        let number = self.table.insert(session);
        self.index(number);
        Ok(())
    }

    pub(super) fn load_cohort(&mut self, key: Bytes, value: Bytes) -> Result<(), DecodeError> {
        self.cohorts.load(key, value)
    }

    pub(super) fn load_clock(&mut self, mut value: Bytes) -> Result<(), DecodeError> {
        self.timers.set_now_ms(read_u64(&mut value, "clock")?);
        Ok(())
    }
}

fn key(client: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(client.len() + 1);
    key.put_u8(tables::SESSION);
    key.put_slice(client.as_bytes());
    key
}
