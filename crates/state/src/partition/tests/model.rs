//! Random commands against a naive model, which does at once and for each Session what the state does by rows of many.
//!
//! The harness reloads the state before every command and compares, so that determinism and complete checkpoints are checked on the way.

mod compare;
mod op;
mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{Binding, SessionProgress, Stage};
use op::{Op, at, op, place};
use world::{Model, World};

const CLIENTS: [&str; 3] = ["c0", "c1", "c2"];
const STREAMS: [StreamId; 4] = [A1, A2, B1, stream(3, 1)];
/// The topics of a filter with a wildcard are in both partitions.
const FILTERS: [(&str, &[PartitionId]); 3] =
    [("t", &[HERE]), ("u", &[THERE]), ("+", &[HERE, THERE])];
const OWNERS: [&str; 2] = ["ann", "bob"];
const POSITIONS: u64 = 12;

/// Both, side by side.
#[derive(Default)]
struct Pair {
    real: Replica,
    model: World,
    wills_made: usize,
}

impl Pair {
    fn run(&mut self, op: &Op) {
        match op.clone() {
            Op::Attach {
                client,
                stream,
                clean_start,
                expiry_s,
                will_delay_s,
                owner,
            } => self.attach(
                CLIENTS[client],
                STREAMS[stream],
                clean_start,
                expiry_s,
                will_delay_s,
                owner.map(|owner| OWNERS[owner]),
            ),
            Op::Detach {
                client,
                is_clean,
                expiry_s,
                last,
                is_stale,
            } => self.detach(CLIENTS[client], is_clean, expiry_s, last, is_stale),
            Op::Subscribe {
                client,
                filter,
                qos,
                since,
                is_stale,
            } => self.subscribe(CLIENTS[client], FILTERS[filter], qos, at(since), is_stale),
            Op::Unsubscribe {
                client,
                filter,
                is_stale,
            } => {
                let (client, filter) = (CLIENTS[client], FILTERS[filter].0);
                let record = |epoch| Record::Unsubscribe {
                    client: super::client(client),
                    epoch,
                    filters: vec![super::filter(filter)],
                    inflight: Vec::new(),
                };
                if let Some(session) = self.act(client, is_stale, record) {
                    session.subscriptions.remove(filter);
                }
            }
            Op::Bind {
                client,
                number,
                place: to,
                is_stale,
            } => {
                let (partition, position) = place(to);
                // Nobody sends what is done.
                let known = self.model.sessions.get(CLIENTS[client]);
                if known.is_some_and(|known| known.is_done(place(to))) {
                    return;
                }
                let record = |epoch| Record::Bind {
                    client: super::client(CLIENTS[client]),
                    epoch,
                    bindings: vec![Binding {
                        packet_id: packet_id(number),
                        partition,
                        position,
                        share: None,
                    }],
                };
                if let Some(session) = self.act(CLIENTS[client], is_stale, record)
                    && session.is_durable
                {
                    let place = (partition, position);
                    // An identifier that is used anew was free: what it stood for is done.
                    let done = session.inflight.iter();
                    let done = done.filter(|(of, at, _)| *of == number && *at != place);
                    session.done.extend(done.map(|(_, at, _)| *at));
                    session
                        .inflight
                        .retain(|(of, at, _)| *of != number && *at != place);
                    session.inflight.push((number, place, Stage::Published));
                }
            }
            Op::Received { client, number } => {
                let record = |epoch| Record::Received {
                    client: super::client(CLIENTS[client]),
                    epoch,
                    packet_ids: vec![packet_id(number)],
                };
                if let Some(session) = self.act(CLIENTS[client], false, record) {
                    for (of, _, stage) in &mut session.inflight {
                        if *of == number {
                            *stage = Stage::Released;
                        }
                    }
                }
            }
            Op::Floors {
                stream,
                here,
                there,
                joined,
            } => self.floors(STREAMS[stream], [(HERE, here), (THERE, there)], joined),
            Op::Lag {
                client,
                place: to,
                done,
            } => self.lag(CLIENTS[client], place(to), done.map(at)),
            Op::EndStream { stream } => {
                let stream = STREAMS[stream];
                self.real.apply(&PartitionCommand::EndStream { stream });
                self.model.end_stream(stream);
            }
            Op::LoseWaiting {
                client,
                place: upto,
                is_stale,
            } => self.lose(CLIENTS[client], place(upto), is_stale),
            Op::Limit { sessions_max } => {
                self.model.sessions_max = sessions_max;
                let limits = PartitionLimits {
                    sessions_max: sessions_max.unwrap_or(u64::MAX),
                    ..PartitionLimits::default()
                };
                self.real.apply(&PartitionCommand::Limit(limits));
            }
            Op::Tick => {
                self.real.tick(1000);
                self.model.tick();
            }
            Op::Publish {
                client,
                number,
                retain,
                is_empty,
            } => self.publish(CLIENTS[client], number, retain, is_empty),
            Op::Release { client, number } => self.release(CLIENTS[client], number),
        }
    }

