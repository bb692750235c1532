//! Inbound QoS 2: a message is taken once, whichever nodes its publisher sends it by.

use super::*;

fn exactly_once(epoch: Epoch, session: Epoch, number: u16) -> Record {
    Record::Publish(Publish {
        qos: QoS::ExactlyOnce,
        dedup: Some(Dedup {
            session,
            packet_id: packet_id(number),
        }),
        ..message("a", "phone", epoch)
    })
}

fn release(session: Epoch, number: Option<u16>) -> Record {
    Record::Release {
        client: client("phone"),
        session,
        packet_id: number.map(packet_id),
    }
}

const SESSION: Epoch = Epoch(5);

#[test]
fn a_repeat_by_another_node_is_answered_and_passed_over() {
    let mut replica = Replica::configured();
    assert!(
        replica
            .send(A1, &[exactly_once(Epoch(5), SESSION, 1)])
            .is_plain()
    );
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    let again = replica.send(
        B1,
        &[
            exactly_once(Epoch(9), SESSION, 2),
            exactly_once(Epoch(9), SESSION, 1),
        ],
    );
    assert_eq!(again.repeated, [1]);
    assert!(again.refused.is_empty());
    assert_eq!(replica.state.skip(replica.index), Skip::Records(&[1]));
    // The answer was lost, and the node asks again.
    let (seq, records) = (1, [exactly_once(Epoch(9), SESSION, 1)]);
    match replica.append(B1, seq, &records) {
        AppendAnswer::Repeat(outcome) => assert_eq!(outcome.repeated, [1]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_released_identifier_is_a_new_message() {
    let mut replica = Replica::configured();
    let publish = exactly_once(Epoch(5), SESSION, 1);
    replica.send(A1, &[publish.clone(), exactly_once(Epoch(5), SESSION, 2)]);
    replica.send(B1, &[release(SESSION, Some(1)), release(SESSION, Some(3))]);
    assert!(replica.send(A1, &[publish]).is_plain());
    let second = replica.send(A1, &[exactly_once(Epoch(5), SESSION, 2)]);
    assert_eq!(second.repeated, [0]);
    // What is released of another incarnation is not released of this one.
    replica.send(A1, &[release(Epoch(4), Some(2)), release(Epoch(4), None)]);
    let second = replica.send(A1, &[exactly_once(Epoch(5), SESSION, 2)]);
    assert_eq!(second.repeated, [0]);
}

#[test]
fn the_end_of_a_session_releases_all_of_it() {
    let mut replica = Replica::configured();
    let publish = exactly_once(Epoch(5), SESSION, 1);
    replica.send(A1, &[publish]);
    let rows = |replica: &Replica| {
        let keys = replica.checkpoint.keys();
        keys.filter(|key| key[0] == table::RECEIVED).count()
    };
    assert_eq!(rows(&replica), 1);
    replica.send(StreamId::outbox(THERE), &[release(SESSION, None)]);
    assert_eq!(rows(&replica), 0);
}

#[test]
fn a_newer_incarnation_begins_anew_and_the_older_is_refused() {
    let mut replica = Replica::configured();
    let newer = Epoch(20);
    replica.send(A1, &[exactly_once(Epoch(5), SESSION, 1)]);
    assert!(
        replica
            .send(B1, &[exactly_once(newer, newer, 1)])
            .is_plain()
    );
    let late = replica.send(A1, &[exactly_once(Epoch(5), SESSION, 2)]);
    assert_eq!((late.refused, late.repeated), (vec![0], Vec::new()));
    replica.send(StreamId::outbox(THERE), &[release(SESSION, None)]);
    let again = replica.send(B1, &[exactly_once(newer, newer, 1)]);
    assert_eq!(again.repeated, [0], "a late end of the older one");
}

#[test]
fn a_fenced_one_is_refused_and_not_remembered() {
    let mut replica = Replica::configured();
    let fence = Record::Fence {
        client: client("phone"),
        epoch: Epoch(9),
        against: A1,
    };
    replica.send(B1, &[fence]);
    let refused = replica.send(A1, &[exactly_once(Epoch(5), SESSION, 1)]);
    assert_eq!(refused.refused, [0]);
    assert!(
        replica
            .send(B1, &[exactly_once(Epoch(9), SESSION, 1)])
            .is_plain()
    );
}

#[test]
fn every_identifier_can_be_in_use() {
    let mut replica = Replica::configured();
    let all: Vec<_> = (1..=u16::MAX)
        .rev()
        .map(|number| exactly_once(Epoch(5), SESSION, number))
        .collect();
    assert!(replica.send(A1, &all).is_plain());
    assert_eq!(replica.send(A1, &all).repeated.len(), 65_535);
}
