//! Random deliveries over a connection that breaks again and again, at any point.
//!
//! A model of the client keeps what a client keeps. In the end every message must have arrived, at QoS 2 exactly once,
//! each QoS in order, and every delivery is done exactly once [MQTT-4.3.3-10, MQTT-4.4.0-1, MQTT-4.6.0-1].

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use magpie_codec::{Connect, ConnectProperties, Packet, QoS};
use proptest::prelude::*;

use super::{Driver, ack, connect_v5, delivery};
use crate::{Limits, Outcome, Output};

#[derive(Debug, Clone)]
enum Step {
    Deliver(QoS),
    /// The client takes some packets, and its answers arrive.
    Take(usize),
    /// The client takes some packets, and its answers are lost with the connection. The next one has this window.
    Break {
        taken: usize,
        window: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Deliver(QoS::AtLeastOnce)),
        4 => Just(Step::Deliver(QoS::ExactlyOnce)),
        4 => (1..6_usize).prop_map(Step::Take),
        1 => (0..6_usize, 1..6_u16).prop_map(|(taken, window)| Step::Break { taken, window }),
    ]
}

#[derive(Default)]
struct Client {
    /// On its way to the client.
    inbox: VecDeque<Output>,
    /// QoS 2 ids that were taken and not released.
    received: HashSet<u16>,
    /// What the application saw, by QoS.
    seen: [Vec<u64>; 2],
    done: HashSet<u64>,
}

impl Client {
    fn hear(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Delivered { token, outcome } = output {
                assert_eq!(outcome, Outcome::Acknowledged);
                assert!(self.done.insert(token.position), "{token:?} done twice");
            } else {
                self.inbox.push_back(output);
            }
        }
    }

    /// Takes the next packet, and gives the answer.
    fn take(&mut self) -> Option<Packet> {
        Some(match self.inbox.pop_front()? {
            Output::Deliver { header, message } => {
                let token = std::str::from_utf8(&message.payload)
                    .unwrap()
                    .parse()
                    .unwrap();
                let id = header.packet_id.unwrap().number();
                match header.qos {
                    QoS::ExactlyOnce => {
                        if self.received.insert(id) {
                            self.seen[1].push(token);
                        }
                        Packet::PubRec(ack(id))
                    }
                    _ => {
                        // At least once: what was seen may be seen again.
                        assert!(header.dup || !self.seen[0].contains(&token));
                        if !self.seen[0].contains(&token) {
                            self.seen[0].push(token);
                        }
                        Packet::PubAck(ack(id))
                    }
                }
            }
            Output::Send(Packet::PubRel(released)) => {
                let id = released.packet_id.number();
                self.received.remove(&id);
                Packet::PubComp(ack(id))
            }
            other => panic!("{other:?}"),
        })
    }
}

fn returning(window: u16) -> Connect {
    let properties = ConnectProperties {
        session_expiry_interval_s: 600,
        receive_maximum: NonZeroU16::new(window),
        ..ConnectProperties::default()
    };
    Connect {
        clean_start: false,
        ..connect_v5(properties)
    }
}

fn limits() -> Limits {
    Limits {
        session_expiry_s_max: 600,
        ..Limits::default()
    }
}

fn check(steps: &[Step]) {
    let mut driver = Driver::connected_with(limits(), returning(5));
    let mut client = Client::default();
    let mut made = [Vec::new(), Vec::new()];
    let mut next_token = 0;
    for step in steps {
        match step {
            Step::Deliver(qos) if driver.connection.can_accept(*qos) => {
                let mut delivery = delivery(*qos, next_token);
                Arc::make_mut(&mut delivery.message).payload = next_token.to_string().into();
                driver.connection.handle_delivery(delivery, driver.now());
                let outputs = driver.drain();
                client.hear(driver.settle(outputs));
                made[usize::from(u8::from(*qos)) - 1].push(next_token);
                next_token += 1;
            }
            Step::Deliver(_) => {}
            Step::Take(count) => take(&mut driver, &mut client, *count),
            Step::Break { taken, window } => {
                for _ in 0..*taken {
                    client.take();
                }
                client.inbox.clear();
                driver.connection.handle_disconnected(driver.now());
                driver.drain();
                let session = driver.connection.into_session();
                driver = Driver::new(limits());
                let outputs = driver.attach(returning(*window), session);
                let published = outputs
                    .iter()
                    .filter(|output| matches!(output, Output::Deliver { .. }));
                assert!(published.count() <= usize::from(*window), "window passed");
                client.hear(outputs);
            }
        }
    }
    take(&mut driver, &mut client, usize::MAX);
    assert_eq!(client.seen, made);
    assert_eq!(client.done.len() as u64, next_token);
    assert_eq!(driver.connection.session().unwrap().inflight_len(), 0);
    assert!(client.received.is_empty());
}

fn take(driver: &mut Driver, client: &mut Client, count: usize) {
    for _ in 0..count {
        let Some(answer) = client.take() else {
            return;
        };
        let outputs = driver.packet(answer);
        client.hear(driver.settle(outputs));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_is_lost_or_doubled(steps in prop::collection::vec(step(), 1..100)) {
        check(&steps);
    }
}