    fn lose(
        &mut self,
        client: &'static str,
        (partition, upto): (PartitionId, Position),
        is_stale: bool,
    ) {
        let known = self.model.sessions.get_mut(client);
        let session = known.as_ref().map_or(Epoch(1), |known| known.incarnation);
        let attached = known.as_ref().and_then(|known| known.attached);
        let epoch = match is_stale {
            true => Some(Epoch(1)),
            false => attached.map(|(epoch, _)| epoch),
        };
        let loss = Loss {
            client: super::client(client),
            session,
            epoch,
            upto: vec![(partition, upto)],
            messages: 1,
        };
        if let Some(known) = known.filter(|_| !is_stale) {
            for (qos, since) in known.subscriptions.values_mut() {
                if *qos > QoS::AtMostOnce
                    && let Some(since) = since.get_mut(&partition)
                {
                    *since = upto.max(*since);
                }
            }
            known.lost += 1;
            let open = known.inflight.iter().map(|(_, place, _)| *place);
            let open = open.filter(|(of, at)| *of == partition && *at <= upto);
            let open = open.filter(|place| !known.is_done(*place));
            let first = open.map(|(_, at)| at).min();
            known.raise(partition, first.map_or(upto, |first| Position(first.0 - 1)));
        }
        self.real
            .apply(&PartitionCommand::LoseWaiting { losses: vec![loss] });
    }

    fn attach(
        &mut self,
        client: &'static str,
        stream: StreamId,
        clean_start: bool,
        expiry_s: u32,
        will_delay_s: Option<u32>,
        owner: Option<&'static str>,
    ) {
        if self.model.over.contains(&stream) {
            return;
        }
        self.wills_made += 1;
        let payload = Bytes::from(format!("{client}-{}", self.wills_made));
        let stored = will_delay_s.map(|delay_s| StoredWill {
            will: Will {
                payload: payload.clone(),
                ..will(b"", delay_s).will
            },
            publish_ms: 1,
        });
        let attached =
            self.real
                .try_connect_as(stream, client, clean_start, expiry_s, stored, owner);

        self.model.hear(stream);
        let known = self.model.sessions.get(client);
        let belongs_to = known.and_then(|known| known.owner);
        if belongs_to.is_some() && belongs_to != owner {
            assert_eq!(attached, None, "it is another's");
            return;
        }
        let stored = self.model.sessions.values().filter(|it| it.is_durable);
        let stored = stored.count();
        let known = self.model.sessions.get(client);
        let has_a_place = known.is_some_and(|known| known.is_durable);
        let is_one_more = expiry_s > 0 && !has_a_place;
        let is_full = self
            .model
            .sessions_max
            .is_some_and(|max| stored as u64 >= max);
        assert_eq!(attached.is_none(), is_one_more && is_full);
        let Some(attached) = attached else {
            return;
        };
        let superseded = self.model.attached(client);
        assert_eq!(
            attached.superseded.map(|it| (it.epoch, it.holder)),
            superseded
        );
        let known = self.model.sessions.get_mut(client);
        let resumes = known
            .as_ref()
            .is_some_and(|known| !clean_start && known.expiry_s > 0);
        assert_eq!(attached.session_present, resumes);
        if let Some(known) = known {
            if resumes {
                known.delayed = None;
                if let Some((0, payload)) = known.will.take() {
                    self.model.wills.push(payload);
                }
            } else {
                self.model.end(client);
            }
        }
        let session = self.model.sessions.entry(client).or_insert_with(|| Model {
            incarnation: attached.epoch,
            expiry_s,
            is_durable: expiry_s > 0,
            attached: None,
            is_joined: false,
            will: None,
            delayed: None,
            ends_at: None,
            subscriptions: BTreeMap::new(),
            done: BTreeSet::new(),
            floors: BTreeMap::new(),
            inflight: Vec::new(),
            lost: 0,
            owner: None,
        });
        session.owner = owner;
        session.expiry_s = expiry_s;
        session.attached = Some((attached.epoch, stream));
        session.is_joined = false;
        session.ends_at = None;
        session.will = will_delay_s.map(|delay_s| (delay_s, payload));
    }

