//! The index on replicas with real logs, against a list of the messages that wait.
#![expect(clippy::unwrap_used, reason = "tests")]

pub(crate) mod harness;

use bytes::Bytes;
use magpie_codec::{QoS, TopicFilter};
use magpie_state::partition::{AppendAnswer, PartitionCommand, PartitionState};
use magpie_state::{Epoch, Incarnation, NodeId, Position, Publish, Record, StreamId};

use harness::{Replica, Replicas, client, publish, publishes};

const TOPICS: [&str; 6] = [
    "chat/1",
    "chat/2",
    "chat/1/typing",
    "news",
    "chat/3",
    "a/b/c",
];
const FILTERS: [&str; 8] = [
    "chat/1", "chat/+", "chat/#", "#", "news", "nothing", "+/b/c", "chat/1/#",
];

/// Numbers by chance, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// What waits, in log order.
#[derive(Default)]
struct Waiting {
    messages: Vec<(Position, Publish)>,
    trimmed: u64,
}

impl Waiting {
    fn matching(&self, filters: &[TopicFilter], after: Position) -> Vec<(Position, Publish)> {
        let messages = self.messages.iter().filter(|(position, publish)| {
            let topic = &publish.message.topic;
            *position > after && filters.iter().any(|filter| filter.matches(topic))
        });
        messages.cloned().collect()
    }
}

fn check(replica: &Replica, waiting: &Waiting, chance: &mut Chance) {
    let all: Vec<Position> = waiting
        .messages
        .iter()
        .map(|(position, _)| *position)
        .collect();
    for _ in 0..3 {
        let filters: Vec<TopicFilter> = (0..=chance.below(2))
            .map(|_| TopicFilter::from_static(FILTERS[chance.below(8) as usize]))
            .collect();
        let after = match all.get(chance.below(all.len() as u64 * 2 + 1) as usize) {
            Some(position) => *position,
            None => Position::START,
        };
        let bytes_max = chance.below(200_000) as usize;
        let expected = waiting.matching(&filters, after);
        let found = replica.fetch_all(&filters, after, bytes_max);
        assert!(found == expected, "{filters:?} after {after}");
    }
    let some: Vec<Position> = all
        .iter()
        .copied()
        .filter(|_| chance.below(4) == 0)
        .collect();
    let mut found = Vec::new();
    let mut rest = &some[..];
    while !rest.is_empty() {
        let fetched = replica.block_on(replica.index.fetch_at(rest)).unwrap();
        found.extend(publishes(&fetched.records));
        rest = &rest[rest.partition_point(|position| *position <= fetched.upto)..];
    }
    assert!(
        found
            .iter()
            .map(|(position, _)| *position)
            .eq(some.iter().copied())
    );
}

/// Appends a batch of messages of all kinds.
fn append(replicas: &mut Replicas, waiting: &mut Waiting, chance: &mut Chance) {
    let mut batch = Vec::new();
    for _ in 0..=chance.below(15) {
        let from = if chance.below(8) == 0 {
            "fenced"
        } else {
            "phone"
        };
        let topic = TOPICS[chance.below(6) as usize];
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][chance.below(3) as usize];
        let bytes = [10, 3000, 90_000][(chance.below(20) as usize).saturating_sub(17)];
        let payload = Bytes::from(vec![chance.below(256) as u8; bytes]);
        let mut publish = publish(from, topic, qos, payload);
        publish.retain_only = chance.below(10) == 0;
        batch.push(publish);
    }
    let records: Vec<Record> = batch.iter().cloned().map(Record::Publish).collect();
    let (index, answer) = replicas.append(&records);
    let AppendAnswer::Taken(outcome) = answer else {
        panic!("{answer:?}");
    };
    for (ordinal, publish) in (0..).zip(batch) {
        let is_refused = publish.client == client("fenced");
        assert_eq!(outcome.refused.contains(&ordinal), is_refused);
        if !is_refused && publish.qos != QoS::AtMostOnce && !publish.retain_only {
            let position = Position::at(index, ordinal);
            waiting.messages.push((position, publish));
        }
    }
}

fn trim(replicas: &Replicas, waiting: &mut Waiting, chance: &mut Chance) {
    let applied = replicas.first().group.applied();
    let upto = waiting.trimmed + 1 + chance.below(applied - waiting.trimmed);
    let young = |position: &Position| position.index() > waiting.trimmed;
    let keep: Vec<Position> = waiting
        .messages
        .iter()
        .map(|(position, _)| *position)
        .filter(|position| young(position) && position.index() <= upto && chance.below(3) == 0)
        .collect();
    let is_gone = |position: &Position| young(position) && position.index() <= upto;
    let (trimmed, old) = (upto, waiting.trimmed);
    waiting
        .messages
        .retain(|(position, _)| !is_gone(position) || keep.contains(position));
    assert!(old < trimmed);
    waiting.trimmed = trimmed;
    replicas
        .first()
        .propose(&PartitionCommand::Trim { upto, keep });
}

fn forget(replicas: &Replicas, waiting: &mut Waiting, chance: &mut Chance) {
    let trimmed = waiting.trimmed;
    let positions: Vec<Position> = waiting
        .messages
        .iter()
        .map(|(position, _)| *position)
        .filter(|position| position.index() <= trimmed && chance.below(3) == 0)
        .collect();
    waiting
        .messages
        .retain(|(position, _)| !positions.contains(position));
    replicas
        .first()
        .propose(&PartitionCommand::Forget { positions });
}

