//! What the partition refuses at its limits, and what it keeps all the same.

use super::*;
use crate::{Inflight, SessionProgress, Stage};

fn limited(change: impl FnOnce(&mut PartitionLimits)) -> Replica {
    let mut replica = Replica::configured();
    let mut limits = PartitionLimits::default();
    change(&mut limits);
    replica.apply(&PartitionCommand::Limit(limits));
    assert_eq!(replica.state.limits(), limits);
    replica
}

fn attach(id: &'static str, clean_start: bool, session_expiry_s: u32) -> Record {
    Record::Attach {
        client: client(id),
        clean_start,
        session_expiry_s,
        will: None,
        owner: None,
    }
}

#[test]
fn one_session_too_many_is_refused_and_those_that_are_there_go_on() {
    let mut replica = limited(|limits| limits.sessions_max = 2);
    let outcome = replica.send(
        A1,
        &[
            attach("a", false, 60),
            attach("b", true, 60),
            attach("c", false, 60),
        ],
    );
    assert_eq!(outcome.attached.len(), 2);
    assert_eq!(outcome.refused, [2]);
    assert_eq!(replica.state.stored_session_count(), 2);
    assert!(replica.session("c").is_none());

    // One that ends with its connection takes no place; those that are there are resumed, or begun anew.
    let outcome = replica.send(
        B1,
        &[
            attach("c", true, 0),
            attach("a", false, 60),
            attach("b", true, 60),
        ],
    );
    assert_eq!((outcome.refused.len(), outcome.attached.len()), (0, 3));
    assert!(outcome.attached[1].session_present);

    // A connection without a session does not become one that lasts, and stays as it was.
    let outcome = replica.send(B1, &[attach("c", false, 60)]);
    assert_eq!(outcome.refused, [0]);
    assert!(replica.session("c").unwrap().attached.is_some());

    // A place that is given back can be taken.
    replica.send(B1, &[attach("a", true, 0)]);
    assert_eq!(replica.state.stored_session_count(), 1);
    assert!(
        replica
            .send(B1, &[attach("c", false, 60)])
            .refused
            .is_empty()
    );
    replica.apply(&PartitionCommand::Limit(PartitionLimits::default()));
    assert!(
        replica
            .send(B1, &[attach("d", false, 60)])
            .refused
            .is_empty()
    );
}

#[test]
fn sessions_are_counted_for_their_users_and_told_with_a_new_one() {
    let mut replica = Replica::configured();
    let mut owned = |id, clean_start, expiry_s, owner| {
        let attached = replica.try_connect_as(A1, id, clean_start, expiry_s, None, owner);
        let told = attached.unwrap().owned;
        (told, replica.state.owned_session_count("ann"))
    };
    assert_eq!(owned("a", true, 60, Some("ann")), (1, 1));
    assert_eq!(
        owned("b", true, 0, Some("ann")),
        (2, 2),
        "with or without expiry"
    );
    assert_eq!(owned("c", true, 60, Some("bob")), (1, 2));
    assert_eq!(owned("d", true, 60, None), (0, 2));
    // Who resumes or replaces a session adds none.
    assert_eq!(owned("a", false, 60, Some("ann")), (0, 2));
    assert_eq!(owned("a", true, 60, Some("ann")), (0, 2));
    // What nobody owned is counted for who takes it, and nobody is refused for that.
    assert_eq!(owned("d", false, 60, Some("ann")), (0, 3));

    let mut loaded = PartitionState::default();
    for row in replica.state.rows() {
        loaded.load(row).unwrap();
    }
    assert_eq!(loaded.owned_session_count("ann"), 3);

    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(replica.state.owned_session_count("ann"), 2);
    replica.pass_s(61);
    assert_eq!(replica.state.owned_session_count("ann"), 0);
}