    /// Sends a record of a connection, by the node that holds it. Returns the session unless the record has to be refused.
    fn act(
        &mut self,
        client: &'static str,
        is_stale: bool,
        record: impl FnOnce(Epoch) -> Record,
    ) -> Option<&mut Model> {
        let (mut epoch, holder) = self.model.attached(client).unwrap_or((Epoch(1), B1));
        if self.model.over.contains(&holder) {
            return None;
        }
        if is_stale {
            epoch.0 -= 1;
        }
        let record = record(epoch);
        let silent = matches!(record, Record::Detach { .. } | Record::Progress { .. });
        let outcome = self.real.send(holder, &[record]);
        self.model.hear(holder);
        let is_refused = self.model.attached(client) != Some((epoch, holder));
        let expected: &[u32] = if is_refused && !silent { &[0] } else { &[] };
        assert_eq!(outcome.refused, expected);
        if is_refused {
            return None;
        }
        self.model.sessions.get_mut(client)
    }

    fn detach(
        &mut self,
        client: &'static str,
        is_clean: bool,
        expiry_s: Option<u32>,
        last: Option<(u64, u64)>,
        is_stale: bool,
    ) {
        let cursors = last.map(|(floor, done)| {
            vec![Cursor {
                partition: HERE,
                floor: at(floor),
                done: vec![at(done)],
            }]
        });
        let record = |epoch| Record::Detach {
            client: super::client(client),
            epoch,
            departure: if is_clean {
                crate::Departure::Clean
            } else {
                crate::Departure::Unclean
            },
            session_expiry_s: expiry_s,
            last: cursors.map(|cursors| {
                Box::new(SessionProgress {
                    cursors,
                    inflight: Vec::new(),
                })
            }),
        };
        let Some(session) = self.act(client, is_stale, record) else {
            return;
        };
        if let Some(expiry_s) = expiry_s
            && session.expiry_s > 0
        {
            session.expiry_s = expiry_s;
        }
        if let Some((floor, done)) = last
            && session.is_durable
        {
            session.raise(HERE, at(floor));
            session.done.insert((HERE, at(done)));
            session.inflight.clear();
        }
        self.model.gone(client, is_clean);
    }

