//! What is between a snapshot and the log behind it, while the log is not purged yet.

use std::sync::Arc;

use bytes::Bytes;
use magpie_storage::{Entry, GroupId, Log, MemoryStore, Options, RealDisk};
use openraft::storage::RaftStateMachine as _;

use super::harness::Tally;
use crate::raft::driver::Driver;
use crate::raft::entry::{self, Command, Payload, SnapshotMeta, log_id};
use crate::raft::log_store::LogStore;
use crate::raft::read_log;
use crate::raft::snapshot::SnapshotBody;

const GROUP: GroupId = GroupId(3);

/// Five entries, of which none is applied.
fn store(dir: &std::path::Path) -> LogStore {
    let options = Options {
        segment_bytes: 1 << 16,
        spare_segments: 0,
        ..Options::default()
    };
    let (log, _) = Log::open(dir, options, RealDisk).unwrap();
    let entries = (1..=5).map(|index| {
        let command = Command(Bytes::from(format!("k={index}")));
        let (term, payload) = entry::encode(entry::Entry {
            log_id: log_id(1, index),
            payload: Payload::Normal(command),
        });
        Entry {
            index,
            term,
            payload,
        }
    });
    let (done, written) = std::sync::mpsc::sync_channel(1);
    log.append(GROUP, entries.collect(), move |result| {
        done.send(result).unwrap();
    })
    .unwrap();
    written.recv().unwrap().unwrap();
    LogStore::new(log, GROUP, 1 << 20)
}

#[tokio::test]
async fn what_a_snapshot_passed_over_is_a_gap_before_the_log_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let rows = Arc::new(MemoryStore::default());
    let mut driver = Driver::<Tally>::open(rows, GROUP, store.clone(), Arc::new(())).unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(2, 20)),
        ..SnapshotMeta::default()
    };
    let shared = Arc::clone(driver.shared());
    let receiving = Arc::clone(&shared.receiving).lock_owned().await;
    let mut staging = shared.checkpoint.read().await.stage().unwrap();
    staging.finish(meta.clone()).unwrap();
    let body = SnapshotBody::Staged(Box::new((staging, receiving)));
    driver.install_snapshot(&meta, body).await.unwrap();

    let applied = *shared.applied().borrow();
    assert_eq!((applied, shared.jumped()), (20, 1..21));
    // The log still has five entries. That they were committed, nobody says.
    let read = read_log::read(&store, 2..21, applied, shared.jumped(), 1 << 20);
    let range = read.await.unwrap();
    assert_eq!((range.first, range.commands.len(), range.next), (21, 0, 21));
}

#[tokio::test]
async fn what_was_applied_before_a_snapshot_is_read_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let read = read_log::read(&store, 2..21, 20, 4..21, 1 << 20).await;
    let range = read.unwrap();
    assert_eq!((range.first, range.commands.len(), range.next), (1, 2, 4));
    let read = read_log::read(&store, 4..21, 20, 4..21, 1 << 20).await;
    assert_eq!(read.unwrap().first, 21);
    let none = read_log::read(&store, 1..9, 20, 0..0, 1 << 20).await;
    assert_eq!(none.unwrap().commands.len(), 5);
}