#[test]
fn what_no_correct_node_writes_does_not_make_a_row_grow() {
    let mut replica = Replica::configured();
    let phone = replica.connect(A1, "phone", true, 60, None);
    replica.send(
        A1,
        &[subscribe(
            "phone",
            phone.epoch,
            subscription("a", QoS::AtLeastOnce, &[(THERE, Position::START)]),
        )],
    );
    let done = (0..70_000)
        .map(|number| Position(10 + 2 * number))
        .collect();
    let progress = vec![Cursor {
        partition: THERE,
        floor: Position(5),
        done,
    }];
    let laggard = Laggard {
        client: client("phone"),
        epoch: phone.epoch,
        progress,
    };
    replica.send(
        A1,
        &[Record::Progress {
            floors: Vec::new(),
            laggards: vec![laggard],
            joined: Vec::new(),
        }],
    );
    let cursor = &replica.session("phone").unwrap().cursors[0];
    assert_eq!(cursor.done.len(), 65_535);
    assert!(cursor.is_done(Position(10)), "the lowest are kept");
    assert_eq!(replica.state.entries_cut(), 70_000 - 65_535);

    let inflight = (0..70_000u32).map(|number| Inflight {
        packet_id: packet_id(u16::try_from(number % 65_535 + 1).unwrap()),
        partition: THERE,
        position: Position(1_000_000 + u64::from(number)),
        qos: QoS::ExactlyOnce,
        stage: Stage::Published,
        share: None,
    });
    let last = SessionProgress {
        cursors: Vec::new(),
        inflight: inflight.collect(),
    };
    replica.send(
        A1,
        &[Record::Detach {
            client: client("phone"),
            epoch: phone.epoch,
            departure: crate::Departure::Clean,
            session_expiry_s: None,
            last: Some(Box::new(last)),
        }],
    );
    assert_eq!(replica.session("phone").unwrap().inflight.len(), 65_535);
    assert_eq!(replica.state.entries_cut(), 2 * (70_000 - 65_535));
}

#[test]
fn what_waits_too_much_is_lost_to_that_session_alone_and_what_is_in_flight_goes_on() {
    let mut replica = Replica::configured();
    let since = [(THERE, Position::at(10, 0))];
    for id in ["phone", "other"] {
        let attached = replica.connect(A1, id, true, 60, None);
        let to = subscription("a", QoS::ExactlyOnce, &since);
        replica.send(A1, &[subscribe(id, attached.epoch, to)]);
    }
    let epoch = replica.session("phone").unwrap().attached.unwrap().0;
    let binding = crate::Binding {
        packet_id: packet_id(7),
        partition: THERE,
        position: Position::at(12, 0),
        share: None,
    };
    replica.send(
        A1,
        &[Record::Bind {
            client: client("phone"),
            epoch,
            bindings: vec![binding],
        }],
    );
    replica.send(A1, &[detach("phone", epoch, true)]);
    let session = replica.session("phone").unwrap();
    let loss = Loss {
        client: client("phone"),
        session: session.session,
        epoch: None,
        upto: vec![(THERE, Position::at(20, 3))],
        messages: 9,
    };
    let lose = |replica: &mut Replica, loss: &Loss| {
        replica.apply(&PartitionCommand::LoseWaiting {
            losses: vec![loss.clone()],
        });
    };
    // Of another connection, or another session of that client: it is looked at anew.
    lose(
        &mut replica,
        &Loss {
            epoch: Some(epoch),
            ..loss.clone()
        },
    );
    lose(
        &mut replica,
        &Loss {
            session: Epoch(1),
            ..loss.clone()
        },
    );
    assert_eq!(replica.session("phone").unwrap().lost, 0);

    lose(&mut replica, &loss);
    let session = replica.session("phone").unwrap();
    assert_eq!(session.lost, 9);
    assert_eq!(
        session.subscriptions[0].since,
        [(THERE, Position::at(20, 3))]
    );
    assert_eq!(session.inflight.len(), 1, "under its packet id");
    assert_eq!(replica.state.inflight_in(THERE), [Position::at(12, 0)]);
    assert_eq!(replica.session("other").unwrap().lost, 0);
    assert_eq!(
        replica.state.needed_above(THERE, &topic("a")),
        Some(Position::at(10, 0)),
        "by the other"
    );

    // Nothing is set back, and the count adds up.
    lose(
        &mut replica,
        &Loss {
            upto: vec![(THERE, Position::at(15, 0))],
            messages: 1,
            ..loss
        },
    );
    let session = replica.session("phone").unwrap();
    assert_eq!(session.lost, 10);
    assert_eq!(
        session.subscriptions[0].since,
        [(THERE, Position::at(20, 3))]
    );
    let behind = |replica: &Replica| replica.state.sessions_behind(0, 1).0.len();
    assert_eq!(behind(&replica), 1);
    let phone = replica.connect(B1, "phone", false, 60, None);
    assert!(phone.session_present);
    assert_eq!(behind(&replica), 0, "its node knows more");
    replica.send(
        B1,
        &[Record::Received {
            client: client("phone"),
            epoch: phone.epoch,
            packet_ids: vec![packet_id(7)],
        }],
    );
    assert_eq!(
        replica.session("phone").unwrap().inflight[0].stage,
        Stage::Released
    );
}