    fn subscribe(
        &mut self,
        client: &'static str,
        (filter, partitions): (&'static str, &[PartitionId]),
        qos: u8,
        since: Position,
        is_stale: bool,
    ) {
        let qos = QoS::from_u8(qos).unwrap();
        let since: BTreeMap<_, _> = partitions
            .iter()
            // As the node does it: never below what is done.
            .map(|partition| {
                let session = self.model.sessions.get(client);
                let floor = session.and_then(|session| {
                    let done = session.done.iter().filter(|(of, _)| of == partition);
                    let highest = done.map(|(_, position)| *position).max();
                    highest.max(session.floors.get(partition).copied())
                });
                (*partition, since.max(floor.unwrap_or_default()))
            })
            .collect();
        let places: Vec<_> = since.iter().map(|(of, at)| (*of, *at)).collect();
        let record = |epoch| subscribe(client, epoch, subscription(filter, qos, &places));
        let Some(session) = self.act(client, is_stale, record) else {
            return;
        };
        if !session.is_durable {
            return;
        }
        match session.subscriptions.get_mut(filter) {
            Some((known, _)) if *known > QoS::AtMostOnce || qos == QoS::AtMostOnce => *known = qos,
            _ => drop(session.subscriptions.insert(filter, (qos, since))),
        }
    }

    fn floors(&mut self, stream: StreamId, floors: [(PartitionId, u64); 2], joined: Option<usize>) {
        if self.model.over.contains(&stream) {
            return;
        }
        let floors: Vec<_> = floors
            .into_iter()
            .filter(|(_, index)| *index > 0)
            .map(|(partition, index)| (partition, at(index)))
            .collect();
        let joined = joined.map(|client| CLIENTS[client]);
        let member = joined.map(|client| {
            let epoch = self.model.attached(client).map_or(Epoch(1), |it| it.0);
            (super::client(client), epoch)
        });
        let record = Record::Progress {
            floors: floors.clone(),
            laggards: Vec::new(),
            joined: member.into_iter().collect(),
        };
        assert!(self.real.send(stream, &[record]).is_plain());
        let model = &mut self.model;
        model.hear(stream);
        for (partition, floor) in floors {
            let known = model.floors.entry((stream, partition)).or_default();
            *known = (*known).max(floor);
        }
        for (client, session) in &mut model.sessions {
            if session.attached.is_none_or(|(_, holder)| holder != stream) {
                continue;
            }
            session.is_joined |= joined == Some(client);
            if session.is_joined {
                for partition in [HERE, THERE] {
                    if let Some(floor) = model.floors.get(&(stream, partition)) {
                        session.raise(partition, *floor);
                    }
                }
            }
        }
    }

    fn lag(
        &mut self,
        client: &'static str,
        (partition, floor): (PartitionId, Position),
        done: Option<Position>,
    ) {
        let record = |epoch| Record::Progress {
            floors: Vec::new(),
            laggards: vec![Laggard {
                client: super::client(client),
                epoch,
                progress: vec![Cursor {
                    partition,
                    floor,
                    done: done.into_iter().collect(),
                }],
            }],
            joined: Vec::new(),
        };
        if let Some(session) = self.act(client, false, record) {
            session.is_joined = false;
            session.raise(partition, floor);
            session.done.extend(done.map(|done| (partition, done)));
        }
    }

    fn publish(&mut self, client: &'static str, number: u16, retain: bool, is_empty: bool) {
        let Some(session) = self.model.sessions.get(client) else {
            return;
        };
        let incarnation = session.incarnation;
        let payload = if is_empty {
            &b""[..]
        } else {
            client.as_bytes()
        };
        let plain = message("r", client, incarnation);
        let publish = Publish {
            retain,
            dedup: Some(Dedup {
                session: incarnation,
                packet_id: packet_id(number),
            }),
            message: Arc::new(Message {
                payload: Bytes::copy_from_slice(payload),
                ..(*plain.message).clone()
            }),
            ..plain
        };
        let outbox = StreamId::outbox(THERE);
        let outcome = self.real.send(outbox, &[Record::Publish(publish)]);
        let known = self
            .model
            .received
            .entry(client)
            .or_insert_with(|| (incarnation, BTreeSet::new()));
        if known.0 < incarnation {
            *known = (incarnation, BTreeSet::new());
        }
        let is_new = known.1.insert(number);
        let expected: &[u32] = if is_new { &[] } else { &[0] };
        assert_eq!((&*outcome.repeated, &*outcome.refused), (expected, &[][..]));
        if is_new && retain {
            self.model.retained = (!is_empty).then(|| Bytes::copy_from_slice(payload));
        }
    }

    fn release(&mut self, client: &'static str, number: Option<u16>) {
        let Some((session, numbers)) = self.model.received.get_mut(client) else {
            return;
        };
        let record = Record::Release {
            client: super::client(client),
            session: *session,
            packet_id: number.map(packet_id),
        };
        match number {
            Some(number) => drop(numbers.remove(&number)),
            None => numbers.clear(),
        }
        self.real.send(StreamId::outbox(THERE), &[record]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_state_does_what_the_model_does(ops in prop::collection::vec(op(), 1..60)) {
        let mut pair = Pair {
            real: Replica::configured(),
            ..Pair::default()
        };
        for op in &ops {
            pair.run(op);
            pair.compare();
        }
    }
}
