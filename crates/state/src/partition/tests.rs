#![expect(clippy::unwrap_used, reason = "tests")]

mod cohorts;
mod deliveries;
mod kept;
mod lifecycle;
mod limits;
mod model;
mod received;
mod retained;
mod shares;
mod streams;
mod subscriptions;
mod wills;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::BytesMut;
use magpie_codec::{Message, PacketId, QoS, SubscriptionOptions, Text, Will};

use super::*;
use crate::{
    Cursor, Dedup, Incarnation, Laggard, NodeId, Publish, Record, StoredSubscription, StoredWill,
};

const A1: StreamId = stream(1, 1);
const A2: StreamId = stream(1, 2);
const B1: StreamId = stream(2, 1);
/// The cluster's partitions; the one under test is the first.
const PARTITIONS: u16 = 2;
const HERE: PartitionId = PartitionId(0);
const THERE: PartitionId = PartitionId(1);

const fn stream(node: u64, counter: u64) -> StreamId {
    StreamId {
        node: NodeId(node),
        incarnation: Incarnation {
            counter,
            nonce: node * 100 + counter,
        },
    }
}

fn client(id: &'static str) -> ClientId {
    ClientId(Text::from_static(id))
}

fn filter(filter: &'static str) -> TopicFilter {
    TopicFilter::from_static(filter)
}

fn topic(topic: &'static str) -> TopicName {
    TopicName::from_static(topic)
}

fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn message(to: &'static str, id: &'static str, epoch: Epoch) -> Publish {
    Publish {
        client: client(id),
        epoch,
        qos: QoS::AtLeastOnce,
        retain: false,
        retain_only: false,
        published_ms: 1,
        dedup: None,
        message: Arc::new(Message {
            topic: topic(to),
            payload: Bytes::from_static(b"x"),
            properties: None,
        }),
    }
}

fn publish(id: &'static str, epoch: Epoch) -> Record {
    Record::Publish(message("chat/42", id, epoch))
}

fn detach(id: &'static str, epoch: Epoch, is_clean: bool) -> Record {
    Record::Detach {
        client: client(id),
        epoch,
        departure: if is_clean {
            crate::Departure::Clean
        } else {
            crate::Departure::Unclean
        },
        session_expiry_s: None,
        last: None,
    }
}

fn subscription(
    of: &'static str,
    qos: QoS,
    since: &[(PartitionId, Position)],
) -> StoredSubscription {
    StoredSubscription {
        filter: filter(of),
        options: SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        },
        id: None,
        since: since.to_vec(),
    }
}

fn subscribe(id: &'static str, epoch: Epoch, subscription: StoredSubscription) -> Record {
    Record::Subscribe {
        client: client(id),
        epoch,
        subscriptions: vec![subscription],
    }
}

/// A replica, and the index of its next entry. With every command it is checked that the changed rows add up to a complete checkpoint,
/// and that a replica that was loaded from the rows does the same.
#[derive(Default)]
struct Replica {
    state: PartitionState,
    index: u64,
    sent: HashMap<StreamId, u64>,
    checkpoint: BTreeMap<Vec<u8>, RowValue>,
}

impl Replica {
    /// One that knows which partition it is.
    fn configured() -> Self {
        let mut replica = Self::default();
        replica.apply(&PartitionCommand::Configure {
            partition: HERE,
            partitions: PARTITIONS,
        });
        replica
    }

