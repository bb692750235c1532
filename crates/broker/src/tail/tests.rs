#![expect(clippy::unwrap_used, reason = "tests")]

use std::task::{Context, Waker};

use magpie_codec::{
    Message, ProtocolVersion, QoS, SubscriptionOptions, Text, TopicFilter, TopicName,
};
use magpie_state::{ClientId, Cursor, PartitionId, partition_of};

use super::*;
use crate::MailboxConfig;
use crate::handle::{Greeting, Handle};
use crate::lanes::Lanes;
use crate::mailbox::Taken;

const TOPIC: &str = "chat/1";
const PARTITIONS: u16 = 8;

/// One node's subscribers, of one topic, and the tail of that topic's partition.
struct World {
    subscribers: Arc<Subscribers>,
    registry: Registry,
    deliverer: Deliverer,
    partition: PartitionId,
}

impl World {
    fn new() -> Self {
        let subscribers = Arc::new(Subscribers::new(PARTITIONS));
        let metrics = Arc::new(Metrics::register());
        Self {
            deliverer: Deliverer::new(Arc::clone(&subscribers), CacheLimits::default(), metrics),
            registry: Registry::new(),
            subscribers,
            partition: partition_of(TOPIC, PARTITIONS),
        }
    }

    /// A client that is subscribed; its session lasts, or ends with the connection.
    fn client(&self, number: u64, id: &'static str, lasts: bool) -> Arc<Handle> {
        let address = crate::peer::Peer::tcp(([127, 0, 0, 1], 1).into());
        let handle = Arc::new(Handle::new(number, address, &MailboxConfig::default()));
        let client = ClientId(Text::from_static(id));
        handle.greet(Greeting {
            client: client.clone(),
            version: ProtocolVersion::V5,
            keep_alive_s: 0,
            session_expiry_s: if lasts { 60 } else { 0 },
        });
        self.registry.enter(&client, &handle);
        let filter = TopicFilter::from_static(TOPIC);
        if lasts {
            let mut lanes = Lanes::new(1000);
            lanes.insert(self.partition, Position::START);
            handle.mailbox.set_lanes(lanes);
        }
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            ..SubscriptionOptions::default()
        };
        self.subscribers
            .insert(&handle, &filter, options, None, &[])
            .unwrap();
        handle
    }

    /// The tail hands out an entry with one message.
    fn deliver(&mut self, index: u64) {
        let item = TailItem {
            position: Position::at(index, 0),
            publisher: ClientId(Text::from_static("publisher")),
            qos: QoS::AtLeastOnce,
            retain: false,
            published_ms: 0,
            message: Arc::new(Message {
                topic: TopicName::from_static(TOPIC),
                payload: "x".into(),
                properties: None,
            }),
        };
        let batch = TailBatch {
            partition: self.partition,
            index,
            items: vec![item],
        };
        deliver_all(&mut self.deliverer, &self.subscribers, &batch);
    }

    /// The tail has a gap.
    fn lose(&self, after: u64, upto: u64) {
        let partition = self.partition;
        let lost = TailLost {
            partition,
            after,
            upto,
        };
        pass_over(&self.subscribers, &self.registry, lost);
    }

    /// How far the session is, as it would be told.
    fn floor(&self, handle: &Handle) -> Position {
        let positions = &self.subscribers.positions;
        let cursors = handle
            .mailbox
            .with_lanes(|lanes| lanes.cursors(|partition| positions.passed(partition)));
        let [Cursor { floor, .. }] = <[Cursor; 1]>::try_from(cursors.unwrap()).unwrap();
        floor
    }
}

fn take(handle: &Handle) -> Taken {
    let mut taken = Taken::default();
    let _ = handle
        .mailbox
        .poll_take(&Context::from_waker(Waker::noop()), &mut taken, true);
    taken
}

/// Acknowledges what it has.
fn finish(handle: &Handle) -> usize {
    let mut taken = take(handle);
    let got: Vec<_> = std::iter::from_fn(|| taken.next()).collect();
    taken.finished = got.iter().map(|delivery| delivery.token).collect();
    let _ = handle
        .mailbox
        .poll_take(&Context::from_waker(Waker::noop()), &mut taken, true);
    got.len()
}

#[test]
fn what_the_tail_cannot_offer_is_read_for_sessions_that_last() {
    let mut world = World::new();
    let handle = world.client(1, "lasts", true);
    world.deliver(5);
    assert_eq!(finish(&handle), 1);
    world.lose(7, 20);
    let taken = take(&handle);
    assert!(taken.has_unread && taken.eviction.is_none());
    world.deliver(21);
    assert_eq!(finish(&handle), 0, "in its turn");
    assert_eq!(world.floor(&handle), Position::end_of(7));
    let next = handle.mailbox.with_lanes(Lanes::next_to_read).flatten();
    assert_eq!(next, Some((world.partition, Position::end_of(7))));
}

#[test]
fn a_session_whose_connection_is_being_closed_has_nothing_of_a_gap() {
    for evicted_before in [true, false] {
        let mut world = World::new();
        let handle = world.client(1, "lasts", true);
        world.deliver(5);
        assert_eq!(finish(&handle), 1);
        if evicted_before {
            handle.mailbox.evict(Eviction::Busy);
        }
        world.lose(5, 20);
        handle.mailbox.evict(Eviction::Busy);
        world.deliver(21);
        world.deliver(22);
        assert_eq!(world.floor(&handle), Position::end_of(5));
    }
}

#[test]
fn whose_session_ends_with_the_connection_is_closed_at_a_gap_and_gets_nothing_behind_it() {
    let mut world = World::new();
    let handle = world.client(1, "clean", false);
    world.deliver(5);
    world.lose(5, 20);
    world.deliver(21);
    let mut taken = take(&handle);
    assert_eq!(taken.eviction, Some(Eviction::Busy));
    assert_eq!(std::iter::from_fn(|| taken.next()).count(), 1);
}

#[test]
fn who_subscribes_after_a_gap_begins_behind_it() {
    let mut world = World::new();
    world.deliver(5);
    world.lose(5, 20);
    let handle = world.client(1, "late", true);
    let begun = world
        .subscribers
        .positions
        .begun(&TopicFilter::from_static(TOPIC), &[]);
    assert_eq!(begun, [(world.partition, 20)]);
    world.deliver(21);
    assert_eq!(finish(&handle), 1);
    assert_eq!(world.floor(&handle), Position::end_of(21));
}
