//! A Will Message is sent once or discarded, whatever happens in which order.

use super::*;

fn fired(replica: &Replica) -> Vec<&'static str> {
    let known = ["w", "old", "new"];
    let wills = replica.wills();
    wills
        .iter()
        .map(|payload| {
            *known
                .iter()
                .find(|known| known.as_bytes() == payload)
                .unwrap()
        })
        .collect()
}

#[test]
fn an_unclean_end_sends_it_once_and_a_clean_one_discards_it() {
    // [MQTT-3.1.2-8], [MQTT-3.1.2-10]
    for (expiry_s, is_clean) in [(0, false), (60, false), (0, true), (60, true)] {
        let mut replica = Replica::configured();
        let attached = replica.connect(A1, "phone", true, expiry_s, Some(will(b"w", 0)));
        replica.send(A1, &[detach("phone", attached.epoch, is_clean)]);
        let expected: &[&str] = if is_clean { &[] } else { &["w"] };
        assert_eq!(fired(&replica), expected);
        replica.send(A1, &[detach("phone", attached.epoch, false)]);
        replica.apply(&PartitionCommand::EndStream { stream: A1 });
        replica.pass_s(62);
        assert_eq!(fired(&replica), expected, "no second time");
    }
}

#[test]
fn the_message_is_its_owners() {
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 0, Some(will(b"w", 0)));
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    let (_, record) = replica.sent_out().remove(0);
    let expected = Publish {
        published_ms: 5,
        message: Arc::new(Message {
            topic: topic("gone"),
            payload: Bytes::from_static(b"w"),
            properties: None,
        }),
        ..message("gone", "phone", attached.epoch)
    };
    assert_eq!(record, Record::Publish(expected.clone()));
    let batch = replica.state.outbox().next().unwrap();
    let stamped = |now| Record::decode(&mut batch.stamped(now)).unwrap();
    let at = |published_ms| {
        Record::Publish(Publish {
            published_ms,
            ..expected.clone()
        })
    };
    assert_eq!(stamped(77), at(77));
    assert_eq!(stamped(4), at(5), "never going back");
}

#[test]
fn a_delayed_one_waits_and_never_comes_early() {
    let mut replica = Replica::configured();
    replica.connect(A1, "phone", true, 60, Some(will(b"w", 3)));
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    replica.pass_s(3);
    assert!(fired(&replica).is_empty());
    replica.pass_s(1);
    assert_eq!(fired(&replica), ["w"]);
    assert!(
        replica.state.has_timers() && replica.session("phone").is_some(),
        "the session still waits"
    );
    replica.pass_s(60);
    assert_eq!(fired(&replica), ["w"]);
    assert!(replica.session("phone").is_none());
}

#[test]
fn a_delayed_one_comes_when_the_session_ends_before() {
    // [MQTT-3.1.2-8]
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 2, Some(will(b"w", 30)));
    replica.send(A1, &[detach("phone", attached.epoch, false)]);
    replica.pass_s(3);
    assert_eq!(fired(&replica), ["w"]);
    assert!(replica.session("phone").is_none());

    let attached = replica.connect(A1, "phone", true, 0, Some(will(b"old", 30)));
    replica.send(A1, &[detach("phone", attached.epoch, false)]);
    assert_eq!(fired(&replica), ["w", "old"], "the session ended at once");

    replica.connect(A1, "phone", true, 60, Some(will(b"new", 30)));
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    replica.connect(B1, "phone", true, 60, None);
    assert_eq!(fired(&replica), ["w", "old", "new"], "clean start ended it");
    replica.pass_s(90);
    assert_eq!(fired(&replica).len(), 3);
}

#[test]
fn resuming_in_time_cancels_a_delayed_one() {
    // [MQTT-3.1.3-9]
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 60, Some(will(b"w", 5)));
    replica.send(A1, &[detach("phone", attached.epoch, false)]);
    replica.pass_s(3);
    replica.connect(B1, "phone", false, 60, None);
    assert!(!replica.state.has_timers());
    replica.pass_s(90);
    assert!(fired(&replica).is_empty());
}

