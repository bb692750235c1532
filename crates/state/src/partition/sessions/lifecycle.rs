//! How Sessions begin, change hands and end, and what becomes of their Will Messages.

use bytes::BytesMut;
use magpie_codec::Message;
use std::sync::Arc;

use super::super::Changed;
use super::super::{PartitionLimits, answer};
use super::session::{Attachment, DelayedWill, NEVER, Session, Will};
use super::{Effect, Sessions, cursors, key, tables};
use crate::{ClientId, Departure, Epoch, Inflight, Publish, SessionProgress, StoredWill, StreamId};

/// The most Sessions that one tick is about: more wait for the next, so that none takes long. Replicas agree on it.
const DUE_PER_TICK_MAX: usize = 4096;
/// The most connections that one command ends. Replicas agree on it.
const ENDED_AT_ONCE_MAX: usize = 4096;
/// The most messages in flight of one Session.
const INFLIGHT_MAX: usize = 65_535;

/// Why a connection is not attached. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Unattached {
    /// A limit does not admit one more.
    Full,
    /// The Session belongs to another user.
    Foreign,
}

/// What became of an attach.
#[derive(Debug)]
pub(in super::super) struct Attaching {
    /// A stored Session is resumed.
    pub(in super::super) session_present: bool,
    pub(in super::super) superseded: Option<answer::Superseded>,
    /// Of a client that had no Session: how many here are its user's now.
    pub(in super::super) owned: u32,
}

/// A new connection, as its record has it.
pub(in super::super) struct NewConnection<'a> {
    pub(in super::super) client: &'a ClientId,
    pub(in super::super) epoch: Epoch,
    pub(in super::super) holder: StreamId,
    pub(in super::super) clean_start: bool,
    pub(in super::super) session_expiry_s: u32,
    pub(in super::super) will: Option<&'a StoredWill>,
    pub(in super::super) owner: Option<&'a str>,
}

/// How a connection ended.
pub(in super::super) struct Ending {
    pub(in super::super) departure: Departure,
    pub(in super::super) session_expiry_s: Option<u32>,
}

impl Sessions {
    /// Makes a connection its client's newest.
    pub(in super::super) fn attach(
        &mut self,
        new: &NewConnection<'_>,
        limits: &PartitionLimits,
        changed: &mut Changed,
    ) -> Result<Attaching, Unattached> {
        let known = self.table.find(&new.client.0);
        let owner = known.and_then(|number| self.table.at(number).owner.as_deref());
        if owner.is_some() && owner != new.owner {
            // Whatever Clean Start says: nobody ends what is another's.
            return Err(Unattached::Foreign);
        }
        let superseded = known
            .and_then(|number| self.table.at(number).attached())
            .map(|(epoch, holder)| answer::Superseded { epoch, holder });
        // [MQTT-3.1.2-5], [MQTT-3.1.2-4 v3.1.1]: a stored Session is resumed. One without expiry ended with the connection that is superseded.
        let resumed =
            known.filter(|number| !new.clean_start && self.table.at(*number).expiry_s > 0);
        let takes_a_place = resumed.is_none() && new.session_expiry_s > 0;
        let gives_a_place = known.is_some_and(|number| self.table.at(number).is_durable);
        if takes_a_place && !gives_a_place && self.stored as u64 >= limits.sessions_max {
            // Nothing has changed: an older connection of the client stays.
            return Err(Unattached::Full);
        }
        if known.is_some_and(|number| self.is_full() && self.would_tell(number, resumed.is_some()))
        {
            return Err(Unattached::Full);
        }
        changed.insert(key(&new.client.0));
        let mut displaced = None;
        let number = match (resumed, known) {
            (Some(number), _) => {
                displaced = self.take_over(number);
                number
            }
            (None, known) => {
                if let Some(number) = known {
                    // [MQTT-3.1.2-4], [MQTT-3.1.2-6 v3.1.1]
                    let will = self.leave(number);
                    self.end(number, will, changed);
                }
                let session = Session::new(new.client, new.epoch, new.session_expiry_s);
                self.stored += usize::from(session.is_durable);
                self.table.insert(session)
            }
        };
        let session = self.table.at_mut(number);
        session.expiry_s = new.session_expiry_s;
        // What nobody owned is the first one's who has a name.
        if session.owner.is_none() {
            let owner = new.owner.filter(|owner| !owner.is_empty());
            session.owner = owner.map(|owner| self.owners.count_in(owner));
        }
        let owned = match (known, &session.owner) {
            (None, Some(owner)) => self.owners.count(owner),
            _ => 0,
        };
        session.attachment = Some(Box::new(Attachment {
            epoch: new.epoch,
            holder: new.holder,
            is_joined: false,
            will: new.will.map(|will| last_words(new.client, new.epoch, will)),
            displaced,
        }));
        self.cohorts.count_in(new.holder);
        Ok(Attaching {
            session_present: resumed.is_some(),
            superseded,
            owned,
        })
    }

