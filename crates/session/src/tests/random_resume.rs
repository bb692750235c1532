//! Random messages in both directions over connections that end again and again, at any point and in any way: the
//! node of the connection dies with everything that it did not commit, the connection ends in good order, or another
//! node takes it over.
//!
//! [`Client`] keeps what a client keeps, [`Node`] commits the session's questions in their order, answers them in any
//! order, and resumes with what it had committed. Whatever happens,
//!
//! | invariant | where |
//! |---|---|
//! | a QoS 2 message arrives exactly once, in order [MQTT-4.3.3-10] | `World::check_end` |
//! | it keeps the packet id under which it was first sent [MQTT-4.4.0-1] | `Node::check_sent` |
//! | it is sent only when its packet id is safe, PUBREL only when the PUBREC is safe | `Node::check_sent`, `Node::check_acknowledged` |
//! | a QoS 1 message arrives at least once, first in order; after an orderly end under its packet id | `World::check_end`, `Node::check_sent` |
//! | DUP is set exactly on what an earlier connection is known to have sent [MQTT-3.3.1-1] | `Node::check_sent` |
//! | a packet id is not used for two messages at a time [MQTT-2.2.1-4] | `Client::delivered`, `Node::check_sent` |
//! | the window is never passed [MQTT-3.3.4-9] | `Node::check_sent` |
//! | each delivery is done once | `Node::see` |
//! | the client's own QoS 2 messages are taken exactly once, those of QoS 1 at least once, in order | `World::check_end` |
//! | they are acknowledged only when they are safe, each PUBLISH once | `Node::check_acknowledged`, `Client::take` |

mod client;
mod node;

use std::collections::HashSet;
use std::num::NonZeroU16;

use magpie_codec::{Connect, ConnectProperties, ProtocolVersion, QoS};
use proptest::prelude::*;

use self::client::Client;
use self::node::Node;
use super::{Driver, connect, connect_v5};
use crate::{Limits, Output};

#[derive(Debug, Clone)]
enum Step {
    /// There is a message for the client.
    Produce(QoS),
    /// The connection gets so many of them, if its window is open.
    Deliver(usize),
    /// The client publishes.
    Publish(QoS),
    /// The client takes so many packets.
    Take(usize),
    /// The connection takes so many packets.
    Serve(usize),
    /// The node commits so many questions of this stream.
    Commit(usize, usize),
    /// The node gives one of the answers that are due.
    Answer(usize),
    CommitProgress,
    Break(Break),
}

/// The connection ends.
#[derive(Debug, Clone)]
struct Break {
    end: End,
    /// Packets that the client took before, whose answers are lost.
    taken: usize,
    /// Questions of each stream that were committed before or after, whose answers are lost.
    committed: [usize; 2],
    /// The next connection's.
    window: u16,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Crash,
    Detach,
    HandOver,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop_oneof![1 => Just(QoS::AtLeastOnce), 2 => Just(QoS::ExactlyOnce)];
    let end = prop_oneof![2 => Just(End::Crash), 1 => Just(End::Detach), 1 => Just(End::HandOver)];
    let committed = [0..4_usize, 0..4_usize];
    prop_oneof![
        6 => qos().prop_map(Step::Produce),
        6 => (1..5_usize).prop_map(Step::Deliver),
        3 => qos().prop_map(Step::Publish),
        6 => (1..6_usize).prop_map(Step::Take),
        6 => (1..6_usize).prop_map(Step::Serve),
        8 => (0..2_usize, 1..5_usize).prop_map(|(stream, count)| Step::Commit(stream, count)),
        10 => any::<usize>().prop_map(Step::Answer),
        1 => Just(Step::CommitProgress),
        2 => (end, 0..6_usize, committed, 1..6_u16)
            .prop_map(|(end, taken, committed, window)| Step::Break(Break { end, taken, committed, window })),
    ]
}

struct World {
    version: ProtocolVersion,
    driver: Driver,
    node: Node,
    client: Client,
}

impl World {
    fn new(version: ProtocolVersion) -> Self {
        let mut node = Node::default();
        assert!(node.attach(None, WINDOW).is_none());
        Self {
            version,
            driver: Driver::connected_with(limits(WINDOW), returning(version, WINDOW)),
            node,
            client: Client::new(version),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Produce(qos) => self.node.produce(*qos),
            Step::Deliver(count) => self.deliver(*count),
            Step::Publish(qos) => self.client.publish(*qos),
            Step::Take(count) => self.client_takes(*count),
            Step::Serve(count) => self.serve(*count),
            Step::Commit(stream, count) => self.node.commit(*stream, *count),
            Step::Answer(which) => {
                self.answer(*which);
            }
            Step::CommitProgress => self.node.commit_progress(),
            Step::Break(it) => self.break_off(it),
        }
        assert!(self.driver.connection.is_connected(), "{step:?}");
    }

    fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            let Some(delivery) = self.node.next() else {
                return;
            };
            if !self.driver.connection.can_accept(delivery.qos) {
                return;
            }
            self.node.handed(&delivery);
            let now = self.driver.now();
            self.driver.connection.handle_delivery(delivery, now);
            let outputs = self.driver.drain();
            self.hear(outputs);
        }
    }

    fn client_takes(&mut self, count: usize) {
        for _ in 0..count {
            if !self.client.take() {
                return;
            }
        }
    }

    fn serve(&mut self, count: usize) {
        for _ in 0..count {
            assert!(self.driver.connection.wants_packets());
            let Some(packet) = self.client.next_packet() else {
                return;
            };
            let outputs = self.driver.packet(packet);
            self.hear(outputs);
        }
    }

    fn answer(&mut self, which: usize) -> bool {
        let Some((ticket, answer)) = self.node.answer(which) else {
            return false;
        };
        let outputs = self.driver.answer(ticket, answer);
        self.hear(outputs);
        true
    }

    fn hear(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Some(output) = self.node.see(output) {
                self.client.hear(output);
            }
        }
    }

    fn break_off(
        &mut self,
        Break {
            end,
            taken,
            committed,
            window,
        }: &Break,
    ) {
        self.client_takes(*taken);
        for (stream, count) in committed.iter().enumerate() {
            self.node.commit(stream, *count);
        }
        let told = match end {
            End::Crash => {
                self.node.crash();
                None
            }
            End::Detach | End::HandOver => {
                let now = self.driver.now();
                self.driver.connection.handle_disconnected(now);
                assert!(matches!(self.driver.drain()[..], [Output::Close { .. }]));
                let session = self.driver.connection.session().unwrap();
                match end {
                    End::HandOver => Some(self.node.hand_over(session)),
                    _ => {
                        self.node.detach(session);
                        None
                    }
                }
            }
        };
        self.client.reconnect();
        self.driver = Driver::new(limits(*window));
        let session = self.node.attach(told, *window);
        assert!(session.is_some());
        let outputs = self
            .driver
            .attach(returning(self.version, *window), session);
        self.hear(outputs);
    }

    /// Lets everything come to its end, and looks at what became of it.
    fn check_end(mut self) {
        let is_quiet = (0..ROUNDS_MAX).any(|_| {
            self.client_takes(usize::MAX);
            self.serve(usize::MAX);
            self.deliver(usize::MAX);
            for stream in 0..2 {
                self.node.commit(stream, usize::MAX);
            }
            while self.answer(0) {}
            self.client.is_quiet() && self.node.is_quiet()
        });
        assert!(is_quiet, "does not come to an end");
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(self.client.seen(qos), self.node.produced(qos));
        }
        let mut taken = self.node.taken(QoS::AtLeastOnce).to_vec();
        let mut seen = HashSet::new();
        taken.retain(|payload| seen.insert(*payload));
        assert_eq!(taken, self.client.published(QoS::AtLeastOnce));
        assert_eq!(
            self.node.taken(QoS::ExactlyOnce),
            self.client.published(QoS::ExactlyOnce)
        );
        let session = self.driver.connection.session().unwrap();
        assert_eq!((session.inflight_len(), session.received_len()), (0, 0));
    }
}

const WINDOW: u16 = 5;
/// Enough for one message at a time.
const ROUNDS_MAX: usize = 2_000;

fn limits(window: u16) -> Limits {
    Limits {
        session_expiry_s_max: 600,
        inflight_max: window,
        ..Limits::default()
    }
}

fn returning(version: ProtocolVersion, window: u16) -> Connect {
    let properties = ConnectProperties {
        session_expiry_interval_s: 600,
        receive_maximum: NonZeroU16::new(window),
        ..ConnectProperties::default()
    };
    let connect = match version {
        ProtocolVersion::V5 => connect_v5(properties),
        _ => connect(version),
    };
    Connect {
        clean_start: false,
        ..connect
    }
}

fn check(version: ProtocolVersion, steps: &[Step]) {
    let mut world = World::new(version);
    for step in steps {
        world.take(step);
    }
    world.check_end();
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec(step(), 1..160)) {
        check(ProtocolVersion::V5, &steps);
    }

    #[test]
    fn nothing_is_lost_or_doubled_in_version_3_1_1(steps in prop::collection::vec(step(), 1..160)) {
        check(ProtocolVersion::V3_1_1, &steps);
    }
}
