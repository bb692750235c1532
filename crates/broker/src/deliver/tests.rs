#![expect(clippy::unwrap_used, reason = "tests")]

use std::task::{Context, Waker};

use magpie_codec::{ProtocolVersion, SubscriptionOptions, Text};

use super::*;
use crate::MailboxConfig;
use crate::handle::{Greeting, Handle};
use crate::mailbox::Taken;

/// A table and one deliverer.
struct World {
    subscribers: Arc<Subscribers>,
    deliverer: Deliverer,
    numbers: u64,
}

impl World {
    fn new() -> Self {
        let subscribers = Arc::new(Subscribers::new(8));
        let metrics = Arc::new(Metrics::register());
        Self {
            deliverer: Deliverer::new(Arc::clone(&subscribers), CacheLimits::default(), metrics),
            subscribers,
            numbers: 0,
        }
    }

    fn client(&mut self, id: &'static str) -> Arc<Handle> {
        self.numbers += 1;
        let address = crate::peer::Peer::tcp(([127, 0, 0, 1], 1).into());
        let handle = Handle::new(self.numbers, address, &MailboxConfig::default());
        handle.greet(Greeting {
            client: ClientId(Text::from_static(id)),
            version: ProtocolVersion::V5,
            keep_alive_s: 0,
            session_expiry_s: 0,
        });
        Arc::new(handle)
    }

    fn subscribe(&self, handle: &Arc<Handle>, filter: &'static str, qos: QoS, id: Option<u32>) {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        self.subscribe_with(handle, filter, options, id);
    }

    fn subscribe_with(
        &self,
        handle: &Arc<Handle>,
        filter: &'static str,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) {
        let filter = TopicFilter::from_static(filter);
        self.subscribers
            .insert(handle, &filter, options, id, &[])
            .unwrap();
    }

    fn publish(&mut self, publisher: &'static str, topic: &'static str, qos: QoS) {
        let message = message(topic);
        let publisher = ClientId(Text::from_static(publisher));
        self.deliverer
            .deliver(Published::new(&publisher, qos, true, 0, &message));
        self.deliverer.flush();
    }
}

fn message(topic: &'static str) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::from_static(topic),
        payload: "x".into(),
        properties: None,
    })
}

fn received(handle: &Handle) -> Vec<Delivery> {
    let mut taken = Taken::default();
    let _ = handle
        .mailbox
        .poll_take(&Context::from_waker(Waker::noop()), &mut taken, true);
    std::iter::from_fn(|| taken.next()).collect()
}

/// [MQTT-3.8.4-8], [MQTT-3.8.4-6 v3.1.1]
#[test]
fn the_lower_qos_counts() {
    let mut world = World::new();
    let reader = world.client("reader");
    world.subscribe(&reader, "a/b", QoS::AtLeastOnce, None);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        world.publish("writer", "a/b", qos);
    }
    let qos: Vec<_> = received(&reader).iter().map(|it| it.qos).collect();
    assert_eq!(qos, [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtLeastOnce]);
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.3.5-1 v3.1.1]
#[test]
fn overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_ids() {
    let mut world = World::new();
    let reader = world.client("reader");
    world.subscribe(&reader, "a/b", QoS::AtMostOnce, Some(1));
    world.subscribe(&reader, "a/+", QoS::ExactlyOnce, Some(2));
    world.subscribe(&reader, "#", QoS::AtLeastOnce, None);
    world.publish("writer", "a/b", QoS::ExactlyOnce);
    let received = received(&reader);
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].qos, QoS::ExactlyOnce);
    let mut ids = received[0].subscription_ids.to_vec();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_own_messages_away() {
    let mut world = World::new();
    let both = world.client("both");
    let options = SubscriptionOptions {
        no_local: true,
        ..SubscriptionOptions::default()
    };
    world.subscribe_with(&both, "a/b", options, Some(1));
    world.publish("both", "a/b", QoS::AtMostOnce);
    assert!(received(&both).is_empty());
    world.publish("other", "a/b", QoS::AtMostOnce);
    assert_eq!(received(&both).len(), 1);
    // Another subscription, without No Local, takes them.
    world.subscribe(&both, "a/#", QoS::AtMostOnce, Some(2));
    world.publish("both", "a/b", QoS::AtMostOnce);
    assert_eq!(received(&both)[0].subscription_ids.to_vec(), [2]);
}

/// [MQTT-3.3.1-12], [MQTT-3.3.1-13], [MQTT-3.3.1-9 v3.1.1]
#[test]
fn retain_is_kept_only_as_published() {
    let mut world = World::new();
    let (plain, keeping) = (world.client("plain"), world.client("keeping"));
    world.subscribe(&plain, "a", QoS::AtMostOnce, None);
    let options = SubscriptionOptions {
        retain_as_published: true,
        ..SubscriptionOptions::default()
    };
    world.subscribe_with(&keeping, "a", options, None);
    world.publish("writer", "a", QoS::AtMostOnce);
    assert!(!received(&plain)[0].retain);
    assert!(received(&keeping)[0].retain);
}

#[test]
fn the_cache_sees_every_change() {
    let mut world = World::new();
    let reader = world.client("reader");
    world.publish("writer", "a", QoS::AtMostOnce);
    world.subscribe(&reader, "a", QoS::AtMostOnce, None);
    world.publish("writer", "a", QoS::AtMostOnce);
    assert_eq!(received(&reader).len(), 1);
    assert!(
        world
            .subscribers
            .remove(&reader, &TopicFilter::from_static("a"))
    );
    world.publish("writer", "a", QoS::AtMostOnce);
    world.subscribe(&reader, "+", QoS::AtMostOnce, None);
    let filters = world.subscribers.remove_all(&reader);
    assert_eq!(filters, [TopicFilter::from_static("+")]);
    world.publish("writer", "a", QoS::AtMostOnce);
    assert!(received(&reader).is_empty());
}

#[test]
fn a_crowd_gets_it_once_each() {
    let mut world = World::new();
    let readers: Vec<_> = (0..2000).map(|_| world.client("reader")).collect();
    for reader in &readers {
        world.subscribe(reader, "news", QoS::AtMostOnce, None);
        world.subscribe(reader, "#", QoS::AtMostOnce, None);
    }
    world.publish("writer", "news", QoS::AtMostOnce);
    assert!(readers.iter().all(|reader| received(reader).len() == 1));
}

/// Section 4.8.2.
#[test]
fn one_member_of_a_share_group_gets_each() {
    let mut world = World::new();
    let filter = TopicFilter::from_static("$share/g/a");
    let members: Vec<_> = (0..3).map(|_| world.client("member")).collect();
    for member in &members {
        world.subscribe(member, "$share/g/a", QoS::AtLeastOnce, None);
    }
    let publisher = ClientId(Text::from_static("writer"));
    let message = message("a");
    let published = Published::new(&publisher, QoS::AtLeastOnce, false, 0, &message);
    // Plain delivery is not for them.
    world.deliverer.deliver(published);
    for _ in 0..6 {
        world.deliverer.deliver_to_any_member(&filter, published);
    }
    for member in &members {
        assert_eq!(received(member).len(), 2);
    }
}