    /// Whether other partitions must be told at once when a newer connection comes.
    fn would_tell(&self, number: u32, is_resumed: bool) -> bool {
        let session = self.table.at(number);
        let will = session.attachment.as_ref().and_then(|it| it.will.as_ref());
        let delayed = session.rare.as_ref().and_then(|rare| rare.will.as_ref());
        let is_due = will.is_some_and(|will| will.delay_s == 0)
            || delayed.is_some_and(|will| will.due <= self.timers.now_ms());
        let has_will = will.is_some() || delayed.is_some();
        is_due || (!is_resumed && (session.is_durable || has_will))
    }

    /// A Session goes to a new connection. Gives the Will Message that is not sent because of it, if there is one.
    fn take_over(&mut self, number: u32) -> Option<DelayedWill> {
        let left = self.leave(number);
        let session = self.table.at_mut(number);
        self.timers.unset(session);
        let delayed = session.take_delayed_will();
        // [MQTT-4.1.0-1], [MQTT-4.1.0-2 v3.1.1]
        session.ends_at = NEVER;
        match left {
            Some(will) if will.delay_s == 0 => {
                self.cause(Effect::Publish(will.record));
                None
            }
            // [MQTT-3.1.3-9]: a Will Message whose delay has not passed is not sent when the Session is resumed.
            Some(will) => Some(self.delay(will)),
            None => match delayed {
                // It was due, and waited for room only.
                Some(will) if will.due <= self.timers.now_ms() => {
                    self.cause(Effect::Publish(will.record));
                    None
                }
                delayed => delayed,
            },
        }
    }

    fn delay(&self, will: Will) -> DelayedWill {
        DelayedWill {
            due: self.timers.after_s(will.delay_s),
            record: will.record,
        }
    }

    /// A connection is gone. Nothing, if the client has a newer one.
    pub(in super::super) fn detach(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        ending: &Ending,
        last: Option<&SessionProgress>,
        changed: &mut Changed,
    ) {
        let Ok(number) = self.acting(client, epoch) else {
            return;
        };
        changed.insert(key(&client.0));
        let session = self.table.at_mut(number);
        if let Some(expiry_s) = ending.session_expiry_s
            && session.expiry_s > 0
        {
            session.expiry_s = expiry_s;
        }
        if let Some(last) = last
            && session.is_durable
        {
            let mut cursors = session.cursors.to_vec();
            cursors::merge(&mut cursors, &last.cursors);
            let mut inflight = last.inflight.clone();
            self.entries_cut += cursors::cut(&mut cursors) + cut_inflight(&mut inflight);
            session.cursors = cursors.into();
            session.set_inflight(inflight);
        }
        self.gone(number, ending.departure, changed);
    }

    /// Ends connections that a node held in a life that is over: so many at once. The life is a holder until all are ended.
    pub(in super::super) fn end_stream(&mut self, stream: StreamId, changed: &mut Changed) {
        let is_over = |of: StreamId| {
            of.node == stream.node && of.incarnation.counter <= stream.incarnation.counter
        };
        let over: Vec<StreamId> = self.cohorts.streams().filter(|of| is_over(*of)).collect();
        if over.is_empty() {
            return;
        }
        let held = self.table.iter().filter(|(_, session)| {
            session
                .attached()
                .is_some_and(|(_, holder)| is_over(holder))
        });
        let mut held: Vec<(Epoch, u32)> = held
            .map(|(number, session)| (session.incarnation, number))
            .collect();
        // Effects come in an order that all replicas share.
        held.sort_unstable();
        let is_last = held.len() <= ENDED_AT_ONCE_MAX;
        held.truncate(ENDED_AT_ONCE_MAX);
        for (_, number) in held {
            changed.insert(key(&self.table.at(number).client));
            self.gone(number, Departure::Unclean, changed);
        }
        if is_last {
            for stream in over {
                self.cohorts.end(stream, changed);
            }
        }
    }

    /// The clock goes on.
    pub(in super::super) fn tick(&mut self, elapsed_ms: u32, changed: &mut Changed) {
        self.timers.advance(elapsed_ms);
        changed.insert(vec![tables::CLOCK]);
        let now = self.timers.now_ms();
        for _ in 0..DUE_PER_TICK_MAX {
            if self.is_full() {
                break;
            }
            let Some(number) = self.timers.pop() else {
                break;
            };
            let session = self.table.at_mut(number);
            changed.insert(key(&session.client));
            let will = session.take_delayed_will();
            if session.ends_at <= now {
                // [MQTT-3.1.2-8]: at the latest when the Session ends.
                let will = will.map(|will| Will {
                    delay_s: 0,
                    record: will.record,
                });
                self.end(number, will, changed);
                continue;
            }
            if let Some(will) = will {
                self.cause(Effect::Publish(will.record));
            }
            self.timers.set(self.table.at(number), number);
        }
    }