fn lose(replicas: &Replicas, waiting: &mut Waiting, chance: &mut Chance) {
    let Some((upto, _)) = waiting.messages.get(chance.below(20) as usize) else {
        return;
    };
    let upto = if upto.index() > waiting.trimmed {
        waiting.trimmed = upto.index();
        Position::end_of(upto.index())
    } else {
        *upto
    };
    waiting.messages.retain(|(position, _)| *position > upto);
    replicas.first().propose(&PartitionCommand::Lose {
        upto,
        told: Vec::new(),
    });
}

fn fenced() -> Record {
    Record::Fence {
        client: client("fenced"),
        epoch: Epoch(9),
        against: StreamId {
            node: NodeId(98),
            incarnation: Incarnation {
                counter: 1,
                nonce: 1,
            },
        },
    }
}

/// Messages survive any order of trims, checkpoints, purges and kills, and what is read is what a list says.
#[test]
fn what_waits_is_found_whatever_happens_to_the_log() {
    for seed in 1..=6 {
        let mut chance = Chance(seed);
        let mut replicas = Replicas::formed();
        let mut waiting = Waiting::default();
        replicas.append(&[fenced()]);
        let (mut purged, mut kills) = (0, 0);
        for _ in 0..120 {
            match chance.below(24) {
                0..=11 => append(&mut replicas, &mut waiting, &mut chance),
                12..=14 => trim(&replicas, &mut waiting, &mut chance),
                15 => forget(&replicas, &mut waiting, &mut chance),
                16 if chance.below(4) == 0 => lose(&replicas, &mut waiting, &mut chance),
                17 => {
                    let first = replicas.first();
                    first.block_on(first.group.checkpoint());
                }
                18 => {
                    replicas.kill(1);
                    replicas.start(1);
                    kills += 1;
                    let first = replicas.first();
                    first
                        .block_on(first.group.wait_recovered(harness::SOON))
                        .unwrap();
                }
                19 => std::thread::sleep(std::time::Duration::from_millis(chance.below(30))),
                _ => check(replicas.first(), &waiting, &mut chance),
            }
            purged = purged.max(replicas.first().group.stored().range().start);
        }
        check(replicas.first(), &waiting, &mut chance);
        let first = replicas.first();
        let (trimmed, kept) = first
            .group
            .with_state(|state: &PartitionState| (state.trimmed(), state.kept().count()));
        assert_eq!(trimmed, waiting.trimmed);
        let young = waiting.messages.iter().filter(|(p, _)| p.index() > trimmed);
        assert_eq!(kept, waiting.messages.len() - young.count());
        println!(
            "seed {seed}: {} wait, {kept} kept, log purged to {purged}, {kills} kills",
            waiting.messages.len()
        );
        replicas.kill(1);
    }
}

/// A replica whose log begins behind a snapshot has the messages before it, kept and young, and agrees from then on.
#[test]
fn a_snapshot_brings_the_messages_that_wait() {
    let mut chance = Chance(7);
    let mut replicas = Replicas::formed();
    let mut waiting = Waiting::default();
    replicas.append(&[fenced()]);
    for round in 0..6 {
        for _ in 0..20 {
            append(&mut replicas, &mut waiting, &mut chance);
        }
        if round < 5 {
            trim(&replicas, &mut waiting, &mut chance);
        }
    }
    {
        let first = replicas.first();
        first.block_on(first.group.checkpoint());
        // Until the log is gone as far as it may.
        let deadline = std::time::Instant::now() + harness::SOON;
        while first.group.stored().range().start < waiting.trimmed / 2 {
            assert!(std::time::Instant::now() < deadline, "not purged");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    replicas.start(2);
    let first = replicas.first();
    let (voters, learners) = ([NodeId(1)].into(), [NodeId(2)].into());
    first
        .block_on(first.group.change_membership(&voters, &learners))
        .unwrap();
    let applied = first.group.applied();
    let second = &replicas.running[&2];
    second.block_on(second.group.wait_applied(applied)).unwrap();
    assert_eq!(second.group.installs(), 1, "it came by a snapshot");
    assert!(
        second.group.stored().range().start > waiting.trimmed,
        "without the log"
    );
    for _ in 0..5 {
        check(second, &waiting, &mut chance);
    }
    // The trim that follows finds in its rows what it no longer has in its log; also after it was killed.
    for round in 0..8 {
        match round % 3 {
            0 => trim(&replicas, &mut waiting, &mut chance),
            1 => append(&mut replicas, &mut waiting, &mut chance),
            _ => forget(&replicas, &mut waiting, &mut chance),
        }
        if round == 4 {
            replicas.kill(2);
            replicas.start(2);
        }
        let applied = replicas.first().group.applied();
        let second = &replicas.running[&2];
        second.block_on(second.group.wait_applied(applied)).unwrap();
        check(second, &waiting, &mut chance);
        second.block_on(second.group.checkpoint());
    }
    let of = |id| {
        let replica: &Replica = &replicas.running[&id];
        replica
            .group
            .with_state(|state| state.kept().collect::<Vec<_>>())
    };
    assert_eq!(of(1), of(2));
}