#[test]
fn a_takeover_sends_that_of_the_old_connection_unless_it_has_a_delay_and_the_session_goes_on() {
    for (delay_s, clean_start, expiry_s, is_sent) in [
        (0, false, 60, true),
        (0, true, 60, true),
        (5, false, 60, false),
        (5, true, 60, true),
        (5, false, 0, true),
    ] {
        let mut replica = Replica::configured();
        let old = will(b"old", delay_s);
        let first = replica.connect(A1, "phone", true, expiry_s, Some(old));
        let second = replica.connect(B1, "phone", clean_start, 60, Some(will(b"new", 0)));
        let expected: &[&str] = if is_sent { &["old"] } else { &[] };
        let case = (delay_s, clean_start, expiry_s);
        assert_eq!(fired(&replica), expected, "{case:?}");
        // Late news of the old connection.
        replica.send(A1, &[detach("phone", first.epoch, false)]);
        replica.apply(&PartitionCommand::EndStream { stream: A1 });
        replica.pass_s(10);
        assert_eq!(fired(&replica), expected, "{case:?}");
        replica.send(B1, &[detach("phone", second.epoch, true)]);
        replica.pass_s(90);
        assert_eq!(fired(&replica), expected, "{case:?}");
    }
}

#[test]
fn what_comes_before_the_partition_knows_the_others_is_sent_when_it_does() {
    let mut replica = Replica::default();
    replica.connect(A1, "phone", true, 60, Some(will(b"w", 0)));
    replica.connect(A1, "phone", true, 60, None);
    assert!(replica.sent_out().is_empty());
    replica.apply(&PartitionCommand::Configure {
        partition: HERE,
        partitions: PARTITIONS,
    });
    assert_eq!(fired(&replica), ["w"]);
    assert_eq!(replica.released().len(), 1);
    assert_eq!(replica.state.configured(), Some((HERE, PARTITIONS)));
}

#[test]
fn batches_of_the_outbox_are_numbered_for_each_target_and_go_when_they_are_done() {
    let mut replica = Replica::configured();
    for _ in 0..3 {
        replica.connect(A1, "phone", true, 60, None);
    }
    let numbers = |replica: &Replica| -> Vec<_> {
        let batches = replica.state.outbox();
        batches.map(|it| (it.target, it.seq, it.count)).collect()
    };
    let expected = [(HERE, 1, 1), (HERE, 2, 1), (THERE, 1, 1), (THERE, 2, 1)];
    assert_eq!(numbers(&replica), expected);
    replica.apply(&PartitionCommand::OutboxDone {
        target: THERE,
        upto: 2,
    });
    assert_eq!(numbers(&replica), expected[..2]);
    replica.connect(A1, "phone", true, 60, None);
    assert_eq!(
        numbers(&replica),
        [(HERE, 1, 1), (HERE, 2, 1), (HERE, 3, 1), (THERE, 3, 1)],
        "numbers go on"
    );
}

#[test]
fn an_outbox_is_no_node() {
    let mut replica = Replica::configured();
    let outbox = StreamId::outbox(THERE);
    let fence = Record::Fence {
        client: client("phone"),
        epoch: Epoch(9),
        against: A1,
    };
    replica.send(B1, &[fence]);
    let last_words = [publish("phone", Epoch(1))];
    assert!(replica.send(A1, &last_words).refused == [0]);
    assert!(replica.send(outbox, &last_words).is_plain(), "no fence");
    assert!(
        replica
            .state
            .live_streams()
            .all(|stream| !stream.is_outbox())
    );
    assert!(!replica.state.holders().contains(&outbox));
    replica.apply(&PartitionCommand::EndStream { stream: outbox });
    assert!(replica.send(outbox, &last_words).is_plain(), "never ends");
}

#[test]
fn an_attach_that_nobody_used_gives_back_the_delay_that_it_interrupted() {
    let unused = |epoch| Record::Detach {
        client: client("phone"),
        epoch,
        departure: crate::Departure::Unused,
        session_expiry_s: None,
        last: None,
    };
    for is_detached_before in [true, false] {
        let mut replica = Replica::configured();
        let first = replica.connect(A1, "phone", true, 60, Some(will(b"old", 3)));
        if is_detached_before {
            replica.send(A1, &[detach("phone", first.epoch, false)]);
        }
        // A CONNECT that was given up commits late, and is taken back.
        let late = replica.connect(B1, "phone", false, 60, Some(will(b"new", 0)));
        replica.send(B1, &[unused(late.epoch)]);
        assert!(fired(&replica).is_empty());
        replica.pass_s(5);
        assert_eq!(fired(&replica), ["old"]);
        replica.pass_s(70);
        assert_eq!(fired(&replica), ["old"], "no second time");
    }
}
