//! When Sessions begin and end, and what is told about it.

use super::*;

#[test]
fn a_session_with_expiry_is_resumed_by_any_node_under_its_incarnation() {
    let mut replica = Replica::configured();
    let first = replica.connect(A1, "phone", true, 60, None);
    assert!(!first.session_present);
    replica.send(A1, &[detach("phone", first.epoch, true)]);
    assert!(replica.session("phone").unwrap().attached.is_none());
    let second = replica.connect(B1, "phone", false, 60, None);
    assert!(second.session_present);
    let session = replica.session("phone").unwrap();
    assert_eq!(session.session, first.epoch);
    assert_eq!(session.attached, Some((second.epoch, B1)));
    assert!(replica.released().is_empty());
}

#[test]
fn clean_start_ends_the_session_everywhere() {
    let mut replica = Replica::configured();
    let first = replica.connect(A1, "phone", true, 60, None);
    replica.send(
        A1,
        &[subscribe(
            "phone",
            first.epoch,
            subscription("a", QoS::AtLeastOnce, &[(THERE, Position::at(1, 0))]),
        )],
    );
    // [MQTT-3.1.2-4]
    let second = replica.connect(A1, "phone", true, 60, None);
    assert!(!second.session_present);
    let session = replica.session("phone").unwrap();
    assert_eq!(session.session, second.epoch);
    assert!(session.subscriptions.is_empty());
    let released = replica.released();
    let all = usize::from(PARTITIONS);
    assert_eq!(
        released,
        BTreeMap::from([((client("phone"), first.epoch), all)])
    );
    assert_eq!(replica.state.needed_above(THERE, &topic("a")), None);
}

#[test]
fn a_session_without_expiry_ends_with_its_connection_and_leaves_nothing() {
    let mut replica = Replica::configured();
    let first = replica.connect(A1, "phone", false, 0, None);
    let second = replica.connect(A1, "phone", false, 0, None);
    assert!(!second.session_present);
    assert_eq!(second.superseded.unwrap().epoch, first.epoch);
    replica.send(A1, &[detach("phone", second.epoch, false)]);
    assert_eq!(replica.state.session_count(), 0);
    assert!(replica.sent_out().is_empty(), "nobody else knew of it");
}

#[test]
fn a_stored_session_that_is_resumed_without_expiry_ends_with_that_connection() {
    let mut replica = Replica::configured();
    let first = replica.connect(A1, "phone", true, 60, None);
    let second = replica.connect(A1, "phone", false, 0, None);
    assert!(second.session_present);
    assert_eq!(replica.session("phone").unwrap().session, first.epoch);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(replica.state.session_count(), 0);
    assert_eq!(replica.released().len(), 1);
}

/// [MQTT-4.1.0-1], [MQTT-4.1.0-2], [MQTT-4.1.0-2 v3.1.1]
#[test]
fn a_session_never_ends_early_and_does_end() {
    for before_ms in [0, 1, 400, 999] {
        let mut replica = Replica::configured();
        let attached = replica.connect(A1, "phone", true, 3, None);
        assert!(!replica.state.has_timers(), "an attached one does not end");
        // The leader's tick counts time from before the connection was gone.
        replica.send(A1, &[detach("phone", attached.epoch, false)]);
        assert!(replica.state.has_timers());
        let mut since_gone = 0;
        let mut elapsed = 1000 - before_ms;
        while since_gone + elapsed < 3000 {
            replica.tick(1000);
            since_gone += elapsed;
            elapsed = 1000;
            assert!(replica.session("phone").is_some(), "after {since_gone} ms");
        }
        replica.pass_s(2);
        assert!(replica.session("phone").is_none());
        assert!(!replica.state.has_timers());
        assert_eq!(replica.released().len(), 1);
    }
}

#[test]
fn a_tick_counts_a_second_at_most() {
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 3, None);
    replica.send(A1, &[detach("phone", attached.epoch, true)]);
    (0..3).for_each(|_| replica.tick(u32::MAX));
    assert!(replica.session("phone").is_some());
    replica.tick(u32::MAX);
    assert!(replica.session("phone").is_none());
}

#[test]
fn a_disconnect_changes_the_expiry_and_never_is_never() {
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 3, None);
    let longer = |epoch, session_expiry_s| Record::Detach {
        client: client("phone"),
        epoch,
        departure: crate::Departure::Clean,
        session_expiry_s: Some(session_expiry_s),
        last: None,
    };
    replica.send(A1, &[longer(attached.epoch, u32::MAX)]);
    assert_eq!(replica.session("phone").unwrap().session_expiry_s, u32::MAX);
    assert!(!replica.state.has_timers());
    replica.pass_s(10);
    let attached = replica.connect(A1, "phone", false, u32::MAX, None);
    assert!(attached.session_present);
    replica.send(A1, &[longer(attached.epoch, 0)]);
    assert!(replica.session("phone").is_none());
    // That a client may not do this is its connection's to say; here a session without expiry stays one.
    let attached = replica.connect(A1, "phone", true, 0, None);
    replica.send(A1, &[longer(attached.epoch, 60)]);
    assert!(replica.session("phone").is_none());
}

