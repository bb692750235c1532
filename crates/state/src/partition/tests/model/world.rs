//! The naive model.

use super::*;

/// A Session as one would write it down without thinking of cost.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) incarnation: Epoch,
    pub(super) expiry_s: u32,
    pub(super) is_durable: bool,
    pub(super) owner: Option<&'static str>,
    pub(super) attached: Option<(Epoch, StreamId)>,
    pub(super) is_joined: bool,
    pub(super) will: Option<(u32, Bytes)>,
    pub(super) delayed: Option<(u64, Bytes)>,
    pub(super) ends_at: Option<u64>,
    /// By filter: its QoS and since when.
    pub(super) subscriptions: BTreeMap<&'static str, (QoS, BTreeMap<PartitionId, Position>)>,
    pub(super) done: BTreeSet<(PartitionId, Position)>,
    pub(super) floors: BTreeMap<PartitionId, Position>,
    pub(super) inflight: Vec<(u16, (PartitionId, Position), Stage)>,
    pub(super) lost: u64,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) sessions: BTreeMap<&'static str, Model>,
    pub(super) floors: BTreeMap<(StreamId, PartitionId), Position>,
    pub(super) over: BTreeSet<StreamId>,
    pub(super) now: u64,
    pub(super) wills: Vec<Bytes>,
    pub(super) released: BTreeMap<(ClientId, Epoch), usize>,
    /// By client: incarnation and identifiers.
    pub(super) received: BTreeMap<&'static str, (Epoch, BTreeSet<u16>)>,
    pub(super) retained: Option<Bytes>,
    pub(super) sessions_max: Option<u64>,
}

impl Model {
    pub(super) fn is_done(&self, (partition, position): (PartitionId, Position)) -> bool {
        self.floors
            .get(&partition)
            .is_some_and(|floor| position <= *floor)
            || self.done.contains(&(partition, position))
    }

    pub(super) fn raise(&mut self, partition: PartitionId, floor: Position) {
        let known = self.floors.entry(partition).or_default();
        *known = (*known).max(floor);
    }

    /// What waits for it, of everything that could.
    pub(super) fn belongs(&self, place: (PartitionId, Position)) -> bool {
        !self.is_done(place)
            && self.subscriptions.values().any(|(qos, since)| {
                *qos > QoS::AtMostOnce && since.get(&place.0).is_some_and(|since| *since < place.1)
            })
    }
}

impl World {
    pub(super) fn attached(&self, client: &str) -> Option<(Epoch, StreamId)> {
        self.sessions.get(client)?.attached
    }

    pub(super) fn after(&self, seconds: u32) -> Option<u64> {
        (seconds < u32::MAX).then(|| self.now + 1000 + u64::from(seconds) * 1000)
    }

    pub(super) fn end(&mut self, client: &'static str) {
        let session = self.sessions.remove(client).unwrap();
        let will = session.will.map(|(_, payload)| payload);
        let delayed = session.delayed.map(|(_, payload)| payload);
        self.wills.extend(will.or(delayed));
        if session.is_durable {
            let key = (super::client(client), session.incarnation);
            self.released.insert(key, usize::from(PARTITIONS));
        }
    }

    pub(super) fn gone(&mut self, client: &'static str, is_clean: bool) {
        let session = self.sessions.get_mut(client).unwrap();
        session.attached = None;
        session.is_joined = false;
        if is_clean {
            session.will = None;
        }
        if session.expiry_s == 0 {
            return self.end(client);
        }
        let will = session.will.take();
        let (expiry_s, delay_s) = (session.expiry_s, will.as_ref().map(|(delay, _)| *delay));
        let ends_at = self.after(expiry_s);
        let due = delay_s.and_then(|delay_s| self.after(delay_s));
        let session = self.sessions.get_mut(client).unwrap();
        session.ends_at = ends_at;
        match will {
            Some((0, payload)) => self.wills.push(payload),
            Some((_, payload)) => session.delayed = Some((due.unwrap(), payload)),
            None => {}
        }
    }

    pub(super) fn end_stream(&mut self, stream: StreamId) {
        let is_over = |of: StreamId| {
            of.node == stream.node && of.incarnation.counter <= stream.incarnation.counter
        };
        let held = |session: &Model| session.attached.is_some_and(|(_, holder)| is_over(holder));
        let held: Vec<_> = CLIENTS
            .into_iter()
            .filter(|client| self.sessions.get(client).is_some_and(held))
            .collect();
        held.into_iter().for_each(|client| self.gone(client, false));
        self.floors.retain(|(of, _), _| !is_over(*of));
        self.over
            .extend(STREAMS.into_iter().filter(|of| is_over(*of)));
    }

    /// What the first batch of a stream does to the life before.
    pub(super) fn hear(&mut self, stream: StreamId) {
        if stream == A2 && !self.over.contains(&A1) {
            self.end_stream(A1);
        }
    }

    pub(super) fn tick(&mut self) {
        self.now += 1000;
        for client in CLIENTS {
            let Some(session) = self.sessions.get_mut(client) else {
                continue;
            };
            if session.attached.is_some() {
                continue;
            }
            if session.ends_at.is_some_and(|at| at <= self.now) {
                self.end(client);
            } else if session
                .delayed
                .as_ref()
                .is_some_and(|(at, _)| *at <= self.now)
            {
                self.wills.extend(session.delayed.take().map(|(_, it)| it));
            }
        }
    }
}