#[test]
fn what_a_limit_removes_is_told_to_all_partitions_and_counted_for_those_who_waited() {
    let at = |index| Position::at(index, 0);
    let lost = |topic: &'static str, first, last, messages| crate::LostTopic {
        topic: super::topic(topic),
        first: at(first),
        last: at(last),
        messages,
    };
    let mut topics = Replica::configured();
    topics.apply(&PartitionCommand::Trim {
        upto: 20,
        keep: vec![at(3), at(5), at(9)],
    });
    topics.apply(&PartitionCommand::LoseAt {
        positions: vec![at(3), at(9)],
        told: vec![lost("a", 3, 9, 2)],
    });
    assert_eq!(topics.state.kept().collect::<Vec<_>>(), [at(5)]);
    topics.apply(&PartitionCommand::Lose {
        upto: at(5),
        told: vec![lost("b/c", 5, 5, 1)],
    });
    assert_eq!(topics.state.kept().count(), 0);
    let told = topics.sent_out();
    let partitions = [HERE, HERE, THERE, THERE];
    assert_eq!(
        told.iter().map(|(to, _)| *to).collect::<Vec<_>>(),
        partitions
    );

    let mut sessions = Replica::configured();
    for (id, of, since) in [
        ("early", "a", 1),
        ("both", "#", 1),
        ("between", "a", 5),
        ("late", "a", 9),
        ("other", "c", 1),
    ] {
        let attached = sessions.connect(A1, id, true, 60, None);
        let to = subscription(
            of,
            QoS::AtLeastOnce,
            &[(HERE, at(since)), (THERE, at(since))],
        );
        sessions.send(A1, &[subscribe(id, attached.epoch, to)]);
    }
    let records: Vec<_> = told
        .into_iter()
        .filter(|(to, _)| *to == THERE)
        .map(|(_, it)| it)
        .collect();
    // From a node it would be a lie.
    sessions.send(A1, &records);
    assert_eq!(sessions.session("early").unwrap().lost, 0);
    sessions.send(StreamId::outbox(HERE), &records);
    let count = |id| sessions.session(id).unwrap().lost;
    let counts = ["early", "both", "between", "late", "other"].map(count);
    // The third waited for one of the two, which is not known that exactly.
    assert_eq!(counts, [2, 3, 2, 0, 0]);
}

#[test]
fn one_retained_topic_too_many_is_refused_and_those_that_are_there_are_replaced() {
    let mut replica = limited(|limits| {
        limits.retained_max = 2;
        limits.retained_bytes_max = 1000;
    });
    let retain = |to: &'static str, qos, payload: Vec<u8>, dedup| {
        let plain = message(to, "c", Epoch(1));
        Record::Publish(Publish {
            qos,
            retain: true,
            dedup,
            message: Arc::new(Message {
                payload: payload.into(),
                ..(*plain.message).clone()
            }),
            ..plain
        })
    };
    let at_1 = |to, payload: &[u8]| retain(to, QoS::AtLeastOnce, payload.to_vec(), None);
    let outcome = replica.send(
        A1,
        &[
            at_1("a", b"1"),
            at_1("b", b"1"),
            at_1("c", b"1"),
            at_1("a", b"2"),
        ],
    );
    assert_eq!(outcome.full, [2]);
    assert_eq!(
        replica.state.skip(replica.index),
        Skip::Records(&[2]),
        "nobody gets it"
    );
    // Of QoS 0, and from an outbox, it is delivered and not kept.
    let index = replica.index + 1;
    replica.send(A1, &[retain("c", QoS::AtMostOnce, b"1".to_vec(), None)]);
    replica.send(StreamId::outbox(THERE), &[at_1("c", b"1")]);
    assert_eq!(
        [index, index + 1].map(|it| replica.state.skip(it)),
        [Skip::Nothing; 2]
    );
    assert_eq!(
        (
            replica.state.retained_count(),
            replica.state.retained_not_kept()
        ),
        (2, 3)
    );
    // Its packet id is free, and a place that is cleared can be taken.
    let dedup = Some(Dedup {
        session: Epoch(1),
        packet_id: packet_id(7),
    });
    let at_2 = || retain("c", QoS::ExactlyOnce, b"1".to_vec(), dedup);
    assert_eq!(replica.send(A1, &[at_2()]).full, [0]);
    replica.send(A1, &[at_1("b", b"")]);
    let taken = replica.send(A1, &[at_2()]);
    assert!(taken.full.is_empty() && taken.repeated.is_empty());
    assert_eq!(replica.send(A1, &[at_2()]).repeated, [0]);
    // Bytes.
    replica.send(A1, &[at_1("c", b"")]);
    assert_eq!(replica.send(A1, &[at_1("d", &[0; 1000])]).full, [0]);
    assert_eq!(replica.send(A1, &[at_1("a", &[0; 1000])]).full, [0]);
    assert!(replica.send(A1, &[at_1("a", b"2")]).full.is_empty());
    replica.send(A1, &[at_1("a", b"")]);
    assert_eq!(replica.state.retained_bytes(), 0);
}