    /// A connection is gone, and none takes its place.
    fn gone(&mut self, number: u32, departure: Departure, changed: &mut Changed) {
        let attachment = self.table.at_mut(number).attachment.as_mut();
        let displaced = attachment.and_then(|attachment| attachment.displaced.take());
        // [MQTT-3.1.2-10]: DISCONNECT with reason code 0x00 removes the Will Message.
        let will = self
            .leave(number)
            .filter(|_| departure == Departure::Unclean);
        let delayed = match (departure, will) {
            (Departure::Unused, _) => displaced,
            (_, Some(will)) if will.delay_s == 0 && !self.is_full() => {
                self.cause(Effect::Publish(will.record));
                None
            }
            // It waits in the Session until the outbox has room.
            (_, Some(will)) if will.delay_s == 0 => Some(DelayedWill {
                due: self.timers.now_ms(),
                record: will.record,
            }),
            (_, will) => will.map(|will| self.delay(will)),
        };
        let session = self.table.at_mut(number);
        if let Some(delayed) = delayed {
            session.rare.get_or_insert_default().will = Some(delayed);
        }
        if session.expiry_s == 0 {
            let says_something = session.is_durable || session.rare.is_some();
            if !(says_something && self.is_full()) {
                return self.end(number, None, changed);
            }
            // Its end waits, too.
            let now = self.timers.now_ms();
            let session = self.table.at_mut(number);
            session.ends_at = now;
            return self.timers.set(session, number);
        }
        // [MQTT-3.1.2-23], [MQTT-4.1.0-2], [MQTT-4.1.0-1 v3.1.1], [MQTT-3.1.2-5 v3.1.1]
        session.ends_at = self.timers.after_s(session.expiry_s);
        self.timers.set(session, number);
    }

    /// Takes the attachment from a Session, if it has one: its progress becomes the Session's own. Returns the Will Message.
    fn leave(&mut self, number: u32) -> Option<Will> {
        let session = self.table.at(number);
        session.attachment.as_ref()?;
        let cursors = self.cursors(session);
        let session = self.table.at_mut(number);
        session.cursors = cursors.into();
        session.prune();
        let Attachment { holder, will, .. } = *session.attachment.take()?;
        self.note_inflight(number);
        self.cohorts.count_out(holder);
        will
    }

    /// Ends a Session that nothing is attached to. Its Will Message, if one is left, is due [MQTT-3.1.2-8], [MQTT-3.1.2-8 v3.1.1].
    fn end(&mut self, number: u32, will: Option<Will>, changed: &mut Changed) {
        self.timers.unset(self.table.at(number));
        self.inflight.remove(&number);
        let mut session = self.table.remove(number);
        changed.insert(key(&session.client));
        if let Some(owner) = &session.owner {
            self.owners.count_out(owner);
        }
        for subscription in &session.subscriptions {
            if subscription.holds_messages() {
                self.interest.remove(&subscription.topic_filter(), number);
            }
        }
        let delayed = session.take_delayed_will().map(|will| will.record);
        let will = will.map(|will| will.record).or(delayed);
        if let Some(will) = will {
            self.cause(Effect::Publish(will));
        }
        if session.is_durable {
            self.stored -= 1;
            self.cause(Effect::Release {
                client: session.client_id(),
                session: session.incarnation,
            });
        }
    }
}

/// Leaves out what no correct node writes: there are no more Packet Identifiers than that.
fn cut_inflight(inflight: &mut Vec<Inflight>) -> u64 {
    let more = inflight.len().saturating_sub(INFLIGHT_MAX);
    inflight.truncate(INFLIGHT_MAX);
    more as u64
}

/// The publish that a Will Message becomes.
fn last_words(client: &ClientId, epoch: Epoch, stored: &StoredWill) -> Will {
    let will = &stored.will;
    let publish = Publish {
        client: client.clone(),
        epoch,
        qos: will.qos,
        // [MQTT-3.1.2-14], [MQTT-3.1.2-15], [MQTT-3.1.2-16 v3.1.1], [MQTT-3.1.2-17 v3.1.1]
        retain: will.retain,
        retain_only: false,
        published_ms: stored.publish_ms,
        dedup: None,
        message: Arc::new(Message {
            topic: will.topic.clone(),
            payload: will.payload.clone(),
            properties: will.properties.clone(),
        }),
    };
    let mut record = BytesMut::new();
    publish.encode(&mut record);
    Will {
        delay_s: will.delay_interval_s,
        record: record[..].into(),
    }
}