    fn append(&mut self, stream: StreamId, seq: u64, records: &[Record]) -> AppendAnswer {
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let append = Append {
            stream,
            seq,
            has_control: records.iter().any(Record::must_read),
            count: records.len() as u32,
            records: bytes.freeze(),
        };
        match self.apply(&PartitionCommand::Append(append)) {
            PartitionAnswer::Append(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Appends what is next in a stream, which is taken.
    fn send(&mut self, stream: StreamId, records: &[Record]) -> Outcome {
        let seq = self.sent.entry(stream).or_default();
        *seq += 1;
        let seq = *seq;
        match self.append(stream, seq, records) {
            AppendAnswer::Taken(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, command: &PartitionCommand) -> PartitionAnswer {
        self.index += 1;
        let mut twin = self.reloaded();
        let command = command.encode();
        let answer = self.state.apply(self.index, &command);
        assert_eq!(
            PartitionAnswer::decode(answer.encode()).as_ref(),
            Ok(&answer),
            "answers survive the way back"
        );
        assert_eq!(twin.apply(self.index, &command), answer);
        let rows = sorted(self.state.rows());
        assert_eq!(sorted(twin.rows()), rows);
        for Row { key, value } in self.state.take_changed() {
            match value {
                Some(value) => self.checkpoint.insert(key, value),
                None => self.checkpoint.remove(&key),
            };
        }
        assert_eq!(self.checkpoint, rows, "changed rows add up");
        answer
    }

    fn attach(&mut self, stream: StreamId, seq: u64, id: &'static str) -> Attached {
        let record = Record::Attach {
            client: client(id),
            clean_start: true,
            session_expiry_s: 0,
            will: None,
            owner: None,
        };
        match self.append(stream, seq, &[record]) {
            AppendAnswer::Taken(outcome) | AppendAnswer::Repeat(outcome) => outcome.attached[0],
            other => panic!("{other:?}"),
        }
    }

    fn connect(
        &mut self,
        stream: StreamId,
        id: &'static str,
        clean_start: bool,
        session_expiry_s: u32,
        will: Option<StoredWill>,
    ) -> Attached {
        let attached = self.try_connect(stream, id, clean_start, session_expiry_s, will);
        attached.expect("no limit is reached")
    }

    fn try_connect(
        &mut self,
        stream: StreamId,
        id: &'static str,
        clean_start: bool,
        session_expiry_s: u32,
        will: Option<StoredWill>,
    ) -> Option<Attached> {
        self.try_connect_as(stream, id, clean_start, session_expiry_s, will, None)
    }

    fn try_connect_as(
        &mut self,
        stream: StreamId,
        id: &'static str,
        clean_start: bool,
        session_expiry_s: u32,
        will: Option<StoredWill>,
        owner: Option<&'static str>,
    ) -> Option<Attached> {
        let record = Record::Attach {
            client: client(id),
            clean_start,
            session_expiry_s,
            will: will.map(Box::new),
            owner: owner.map(Text::from_static),
        };
        let outcome = self.send(stream, &[record]);
        let is_refused = outcome.refused == [0] || outcome.foreign == [0];
        assert_eq!(outcome.attached.is_empty(), is_refused);
        outcome.attached.first().copied()
    }

    fn tick(&mut self, elapsed_ms: u32) {
        self.apply(&PartitionCommand::Tick { elapsed_ms });
    }

    /// Time passes, as leaders count it.
    fn pass_s(&mut self, seconds: u32) {
        (0..seconds).for_each(|_| self.tick(1000));
    }

    fn session(&self, id: &'static str) -> Option<StoredSession> {
        self.state.session(&client(id))
    }

    /// What is in the outbox, with its target.
    fn sent_out(&self) -> Vec<(PartitionId, Record)> {
        let batches = self.state.outbox();
        let records = batches.flat_map(|batch| {
            let mut rest = batch.records.clone();
            (0..batch.count)
                .map(move |_| (batch.target, Record::decode(&mut rest).unwrap()))
                .collect::<Vec<_>>()
        });
        records.collect()
    }

    /// Payloads of the messages in the outbox, in order.
    fn wills(&self) -> Vec<Bytes> {
        let publishes = self.sent_out().into_iter().filter_map(|(to, record)| {
            let Record::Publish(publish) = record else {
                return None;
            };
            assert_eq!(
                crate::partition_of(publish.message.topic.as_str(), PARTITIONS),
                to
            );
            Some(publish.message.payload.clone())
        });
        publishes.collect()
    }

    /// Sessions that others are told to let go of, with how many are told.
    fn released(&self) -> BTreeMap<(ClientId, Epoch), usize> {
        let mut released = BTreeMap::new();
        for (_, record) in self.sent_out() {
            if let Record::Release {
                client,
                session,
                packet_id: None,
            } = record
            {
                *released.entry((client, session)).or_default() += 1;
            }
        }
        released
    }

    /// The same state by way of its rows.
    fn reloaded(&self) -> PartitionState {
        let mut state = PartitionState::default();
        self.state
            .rows()
            .into_iter()
            .for_each(|row| state.load(row).unwrap());
        state
    }
}

fn sorted(rows: Vec<Row>) -> BTreeMap<Vec<u8>, RowValue> {
    rows.into_iter()
        .map(|row| (row.key, row.value.unwrap()))
        .collect()
}

fn will(payload: &'static [u8], delay_interval_s: u32) -> StoredWill {
    StoredWill {
        will: Will {
            topic: topic("gone"),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s,
            properties: None,
        },
        publish_ms: 5,
    }
}