#[test]
fn what_is_due_waits_while_the_outbox_is_full_and_nothing_is_lost() {
    let mut replica = limited(|limits| limits.outbox_bytes_max = 1);
    let mut attached = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        let expiry_s = if id == "e" { 60 } else { 0 };
        let will = will(id.as_bytes(), 0);
        attached.push((
            id,
            replica.connect(A1, id, true, expiry_s, Some(will)).epoch,
        ));
    }
    // The first fills it; all others wait, whether their node tells of their end or is gone.
    let (id, epoch) = attached[0];
    replica.send(A1, &[detach(id, epoch, false)]);
    assert_eq!(replica.wills(), ["a"]);
    assert!(replica.state.outbox_bytes() > 1);
    let (id, epoch) = attached[1];
    replica.send(A1, &[detach(id, epoch, false)]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    replica.pass_s(2);
    assert_eq!(replica.wills(), ["a"]);
    // A client whose end or will would have to be told is asked to come again.
    assert!(replica.try_connect(B1, "e", true, 60, None).is_none());
    assert!(replica.try_connect(B1, "e", false, 60, None).is_none());
    assert!(replica.try_connect(B1, "f", true, 60, None).is_some());
    assert!(replica.state.has_timers());
    let mut came = Vec::new();
    for _ in 0..20 {
        came.extend(replica.wills());
        for (target, batches) in replica.state.outbox_targets() {
            let upto = replica.state.outbox_to(target, batches, usize::MAX);
            let upto = upto.last().unwrap().seq;
            replica.apply(&PartitionCommand::OutboxDone { target, upto });
        }
        assert_eq!(replica.state.outbox_bytes(), 0);
        replica.tick(1);
    }
    came.sort();
    assert_eq!(came, ["a", "b", "c", "d", "e"]);
    // Those without expiry are gone, and `e` waits for its client.
    assert_eq!(replica.state.session_count(), 2);
    assert!(
        replica
            .try_connect(B1, "e", false, 60, None)
            .unwrap()
            .session_present
    );
}

fn many(count: usize) -> (PartitionState, u64) {
    let mut state = PartitionState::default();
    let (mut index, mut seq) = (0, 0);
    let mut apply = |command: PartitionCommand| {
        index += 1;
        state.apply(index, &command.encode());
    };
    apply(PartitionCommand::Configure {
        partition: HERE,
        partitions: PARTITIONS,
    });
    for batch in 0..count / 1000 {
        let mut records = BytesMut::new();
        for number in 0..1000 {
            let id = format!("client/{}", batch * 1000 + number);
            let attach = Record::Attach {
                client: ClientId(Text::try_from(id).unwrap()),
                clean_start: true,
                session_expiry_s: 3600,
                will: Some(Box::new(will(b"gone", 0))),
                owner: None,
            };
            attach.encode(&mut records);
        }
        seq += 1;
        apply(PartitionCommand::Append(Append {
            stream: A1,
            seq,
            has_control: true,
            count: 1000,
            records: records.freeze(),
        }));
    }
    (state, index)
}

#[test]
fn a_life_with_many_connections_is_ended_in_steps() {
    let (mut state, mut index) = many(9000);
    let end = PartitionCommand::EndStream { stream: A1 }.encode();
    let mut left = Vec::new();
    while state.holds_connections(A1) {
        index += 1;
        state.apply(index, &end);
        left.push(state.attachment_count());
    }
    assert_eq!(left, [9000 - 4096, 9000 - 2 * 4096, 0]);
    assert!(!state.holders().contains(&A1));
    assert_eq!(
        state.outbox().map(|batch| batch.count).sum::<u32>(),
        9000,
        "wills"
    );
}

/// `cargo test --release -p magpie-state --lib figures_of_ending -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn figures_of_ending_a_life_with_a_hundred_thousand_connections() {
    let (mut state, mut index) = many(100_000);
    state.take_changed();
    let end = PartitionCommand::EndStream { stream: A1 }.encode();
    let (mut longest, mut steps, mut rows) = (0.0, 0, 0.0f64);
    while state.holds_connections(A1) {
        index += 1;
        let start = std::time::Instant::now();
        state.apply(index, &end);
        longest = start.elapsed().as_secs_f64().max(longest);
        steps += 1;
        if state.wants_checkpoint() {
            let start = std::time::Instant::now();
            state.take_changed();
            rows = start.elapsed().as_secs_f64().max(rows);
        }
    }
    println!(
        "{steps} steps, longest {:.1} ms; rows of a checkpoint, longest {:.1} ms",
        longest * 1e3,
        rows * 1e3
    );
}
