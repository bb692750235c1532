//! Outbound QoS 2: bindings survive what happens to nodes, and hold their messages.

use super::*;
use crate::{Binding, Inflight, SessionProgress, Stage};

const fn at(index: u64) -> Position {
    Position::at(index, 0)
}

fn bind(epoch: Epoch, bindings: &[(u16, u64)]) -> Record {
    Record::Bind {
        client: client("phone"),
        epoch,
        bindings: bindings
            .iter()
            .map(|(number, index)| Binding {
                packet_id: packet_id(*number),
                partition: HERE,
                position: at(*index),
                share: None,
            })
            .collect(),
    }
}

fn received(epoch: Epoch, number: u16) -> Record {
    Record::Received {
        client: client("phone"),
        epoch,
        packet_ids: vec![packet_id(number), packet_id(99)],
    }
}

fn inflight(replica: &Replica) -> Vec<(u16, u64, Stage)> {
    let session = replica.session("phone").unwrap();
    let inflight = session.inflight.iter();
    inflight
        .map(|it| (it.packet_id.number(), it.position.index(), it.stage))
        .collect()
}

fn connect(replica: &mut Replica) -> Epoch {
    let epoch = replica.connect(A1, "phone", true, 60, None).epoch;
    let subscription = subscription("a", QoS::ExactlyOnce, &[(HERE, at(2))]);
    replica.send(A1, &[subscribe("phone", epoch, subscription)]);
    epoch
}

#[test]
fn identifiers_and_stages_survive_the_node_in_their_order() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(7, 10), (3, 11)])]);
    replica.send(A1, &[received(epoch, 7), bind(epoch, &[(4, 12)])]);
    let expected = [
        (7, 10, Stage::Released),
        (3, 11, Stage::Published),
        (4, 12, Stage::Published),
    ];
    assert_eq!(inflight(&replica), expected);
    assert_eq!(replica.state.inflight_in(HERE), [at(11), at(12)]);
    assert!(replica.state.inflight_in(THERE).is_empty());
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(inflight(&replica), expected);
    let second = replica.connect(B1, "phone", false, 60, None).epoch;
    assert_eq!(inflight(&replica), expected);
    // The old connection can do nothing any more.
    let late = replica.send(B1, &[bind(epoch, &[(5, 20)]), received(epoch, 3)]);
    assert_eq!(late.refused, [0, 1]);
    assert_eq!(inflight(&replica), expected);
    replica.send(B1, &[received(second, 3)]);
    assert_eq!(inflight(&replica)[1], (3, 11, Stage::Released));
}

#[test]
fn one_that_is_done_is_not_in_flight_and_its_identifier_is_free() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(1, 10), (2, 11), (3, 12)])]);
    let progress = Record::Progress {
        floors: Vec::new(),
        laggards: vec![Laggard {
            client: client("phone"),
            epoch,
            progress: vec![Cursor {
                partition: HERE,
                floor: at(10),
                done: vec![at(12)],
            }],
        }],
        joined: Vec::new(),
    };
    replica.send(A1, &[progress]);
    assert_eq!(inflight(&replica), [(2, 11, Stage::Published)]);
    assert_eq!(replica.state.inflight_in(HERE), [at(11)]);
    replica.send(A1, &[bind(epoch, &[(2, 30)])]);
    assert_eq!(
        inflight(&replica),
        [(2, 30, Stage::Published)],
        "a binding in use is replaced"
    );
}

#[test]
fn an_orderly_end_says_what_is_in_flight_at_both_levels() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(1, 10), (2, 12)])]);
    let it = |number, index, qos| Inflight {
        packet_id: packet_id(number),
        partition: HERE,
        position: at(index),
        qos,
        stage: Stage::Published,
        share: None,
    };
    let last = SessionProgress {
        cursors: vec![Cursor {
            partition: HERE,
            floor: at(10),
            done: Vec::new(),
        }],
        inflight: vec![it(9, 11, QoS::AtLeastOnce), it(2, 12, QoS::ExactlyOnce)],
    };
    replica.send(
        A1,
        &[Record::Detach {
            client: client("phone"),
            epoch,
            departure: crate::Departure::Clean,
            session_expiry_s: None,
            last: Some(Box::new(last.clone())),
        }],
    );
    let session = replica.session("phone").unwrap();
    assert_eq!(session.inflight, last.inflight);
    assert_eq!(session.cursors, last.cursors);
}

#[test]
fn a_delivery_holds_its_message_when_nothing_is_subscribed_any_more() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(1, 10)])]);
    let filters = vec![filter("a")];
    // What the client has at QoS 1 is told with it [MQTT-3.10.4-3].
    let at_least_once = Inflight {
        packet_id: packet_id(2),
        partition: HERE,
        position: at(11),
        qos: QoS::AtLeastOnce,
        stage: Stage::Published,
        share: None,
    };
    let unsubscribe = Record::Unsubscribe {
        client: client("phone"),
        epoch,
        filters,
        inflight: vec![at_least_once],
    };
    replica.send(A1, &[unsubscribe]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(replica.state.needed_above(HERE, &topic("a")), None);
    assert_eq!(replica.state.inflight_in(HERE), [at(10), at(11)]);
    let expected = [(1, 10, Stage::Published), (2, 11, Stage::Published)];
    assert_eq!(inflight(&replica), expected);
    replica.pass_s(62);
    assert!(replica.state.inflight_in(HERE).is_empty());
}

#[test]
fn a_session_that_ends_with_its_connection_stores_nothing() {
    let mut replica = Replica::configured();
    let epoch = replica.connect(A1, "phone", true, 0, None).epoch;
    let subscription = subscription("a", QoS::ExactlyOnce, &[(HERE, at(2))]);
    let records = [
        subscribe("phone", epoch, subscription),
        bind(epoch, &[(1, 10)]),
        received(epoch, 1),
    ];
    assert!(replica.send(A1, &records).is_plain());
    let session = replica.session("phone").unwrap();
    assert!(session.subscriptions.is_empty() && session.inflight.is_empty());
}

#[test]
fn a_reused_identifier_says_that_its_first_message_is_done() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(7, 10)]), received(epoch, 7)]);
    // PUBCOMP came, and before any progress was reported the identifier stands for another message; then the node is gone.
    replica.send(A1, &[bind(epoch, &[(7, 11)])]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    let session = replica.session("phone").unwrap();
    assert_eq!(inflight(&replica), [(7, 11, Stage::Published)]);
    let here = session.cursors.iter().find(|it| it.partition == HERE);
    assert_eq!(here.unwrap().done, [at(10)]);
}

#[test]
fn a_message_is_bound_to_one_identifier() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica);
    replica.send(A1, &[bind(epoch, &[(7, 10)])]);
    // Never sent under the first one: bound again by whoever resumed the session.
    replica.send(A1, &[bind(epoch, &[(8, 10)])]);
    assert_eq!(inflight(&replica), [(8, 10, Stage::Published)]);
    // So the first one may be used anew without ending it.
    replica.send(A1, &[bind(epoch, &[(7, 11)])]);
    let expected = [(8, 10, Stage::Published), (7, 11, Stage::Published)];
    assert_eq!(inflight(&replica), expected);
    assert!(replica.session("phone").unwrap().cursors.is_empty());
}
