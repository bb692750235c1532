//! Room on the disk: slow groups, full disks, failing disks.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use common::{append, entries, eventually, purged, read_all, small, wait};
use magpie_storage::{Disk, Error, GroupId, Log, SimulatedDisk, Space};

#[test]
fn a_slow_group_does_not_pin_the_segments_of_the_others() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    wait(|done| log.save_vote(GroupId(1), Bytes::from_static(b"vote"), done)).unwrap();
    append(&log, 1, 1..20);
    for round in 0..200_u64 {
        let first = 1 + round * 100;
        append(&log, 2, first..first + 100);
        wait(|done| log.purge(GroupId(2), purged(first + 90), done)).unwrap();
        if round % 20 == 0 {
            let next = 20 + round / 20;
            append(&log, 1, next..next + 1);
        }
    }
    eventually("few segments are left", || log.metrics().segments <= 4);
    assert!(log.metrics().moved_bytes > 0);
    assert_eq!(read_all(&log, 1), entries(1..30, 1));
    drop(log);
    let files = disk.list(Path::new("/log")).unwrap();
    assert!(files.len() <= 9, "{files:?}");
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    assert_eq!(read_all(&log, 1), entries(1..30, 1));
    assert_eq!(log.vote(GroupId(1)).unwrap(), &b"vote"[..]);
    assert_eq!(log.range(GroupId(2)), 19_992..20_001);
}

#[test]
fn a_reader_of_a_dropped_segment_sees_what_was_there() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    append(&log, 1, 1..2000);
    std::thread::scope(|scope| {
        let reader = log.clone();
        scope.spawn(move || {
            let mut last = 0;
            while last < 9_000 {
                let range = reader.range(GroupId(1));
                for entry in reader.read(GroupId(1), range, 100_000).unwrap() {
                    assert_eq!(entry.payload, common::payload(entry.index));
                    last = entry.index;
                }
            }
        });
        for first in (2000..10_000).step_by(100) {
            append(&log, 1, first..first + 100);
            wait(|done| log.purge(GroupId(1), purged(first - 1500), done)).unwrap();
        }
    });
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = SimulatedDisk::new(6 * (64 << 10));
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut last = 0;
    // First until less than all spares can be had, with a turn for the one who makes them after each append; then into the reserve.
    while log.space() == Space::Ok {
        append(&log, 1, last + 1..last + 11);
        last += 10;
        eventually("the spares, or no room for them", || {
            log.space() > Space::Ok || log.metrics().spare_segments == 2
        });
    }
    assert_eq!(log.space(), Space::Soft);
    while last < 4000 {
        let durable = acknowledged.clone();
        let upto = last + 10;
        log.append(GroupId(1), entries(last + 1..upto + 1, 1), move |result| {
            result.unwrap();
            durable.store(upto, Ordering::SeqCst);
        })
        .unwrap();
        last = upto;
        std::thread::sleep(Duration::from_micros(200));
    }
    eventually("the log waits for room", || log.space() == Space::Hard);
    assert!(acknowledged.load(Ordering::SeqCst) < last);
    // Votes of other groups are still taken.
    wait(|done| log.save_vote(GroupId(2), Bytes::from_static(b"vote"), done)).unwrap();

    disk.set_capacity(u64::MAX);
    eventually("everything is durable", || {
        acknowledged.load(Ordering::SeqCst) == last
    });
    eventually("there is room", || log.space() == Space::Ok);
    drop(log);
    let (log, _) = Log::open("/log", small(), disk.power_loss(1)).unwrap();
    assert_eq!(read_all(&log, 1), entries(1..last + 1, 1));
    assert_eq!(log.vote(GroupId(2)).unwrap(), &b"vote"[..]);
}

#[test]
fn a_purge_makes_room_on_a_full_disk() {
    let disk = SimulatedDisk::new(6 * (64 << 10));
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let last = 6000;
    for first in (1..last).step_by(10) {
        let durable = acknowledged.clone();
        log.append(GroupId(1), entries(first..first + 10, 1), move |result| {
            if result.is_ok() {
                durable.store(first + 9, Ordering::SeqCst);
            }
        })
        .unwrap();
        if log.space() == Space::Hard {
            // The purge overtakes the entries that wait.
            let durable = acknowledged.load(Ordering::SeqCst);
            wait(|done| log.purge(GroupId(1), purged(durable), done)).unwrap();
            eventually("entries go on", || {
                acknowledged.load(Ordering::SeqCst) > durable
            });
        }
    }
    eventually("everything is durable", || {
        let durable = acknowledged.load(Ordering::SeqCst);
        if log.space() == Space::Hard {
            wait(|done| log.purge(GroupId(1), purged(durable), done)).unwrap();
        }
        durable == last
    });
    let range = log.range(GroupId(1));
    drop(log);
    let (log, _) = Log::open("/log", small(), disk.power_loss(1)).unwrap();
    assert_eq!(log.range(GroupId(1)), range);
    assert_eq!(read_all(&log, 1), entries(range, 1));
}

#[test]
fn a_log_on_a_full_disk_can_be_closed() {
    let disk = SimulatedDisk::new(4 * (64 << 10));
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    let (sender, receiver) = mpsc::sync_channel(400);
    for first in (1..4000).step_by(10) {
        let sender = sender.clone();
        log.append(GroupId(1), entries(first..first + 10, 1), move |result| {
            sender.send(result.is_ok()).unwrap();
        })
        .unwrap();
    }
    eventually("the log waits for room", || log.space() == Space::Hard);
    drop(log);
    drop(sender);
    let answers: Vec<_> = receiver.iter().collect();
    assert_eq!(answers.len(), 400);
    assert!(answers[0] && !answers[399] && answers.is_sorted_by(|a, b| a >= b));
}

#[test]
fn a_failed_sync_stops_the_log() {
    let disk = SimulatedDisk::default();
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    append(&log, 1, 1..10);
    disk.fail_next_syncs();
    let error = wait(|done| log.append(GroupId(1), entries(10..20, 1), done)).unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    let error = log.append(GroupId(1), entries(20..21, 1), |_| {});
    assert!(matches!(error, Err(Error::Stopped { .. })));
    assert!(log.stopped().is_some());
    // The page cache still has the records; recovery must not take them for durable as they are.
    let disk = disk.process_killed();
    drop(log);
    let (log, _) = Log::open("/log", small(), disk.clone()).unwrap();
    let found = read_all(&log, 1);
    let disk = disk.power_loss(3);
    drop(log);
    let (log, _) = Log::open("/log", small(), disk).unwrap();
    assert_eq!(read_all(&log, 1), found);
}
