//! Coalesced progress: what it says of whom, and that it stays said when a Session leaves.

use super::*;

const FLOOR: Position = Position::at(50, 3);

fn joined(id: &'static str, epoch: Epoch) -> Record {
    Record::Progress {
        floors: Vec::new(),
        laggards: Vec::new(),
        joined: vec![(client(id), epoch)],
    }
}

fn floors(floor: Position) -> Record {
    Record::Progress {
        floors: vec![(HERE, floor), (THERE, floor)],
        laggards: Vec::new(),
        joined: Vec::new(),
    }
}

fn laggard(id: &'static str, epoch: Epoch, floor: Position, done: &[Position]) -> Record {
    Record::Progress {
        floors: Vec::new(),
        laggards: vec![Laggard {
            client: client(id),
            epoch,
            progress: vec![Cursor {
                partition: HERE,
                floor,
                done: done.to_vec(),
            }],
        }],
        joined: Vec::new(),
    }
}

/// A durable session with one subscription that concerns one partition.
fn connect(replica: &mut Replica, stream: StreamId, id: &'static str) -> Epoch {
    let epoch = replica.connect(stream, id, false, 60, None).epoch;
    let subscription = subscription("a", QoS::AtLeastOnce, &[(HERE, Position::at(2, 0))]);
    replica.send(stream, &[subscribe(id, epoch, subscription)]);
    epoch
}

fn cursor(replica: &Replica, id: &'static str) -> Cursor {
    let session = replica.session(id).unwrap();
    let here = session.cursors.into_iter().find(|it| it.partition == HERE);
    here.unwrap_or_default()
}

#[test]
fn a_floor_is_that_of_members_only() {
    let mut replica = Replica::configured();
    let phone = connect(&mut replica, A1, "phone");
    connect(&mut replica, A1, "tablet");
    let elsewhere = connect(&mut replica, B1, "elsewhere");
    replica.send(A1, &[joined("phone", phone)]);
    // Of another node, and of an attachment that is not the newest.
    replica.send(
        A1,
        &[joined("elsewhere", elsewhere), joined("tablet", phone)],
    );
    replica.send(A1, &[floors(FLOOR)]);
    assert_eq!(cursor(&replica, "phone").floor, FLOOR);
    assert_eq!(cursor(&replica, "tablet").floor, Position::START);
    assert_eq!(cursor(&replica, "elsewhere").floor, Position::START);
    replica.send(A1, &[floors(Position::at(7, 0))]);
    assert_eq!(cursor(&replica, "phone").floor, FLOOR, "never back");
}

#[test]
fn a_member_that_leaves_keeps_the_floor_and_gets_no_later_one() {
    let later = Position::at(60, 0);
    let leave: [fn(&mut Replica, Epoch); 4] = [
        |replica, epoch| _ = replica.send(A1, &[detach("phone", epoch, false)]),
        |replica, _| _ = replica.connect(B1, "phone", false, 60, None),
        |replica, _| _ = replica.connect(A1, "phone", false, 60, None),
        |replica, epoch| _ = replica.send(A1, &[laggard("phone", epoch, FLOOR, &[])]),
    ];
    for leave in leave {
        let mut replica = Replica::configured();
        let epoch = connect(&mut replica, A1, "phone");
        let tablet = connect(&mut replica, A1, "tablet");
        replica.send(A1, &[joined("phone", epoch), joined("tablet", tablet)]);
        replica.send(A1, &[floors(FLOOR)]);
        leave(&mut replica, epoch);
        replica.send(A1, &[floors(later)]);
        assert_eq!(cursor(&replica, "phone").floor, FLOOR);
        assert_eq!(cursor(&replica, "tablet").floor, later);
    }
}

#[test]
fn the_end_of_a_nodes_life_folds_its_cohort_into_all() {
    let mut replica = Replica::configured();
    let phone = connect(&mut replica, A1, "phone");
    replica.send(A1, &[joined("phone", phone), floors(FLOOR)]);
    connect(&mut replica, A1, "tablet");
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert!(replica.state.holders().is_empty());
    let session = replica.session("phone").unwrap();
    assert_eq!(
        session.cursors,
        [Cursor {
            partition: HERE,
            floor: FLOOR,
            done: Vec::new()
        }],
        "only where it has a subscription"
    );
    assert!(replica.session("tablet").unwrap().cursors.is_empty());
    assert!(
        replica.checkpoint.keys().all(|key| key[0] != table::COHORT),
        "the cohort is gone"
    );
}

#[test]
fn what_is_done_out_of_order_stays_done_until_the_floor_passes_it() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica, A1, "phone");
    let at = |index| Position::at(index, 0);
    replica.send(A1, &[laggard("phone", epoch, at(10), &[at(12), at(15)])]);
    replica.send(A1, &[laggard("phone", epoch, at(11), &[at(14)])]);
    let expected = Cursor {
        partition: HERE,
        floor: at(11),
        done: vec![at(12), at(14), at(15)],
    };
    assert_eq!(cursor(&replica, "phone"), expected);
    replica.send(A1, &[joined("phone", epoch), floors(at(14))]);
    assert_eq!(cursor(&replica, "phone").done, [at(15)]);
    replica.send(A1, &[detach("phone", epoch, true)]);
    let expected = Cursor {
        partition: HERE,
        floor: at(14),
        done: vec![at(15)],
    };
    assert_eq!(cursor(&replica, "phone"), expected);
    replica.send(A1, &[laggard("phone", epoch, at(90), &[])]);
    assert_eq!(cursor(&replica, "phone"), expected, "its time is over");
}

#[test]
fn what_is_done_above_a_floor_that_says_nothing_stays_done() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica, A1, "phone");
    let done = Position::at(12, 0);
    replica.send(A1, &[laggard("phone", epoch, Position::START, &[done])]);
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(cursor(&replica, "phone").done, [done]);
}

#[test]
fn a_join_takes_the_floors_of_the_same_report() {
    let mut replica = Replica::configured();
    let epoch = connect(&mut replica, A1, "phone");
    replica.send(
        A1,
        &[Record::Progress {
            floors: vec![(HERE, FLOOR)],
            laggards: Vec::new(),
            joined: vec![(client("phone"), epoch)],
        }],
    );
    assert_eq!(cursor(&replica, "phone").floor, FLOOR);
}

#[test]
fn progress_of_many_is_one_row() {
    let mut replica = Replica::configured();
    for id in ["a", "b", "c", "d"] {
        let epoch = connect(&mut replica, A1, id);
        replica.send(A1, &[joined(id, epoch)]);
    }
    let mut records = BytesMut::new();
    floors(FLOOR).encode(&mut records);
    let append = Append {
        stream: A1,
        seq: replica.sent[&A1] + 1,
        has_control: true,
        count: 1,
        records: records.freeze(),
    };
    let command = PartitionCommand::Append(append).encode();
    replica.state.apply(replica.index + 1, &command);
    let changed = replica.state.take_changed();
    assert_eq!(changed.len(), 2, "the cohort, and the stream: {changed:?}");
}
