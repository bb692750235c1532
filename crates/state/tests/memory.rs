//! What a Session that sleeps costs in memory: one subscription, no message in flight. There are millions of them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use magpie_codec::{QoS, SubscriptionOptions, Text, TopicFilter, TopicName};
use magpie_state::partition::{Append, PartitionCommand, PartitionState};
use magpie_state::{
    ClientId, Epoch, Incarnation, NodeId, PartitionId, Position, Record, StateMachine as _,
    StoredSubscription, StreamId,
};

/// Counts what is allocated, as an allocator with size classes of 16 bytes and a word of its own for each block would take it.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

const fn taken(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16)
}

#[expect(
    unsafe_code,
    reason = "an allocator that counts is not written without"
)]
// SAFETY: everything is the system allocator's doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SESSIONS: u32 = 100_000;
/// Far below the 1 KiB that a node may have resident for one, replicas of the row not counted.
const BYTES_MAX: usize = 640;

struct Phones {
    state: PartitionState,
    index: u64,
    seq: u64,
}

impl Phones {
    const STREAM: StreamId = StreamId {
        node: NodeId(1),
        incarnation: Incarnation {
            counter: 1,
            nonce: 1,
        },
    };

    fn apply(&mut self, command: &PartitionCommand) {
        self.index += 1;
        self.state.apply(self.index, &command.encode());
    }

    fn append(&mut self, records: impl Iterator<Item = Record>) {
        let mut bytes = BytesMut::new();
        let mut count = 0;
        for record in records {
            record.encode(&mut bytes);
            count += 1;
        }
        self.seq += 1;
        self.apply(&PartitionCommand::Append(Append {
            stream: Self::STREAM,
            seq: self.seq,
            has_control: true,
            count,
            records: bytes.freeze(),
        }));
    }

    fn sleep_all(filter_of: impl Fn(u32) -> String) -> Self {
        let mut phones = Self {
            state: PartitionState::default(),
            index: 0,
            seq: 0,
        };
        phones.apply(&PartitionCommand::Configure {
            partition: PartitionId(0),
            partitions: 8,
        });
        let client = |n| ClientId(Text::try_from(format!("phone-{n:010}-a7f3")).unwrap());
        for first in (0..SESSIONS).step_by(10_000) {
            let batch = first..first + 10_000;
            let epochs = phones.index + 1;
            phones.append(batch.clone().map(|n| Record::Attach {
                client: client(n),
                clean_start: false,
                session_expiry_s: 86_400,
                will: None,
                owner: None,
            }));
            let epoch = |n| Epoch::at(epochs, n - first);
            phones.append(batch.clone().map(|n| Record::Subscribe {
                client: client(n),
                epoch: epoch(n),
                subscriptions: vec![StoredSubscription {
                    filter: TopicFilter::try_from(filter_of(n)).unwrap(),
                    options: SubscriptionOptions {
                        qos: QoS::AtLeastOnce,
                        ..SubscriptionOptions::default()
                    },
                    id: None,
                    since: vec![(PartitionId(3), Position::end_of(7))],
                }],
            }));
            phones.append(std::iter::once(Record::Progress {
                floors: (0..8)
                    .map(|of| (PartitionId(of), Position::end_of(9)))
                    .collect(),
                laggards: Vec::new(),
                joined: batch.map(|n| (client(n), epoch(n))).collect(),
            }));
        }
        phones.apply(&PartitionCommand::EndStream {
            stream: Self::STREAM,
        });
        phones.state.take_changed();
        phones
    }
}

fn bytes_each(name: &str, filter_of: impl Fn(u32) -> String) -> usize {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let phones = Phones::sleep_all(filter_of);
    let each = (ALLOCATED.load(Ordering::Relaxed) - before) / SESSIONS as usize;
    println!("{name}: {each} bytes for each of {SESSIONS} sessions");
    assert_eq!(phones.state.session_count(), SESSIONS as usize);
    let topic = TopicName::try_from("chat/u/0000000007/inbox").unwrap();
    assert_eq!(
        phones.state.needed_above(PartitionId(3), &topic),
        Some(Position::end_of(9))
    );
    each
}

#[test]
fn a_sleeping_session_is_small() {
    let own = bytes_each("an inbox of its own", |n| format!("chat/u/{n:010}/inbox"));
    let group = bytes_each("one group", |_| "chat/u/0000000007/inbox".to_owned());
    assert!(own < BYTES_MAX && group < BYTES_MAX, "{own}, {group}");
}
