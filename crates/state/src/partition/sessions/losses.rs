//! What Sessions lose to limits.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::super::Changed;
use super::{Sessions, cursors, key};
use crate::wire::{
    put_count, put_place, put_text, read_client, read_epoch, read_list, read_place, read_u8,
    read_u64,
};
use crate::{ClientId, Cursor, DecodeError, Epoch, LostTopic, PartitionId, Position};

/// What waits for one Session and is too much: it is lost to that Session, and to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Whose.
    pub client: ClientId,
    /// Incarnation of the Session.
    pub session: Epoch,
    /// The connection that was attached when it was looked at: with another one, or none, it is looked at again.
    pub epoch: Option<Epoch>,
    /// Up to and including these positions nothing waits any more, but for what is in flight.
    pub upto: Vec<(PartitionId, Position)>,
    /// How many messages these were then.
    pub messages: u64,
}

/// Subscriptions that match a topic, at most, for what is lost of it to be counted for each of their Sessions. Replicas agree on it.
const COUNTED_MAX: usize = 10_000;

impl Loss {
    pub(in super::super) fn encode(&self, out: &mut BytesMut) {
        put_text(out, &self.client.0);
        out.put_u64_le(self.session.0);
        out.put_u8(u8::from(self.epoch.is_some()));
        out.put_u64_le(self.epoch.unwrap_or_default().0);
        put_count(out, self.upto.len());
        self.upto.iter().for_each(|place| put_place(out, *place));
        out.put_u64_le(self.messages);
    }

    pub(in super::super) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            client: read_client(buf)?,
            session: read_epoch(buf)?,
            epoch: {
                let is_attached = read_u8(buf, "attached")? != 0;
                let epoch = read_epoch(buf)?;
                is_attached.then_some(epoch)
            },
            upto: read_list(buf, "places", read_place)?,
            messages: read_u64(buf, "messages")?,
        })
    }
}

impl Sessions {
    /// A limit has removed messages of a partition. Of a topic that very many subscriptions match it is not counted for each. Otherwise they are counted for each Session that waited for some of them: exactly, if it had not begun
    /// to read them, else as all of their topic.
    pub(in super::super) fn lost_elsewhere(
        &mut self,
        partition: PartitionId,
        topics: &[LostTopic],
        changed: &mut Changed,
    ) {
        for lost in topics {
            let mut matching = 0;
            self.interest
                .for_each_match(&lost.topic, |_, _| matching += 1);
            if matching > COUNTED_MAX {
                continue;
            }
            let mut waiting = HashMap::new();
            self.interest.for_each_match(&lost.topic, |filter, number| {
                let session = self.table.at(number);
                let since = session
                    .subscription(filter)
                    .and_then(|subscription| subscription.since(partition))
                    .unwrap_or_default();
                let above = since.max(self.floor(session, partition));
                let known = waiting.entry(number).or_insert(above);
                *known = above.min(*known);
            });
            for (number, above) in waiting {
                if above < lost.last {
                    let session = self.table.at_mut(number);
                    session.add_lost(lost.messages);
                    changed.insert(key(&session.client));
                }
            }
        }
    }

    /// A Session's oldest messages are too many. A reader that got further meanwhile is not set back.
    pub(in super::super) fn lose(&mut self, loss: &Loss, changed: &mut Changed) {
        let Some(number) = self.table.find(&loss.client.0) else {
            return;
        };
        let session = self.table.at_mut(number);
        let epoch = session.attached().map(|(epoch, _)| epoch);
        if session.incarnation != loss.session || epoch != loss.epoch {
            return;
        }
        changed.insert(key(&session.client));
        let now = self.cursors(self.table.at(number));
        let session = self.table.at_mut(number);
        let mut own = session.cursors.to_vec();
        for (partition, upto) in &loss.upto {
            // What is in flight goes on under its Packet Identifier: the floor stays below it, and the subscriptions begin behind it.
            for subscription in &mut session.subscriptions {
                if subscription.holds_messages() {
                    subscription.begin_behind(*partition, *upto);
                }
            }
            let here = session.inflight().iter();
            let here = here.filter(|it| it.partition == *partition && it.position <= *upto);
            let here = here.filter(|it| !cursors::is_done(&now, it.partition, it.position));
            let first = here.map(|it| it.position).min();
            let floor = first.map_or(*upto, |first| Position(first.0.saturating_sub(1)));
            let cursor = Cursor {
                partition: *partition,
                floor,
                done: Vec::new(),
            };
            cursors::merge(&mut own, &[cursor]);
        }
        session.cursors = own.into();
        session.add_lost(loss.messages);
    }
}