#[test]
fn many_sessions_end_over_several_ticks_all_in_the_end() {
    let mut state = PartitionState::default();
    let mut records = BytesMut::new();
    let count = 10_000;
    for n in 0..count {
        let client = ClientId(Text::try_from(format!("phone-{n}")).unwrap());
        let attach = Record::Attach {
            client,
            clean_start: true,
            session_expiry_s: 1,
            will: None,
            owner: None,
        };
        attach.encode(&mut records);
    }
    let append = Append {
        stream: A1,
        seq: 1,
        has_control: true,
        count,
        records: records.freeze(),
    };
    state.apply(1, &PartitionCommand::Append(append).encode());
    let mut index = 1;
    while state.holds_connections(A1) {
        index += 1;
        state.apply(index, &PartitionCommand::EndStream { stream: A1 }.encode());
    }
    assert_eq!(state.session_count(), count as usize);
    while state.has_timers() {
        index += 1;
        assert!(index < 12);
        state.apply(index, &PartitionCommand::Tick { elapsed_ms: 1000 }.encode());
    }
    assert_eq!(state.session_count(), 0);
}

#[test]
fn sessions_are_listed_in_order_page_by_page() {
    let mut replica = Replica::configured();
    for id in ["d", "b", "e", "a", "c"] {
        replica.connect(A1, id, true, 60, None);
    }
    let page = |after: Option<&'static str>, limit| -> Vec<_> {
        let after = after.map(client);
        let page = replica.state.sessions_after(after.as_ref(), limit);
        page.into_iter().map(|it| it.client.to_string()).collect()
    };
    assert_eq!(page(None, 2), ["a", "b"]);
    assert_eq!(page(Some("b"), 2), ["c", "d"]);
    assert_eq!(page(Some("d"), 2), ["e"]);
    assert!(page(Some("e"), 2).is_empty());
    assert!(page(None, 0).is_empty());
}

#[test]
fn a_stored_session_survives_the_way_to_another_node() {
    let mut replica = Replica::configured();
    let attached = replica.connect(A1, "phone", true, 60, None);
    let last = crate::SessionProgress {
        cursors: vec![Cursor {
            partition: HERE,
            floor: Position::at(9, 1),
            done: vec![Position::at(11, 0)],
        }],
        inflight: vec![crate::Inflight {
            packet_id: packet_id(4),
            partition: HERE,
            position: Position::at(10, 0),
            qos: QoS::AtLeastOnce,
            stage: crate::Stage::Published,
            share: None,
        }],
    };
    let subscribe = subscribe(
        "phone",
        attached.epoch,
        subscription("a/+", QoS::ExactlyOnce, &[(HERE, Position::at(1, 0))]),
    );
    replica.send(A1, &[subscribe]);
    let session = replica.session("phone").unwrap();
    assert_eq!(
        StoredSession::decode(session.encode()).as_ref(),
        Ok(&session)
    );
    let attached = session.attached.unwrap().0;
    replica.send(
        A1,
        &[Record::Detach {
            client: client("phone"),
            epoch: attached,
            departure: crate::Departure::Clean,
            session_expiry_s: None,
            last: Some(Box::new(last.clone())),
        }],
    );
    let session = replica.session("phone").unwrap();
    assert_eq!(session.inflight, last.inflight);
    assert_eq!(session.cursors, last.cursors);
    assert_eq!(StoredSession::decode(session.encode()), Ok(session));
}

/// A Session is its owner's: another user's attach changes nothing, Clean Start or not.
#[test]
fn a_session_belongs_to_the_user_that_began_it() {
    let mut replica = Replica::default();
    let as_user = |replica: &mut Replica, clean_start, owner| {
        replica.try_connect_as(A1, "phone", clean_start, 60, None, owner)
    };
    // Nobody's is anybody's, and then theirs.
    assert!(as_user(&mut replica, false, None).is_some());
    let first = as_user(&mut replica, false, Some("ann")).unwrap();
    assert!(first.session_present);
    for clean_start in [false, true] {
        for other in [Some("bob"), None] {
            assert_eq!(as_user(&mut replica, clean_start, other), None);
        }
    }
    let stored = replica.session("phone").unwrap();
    assert_eq!(stored.attached.unwrap().0, first.epoch, "still there");
    assert_eq!(stored.owner.as_deref(), Some("ann"));
    let again = as_user(&mut replica, true, Some("ann")).unwrap();
    assert!(!again.session_present);
    // It is free when it is over.
    replica.send(A1, &[detach("phone", again.epoch, true)]);
    replica.pass_s(61);
    assert_eq!(replica.session("phone"), None);
    assert!(as_user(&mut replica, false, Some("bob")).is_some());
}
