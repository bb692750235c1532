//! Messages that outlive the log.

use super::*;

fn kept(state: &PartitionState) -> Vec<u64> {
    state.kept().map(Position::index).collect()
}

fn held(state: &PartitionState) -> Vec<u64> {
    state.rows_held().map(Position::index).collect()
}

fn trim(upto: u64, keep: &[u64]) -> PartitionCommand {
    PartitionCommand::Trim {
        upto,
        keep: keep.iter().map(|index| Position::at(*index, 0)).collect(),
    }
}

fn forget(indexes: &[u64]) -> PartitionCommand {
    let positions = indexes.iter().map(|index| Position::at(*index, 0));
    PartitionCommand::Forget {
        positions: positions.collect(),
    }
}

fn rows(changed: Vec<Row>) -> Vec<(u64, Option<Position>)> {
    let rows = changed.into_iter().filter(|row| row.key[0] == table::KEPT);
    let mut rows: Vec<_> = rows
        .map(|row| {
            let position = Position(u64::from_be_bytes(row.key[1..].try_into().unwrap()));
            let value = row.value.map(|value| match value {
                RowValue::Logged { position } => position,
                RowValue::Bytes(_) => panic!("the bytes are in the log"),
            });
            (position.index(), value)
        })
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn what_is_needed_is_copied_and_forgotten_in_the_end() {
    let mut state = PartitionState::default();
    state.apply(100, &trim(50, &[10, 20, 30]).encode());
    assert_eq!(state.trimmed(), 50);
    assert_eq!(kept(&state), [10, 20, 30]);
    let at = |index| (index, Some(Position::at(index, 0)));
    assert_eq!(rows(state.take_changed()), [at(10), at(20), at(30)]);
    state.apply(101, &forget(&[20, 25]).encode());
    assert_eq!(rows(state.take_changed()), [(20, None)]);
    state.apply(102, &trim(90, &[60]).encode());
    assert_eq!(
        rows(state.take_changed()),
        [at(60)],
        "others stay as they are"
    );
    assert_eq!(kept(&state), [10, 30, 60]);
    // What was let go is gone, also if somebody who did not know it asks.
    state.apply(103, &trim(95, &[20, 70, 91, 99]).encode());
    assert_eq!(kept(&state), [10, 30, 60, 91]);
    state.apply(104, &trim(80, &[70]).encode());
    assert_eq!((state.trimmed(), kept(&state)), (95, vec![10, 30, 60, 91]));
}

#[test]
fn rows_of_young_messages_are_a_replicas_own_until_they_are_trimmed() {
    let mut log = PartitionState::default();
    log.apply(100, &trim(50, &[10]).encode());
    // Another replica has what is above from a snapshot, not from its log.
    let mut rows_of_snapshot = log.rows();
    for index in [60u64, 70, 80] {
        let mut key = vec![table::KEPT];
        key.extend(Position::at(index, 0).0.to_be_bytes());
        rows_of_snapshot.push(Row {
            key,
            value: Some(RowValue::Bytes(b"record".to_vec())),
        });
    }
    let mut copy = PartitionState::default();
    for row in rows_of_snapshot {
        copy.load(row).unwrap();
    }
    assert_eq!(kept(&copy), kept(&log), "they agree");
    assert_eq!(held(&copy), [10, 60, 70, 80]);
    for (index, command) in [(101, forget(&[60, 10])), (102, trim(75, &[70]))] {
        let command = command.encode();
        assert_eq!(log.apply(index, &command), copy.apply(index, &command));
        assert_eq!(kept(&copy), kept(&log));
    }
    assert_eq!(held(&log), [70]);
    assert_eq!(held(&copy), [70, 80]);
    let changed = rows(copy.take_changed());
    assert_eq!(changed, [(10, None), (60, None)], "70 is a row already");
}

#[test]
fn records_are_cut_out_of_their_command() {
    let records = [
        publish("phone", Epoch(1)),
        detach("phone", Epoch(1), true),
        publish("tablet", Epoch(2)),
    ];
    let mut bytes = BytesMut::new();
    records.iter().for_each(|record| record.encode(&mut bytes));
    let append = Append {
        stream: A1,
        seq: 1,
        has_control: true,
        count: 3,
        records: bytes.freeze(),
    };
    let command = PartitionCommand::Append(append).encode();
    for (ordinal, record) in (0..).zip(&records) {
        let mut bytes = PartitionState::extract(&command, ordinal).unwrap();
        assert_eq!(Record::decode(&mut bytes).as_ref(), Ok(record));
        assert!(bytes.is_empty());
    }
    assert_eq!(PartitionState::extract(&command, 3), None);
    let other = forget(&[]).encode();
    assert_eq!(PartitionState::extract(&other, 0), None);
}

#[test]
fn commands_survive_a_round_trip() {
    for command in [
        trim(7, &[1, 2]),
        forget(&[3]),
        PartitionCommand::Tick { elapsed_ms: 999 },
        PartitionCommand::OutboxDone {
            target: THERE,
            upto: 9,
        },
        PartitionCommand::Configure {
            partition: THERE,
            partitions: 8,
        },
    ] {
        assert_eq!(PartitionCommand::decode(&command.encode()), Ok(command));
    }
}
