//! Readers of a replica whose log is purged, on a real log.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_codec::QoS;
use magpie_state::Record;
use magpie_state::partition::{AppendAnswer, PartitionAnswer, PartitionCommand};

use super::feed::{Fed, Feed};
use super::reader::{Read, Reader};
use crate::index::tests::harness::{self, Replicas, publish};
use crate::raft::Observer as _;

/// One message.
fn message() -> Record {
    let payload = Bytes::from(vec![b'x'; 100_000]);
    Record::Publish(publish("publisher", "chat/1", QoS::AtLeastOnce, payload))
}

fn tick() -> Bytes {
    PartitionCommand::Tick { elapsed_ms: 1 }.encode()
}

/// A replica whose log begins behind all of these messages, and a feed that has those from `fed_from` on, but not what came before.
fn purged(feed: &Feed, before: u64, fed: u64) -> (Replicas, u64, u64) {
    let mut replicas = Replicas::formed();
    let (mut first_fed, mut last) = (0, 0);
    for number in 0..before + fed {
        let (index, answer) = replicas.append(&[message()]);
        let AppendAnswer::Taken(_) = &answer else {
            panic!("{answer:?}");
        };
        if number == before {
            first_fed = index;
        }
        if number >= before {
            let log = replicas.first().group.read_log(index..index + 1, 1);
            let command = replicas.first().block_on(log).unwrap().commands.remove(0).1;
            feed.applied(index, &command, &PartitionAnswer::Append(answer));
        }
        last = index;
    }
    let first = replicas.first();
    let trim = PartitionCommand::Trim {
        upto: last,
        keep: Vec::new(),
    };
    first.propose(&trim);
    first.block_on(first.group.checkpoint());
    let deadline = Instant::now() + harness::SOON;
    while first.group.stored().range().start <= first_fed {
        assert!(Instant::now() < deadline, "not purged");
        std::thread::sleep(Duration::from_millis(5));
    }
    (replicas, first_fed, last)
}

#[test]
fn only_what_neither_log_nor_memory_has_is_a_gap() {
    let feed = Arc::new(Feed::default());
    let (replicas, first_fed, last) = purged(&feed, 10, 10);
    let first = replicas.first();
    let mut reader = Reader::new(first.group.clone(), Arc::clone(&feed), 2);
    let Read::Gap { upto } = first.block_on(reader.next()) else {
        panic!("no gap");
    };
    assert_eq!(upto, first_fed - 1);
    reader.pass_over(upto);
    let Read::Entries { entries, .. } = first.block_on(reader.next()) else {
        panic!("no entries");
    };
    let got: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(got, (first_fed..=last).collect::<Vec<_>>());
}

/// Before the first messages of a partition, memory lacks nothing, whatever came before them.
#[test]
fn what_is_no_message_is_no_gap_either() {
    let feed = Feed::default();
    for index in [3, 4, 6] {
        feed.applied(index, &tick(), &PartitionAnswer::Done);
    }
    let Fed::Entries { entries, upto } = feed.read(5, 6, 1 << 20) else {
        panic!("behind");
    };
    assert_eq!((entries.len(), upto), (0, 6));
    assert!(
        matches!(feed.read(2, 6, 1 << 20), Fed::Behind { complete_from: 3 }),
        "it was not there by then"
    );
}
