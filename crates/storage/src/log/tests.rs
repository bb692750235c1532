#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::mpsc;

use super::*;
use crate::disk::{RealDisk, SimulatedDisk};

const GROUP: GroupId = GroupId(7);

pub(super) fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 2,
        cache_bytes: 16 << 10,
        queue_bytes: 1 << 20,
        ..Options::default()
    }
}

pub(super) fn entry(index: u64, term: u64, payload: &[u8]) -> Entry {
    Entry {
        index,
        term,
        payload: Bytes::copy_from_slice(payload),
    }
}

fn payload(index: u64) -> Vec<u8> {
    vec![index as u8; 100 + index as usize % 200]
}

pub(super) fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    range.map(|i| entry(i, term, &payload(i))).collect()
}

/// Does one operation and waits until it is durable.
pub(super) fn wait(
    operation: impl FnOnce(Box<dyn FnOnce(Result<(), Error>) + Send>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    operation(Box::new(move |result| sender.send(result).unwrap()))?;
    receiver.recv().unwrap()
}

pub(super) fn append(log: &Log, group: GroupId, entries: Vec<Entry>) {
    wait(|done| log.append(group, entries, done)).unwrap();
}

#[test]
fn what_is_appended_can_be_read_and_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = Log::open(dir.path(), small(), RealDisk).unwrap();
    assert_eq!(recovered.groups, []);
    append(&log, GROUP, entries(1..1000, 3));
    wait(|done| log.save_vote(GROUP, Bytes::from_static(b"vote"), done)).unwrap();
    log.save_committed(GROUP, Bytes::from_static(b"committed"))
        .unwrap();
    append(&log, GroupId(8), entries(5..6, 1));
    drop(log);

    let (log, recovered) = Log::open(dir.path(), small(), RealDisk).unwrap();
    assert_eq!(recovered.groups, [GROUP, GroupId(8)]);
    assert_eq!(recovered.torn_tail, None);
    assert_eq!(
        log.read(GROUP, 0..u64::MAX, usize::MAX).unwrap(),
        entries(1..1000, 3)
    );
    assert_eq!(log.read(GROUP, 10..20, 1).unwrap(), entries(10..11, 3));
    assert_eq!(log.last(GROUP), Some((999, 3)));
    assert_eq!(log.vote(GROUP).unwrap(), &b"vote"[..]);
    assert_eq!(log.committed(GROUP).unwrap(), &b"committed"[..]);
    assert_eq!(log.range(GroupId(8)), 5..6);
}

#[test]
fn truncations_and_purges_hold_after_reopening() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    append(&log, GROUP, entries(1..100, 1));
    wait(|done| log.truncate(GROUP, 50, done)).unwrap();
    append(&log, GROUP, entries(50..60, 2));
    let purged = Purged {
        index: 20,
        term: 1,
        note: Bytes::from_static(b"note"),
    };
    wait(|done| log.purge(GROUP, purged.clone(), done)).unwrap();
    drop(log);
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    let mut expected = entries(21..50, 1);
    expected.extend(entries(50..60, 2));
    assert_eq!(log.read(GROUP, 0..100, usize::MAX).unwrap(), expected);
    assert_eq!(log.purged(GROUP), Some(purged));
    assert_eq!(log.term(GROUP, 50), Some(2));

    let purged = Purged {
        index: 1000,
        term: 9,
        note: Bytes::new(),
    };
    wait(|done| log.purge(GROUP, purged, done)).unwrap();
    assert_eq!(log.last(GROUP), Some((1000, 9)));
    let error = log.append(GROUP, entries(60..61, 2), |_| {}).unwrap_err();
    assert!(matches!(error, Error::OutOfOrder { expected: 1001, .. }));
    append(&log, GROUP, entries(1001..1002, 9));
    wait(|done| log.remove_group(GROUP, done)).unwrap();
    assert_eq!(log.last(GROUP), None);
    assert_eq!(log.groups(), []);
}

#[test]
fn purged_segments_are_recycled() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    for round in 0..50 {
        let first = 1 + round * 100;
        append(&log, GROUP, entries(first..first + 100, 1));
        let purged = Purged {
            index: first + 50,
            term: 1,
            note: Bytes::new(),
        };
        wait(|done| log.purge(GROUP, purged, done)).unwrap();
    }
    drop(log);
    // Active, spares, and a few files on their way.
    let files = disk.list(Path::new("/log")).unwrap();
    assert!(files.len() <= 8, "{files:?}");
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    assert_eq!(log.range(GROUP), 4952..5001);
    assert_eq!(
        log.read(GROUP, 0..9999, usize::MAX).unwrap(),
        entries(4952..5001, 1)
    );
}

#[test]
fn a_group_that_is_removed_and_used_again_starts_empty() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    append(&log, GROUP, entries(1..50, 1));
    log.append(GROUP, entries(50..60, 1), |_| {}).unwrap();
    log.remove_group(GROUP, |_| {}).unwrap();
    append(&log, GROUP, entries(7..9, 2));
    drop(log);
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    let found = log.read(GROUP, 0..100, usize::MAX).unwrap();
    assert_eq!(found, entries(7..9, 2));
}

#[test]
fn what_is_queued_can_be_truncated_and_written_anew() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    for term in 1..200 {
        log.append(GROUP, entries(5..20, term), |_| {}).unwrap();
        log.truncate(GROUP, 10, |_| {}).unwrap();
        log.append(GROUP, entries(10..12, term + 1), |_| {})
            .unwrap();
        assert_eq!(log.last(GROUP), Some((11, term + 1)));
        log.truncate(GROUP, 5, |_| {}).unwrap();
    }
    append(&log, GROUP, entries(5..7, 999));
    let found = log.read(GROUP, 0..100, usize::MAX).unwrap();
    assert_eq!(found, entries(5..7, 999));
    drop(log);
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    let found = log.read(GROUP, 0..100, usize::MAX).unwrap();
    assert_eq!(found, entries(5..7, 999));
}

#[test]
fn a_log_that_closes_makes_durable_what_is_queued_over_many_segments() {
    for _ in 0..20 {
        let disk = SimulatedDisk::default();
        let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
        for first in (1..4000).step_by(100) {
            log.append(GROUP, entries(first..first + 100, 1), |_| {})
                .unwrap();
            let purged = Purged {
                index: first + 98,
                term: 1,
                note: Bytes::new(),
            };
            log.purge(GROUP, purged, |_| {}).unwrap();
        }
        log.close();
        assert!(matches!(
            log.append(GROUP, entries(4001..4002, 1), |_| {}),
            Err(Error::Closed)
        ));
        let (log, _) = Log::open("/log", small(), disk).unwrap();
        assert_eq!(log.range(GROUP), 4000..4001);
    }
}

#[test]
fn entries_without_a_payload_count_in_the_cache_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small(), RealDisk).unwrap();
    for batch in 0..200 {
        let first = 1 + batch * 10;
        let empty = (first..first + 10).map(|index| entry(index, 1, b""));
        append(&log, GROUP, empty.collect());
    }
    let group = log.shared.group(GROUP).unwrap();
    let state = group.lock();
    let kept = (1..2001).filter(|index| state.recent(*index).is_some());
    let (kept, most) = (
        kept.count(),
        small().cache_bytes / committer::CACHED_ENTRY_BYTES,
    );
    assert!(0 < kept && kept <= most, "{kept} of {most}");
}
