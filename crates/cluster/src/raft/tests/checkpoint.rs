//! Checkpoints and staged snapshots under a power cut after every single step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use magpie_state::{Position, Row, RowValue};
use magpie_storage::{Batch, Error, GroupId, KeyValue, MemoryStore, SledStore, Tree};

use crate::raft::checkpoint::Checkpoint;
use crate::raft::entry::{SnapshotMeta, log_id};

const GROUP: GroupId = GroupId(5);

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store that fails at a given change, and at all after it.
struct Failing {
    store: MemoryStore,
    left: Arc<AtomicUsize>,
}

struct FailingTree {
    tree: Arc<dyn Tree>,
    left: Arc<AtomicUsize>,
}

fn spend(left: &AtomicUsize) -> Result<(), Error> {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .map(|_| ())
        .map_err(|_| Error::Closed)
}

impl KeyValue for Failing {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, Error> {
        Ok(Arc::new(FailingTree {
            tree: self.store.tree(name)?,
            left: Arc::clone(&self.left),
        }))
    }

    fn tree_names(&self) -> Vec<String> {
        self.store.tree_names()
    }

    fn drop_tree(&self, name: &str) -> Result<(), Error> {
        spend(&self.left)?;
        self.store.drop_tree(name)
    }

    fn flush(&self) -> Result<(), Error> {
        spend(&self.left)?;
        self.store.flush()
    }
}

impl Tree for FailingTree {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.tree.get(key)
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.tree.scan_prefix(prefix, from, each)
    }

    fn apply(&self, batch: Batch) -> Result<(), Error> {
        spend(&self.left)?;
        self.tree.apply(batch)
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        ..SnapshotMeta::default()
    }
}

fn rows(content: &Content) -> Vec<Row> {
    let row = |(key, value): (&Vec<u8>, &Vec<u8>)| Row {
        key: key.clone(),
        value: Some(RowValue::Bytes(value.clone())),
    };
    content.iter().map(row).collect()
}

fn write(checkpoint: &mut Checkpoint, content: &Content, index: u64) -> std::io::Result<()> {
    checkpoint.write(rows(content), meta(index), &mut |_| panic!("all is here"))
}

fn content(checkpoint: &Checkpoint) -> Content {
    let mut all = Content::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = checkpoint.rows_after(after.as_deref(), 10_000).unwrap();
        let Some((last, _)) = rows.last() else {
            return all;
        };
        after = Some(last.clone());
        all.extend(rows.into_iter().map(|(key, value)| (key, value.to_vec())));
    }
}

/// 1500 rows, of which one is long.
fn many(generation: u8) -> Content {
    let mut rows: Content = (0..1500u32)
        .map(|n| (n.to_be_bytes().to_vec(), vec![generation; 20]))
        .collect();
    rows.insert(
        b"long".to_vec(),
        vec![generation; 200_000 / usize::from(generation)],
    );
    rows
}

/// Runs `step` on a store that holds generation 1, with a power cut after each number of changes, each time keeping every part of what
/// was not flushed; what is found afterwards must be one of two states.
fn check_atomic(step: impl Fn(&mut Checkpoint) -> std::io::Result<()>, new: &Content) {
    let (mut found_old, mut found_new) = (0, 0);
    for allowed in 0.. {
        let is_done = [0, 1, usize::MAX].map(|kept| {
            let store = MemoryStore::default();
            let mut checkpoint = Checkpoint::open(Arc::new(store.clone()), GROUP).unwrap();
            write(&mut checkpoint, &many(1), 10).unwrap();
            drop(checkpoint);
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let failing = Failing {
                store: store.clone(),
                left: Arc::clone(&left),
            };
            let mut checkpoint = Checkpoint::open(Arc::new(failing), GROUP).unwrap();
            left.store(allowed, Ordering::Relaxed);
            let is_done = step(&mut checkpoint).is_ok();
            store.power_loss(kept);
            // Recovery itself is interrupted once.
            let failing = Failing {
                store: store.clone(),
                left: Arc::new(AtomicUsize::new(allowed % 7)),
            };
            drop(Checkpoint::open(Arc::new(failing), GROUP));
            store.power_loss(kept);
            let checkpoint = Checkpoint::open(Arc::new(store), GROUP).unwrap();
            let found = content(&checkpoint);
            match checkpoint.meta().last_log_id.unwrap().index {
                10 => {
                    assert!(!is_done, "a finished step was lost");
                    assert!(found == many(1), "rows of another index");
                    found_old += 1;
                }
                20 => {
                    assert!(found == *new, "not all rows of the new index");
                    found_new += 1;
                }
                other => panic!("index {other}"),
            }
            is_done
        });
        if is_done.contains(&true) {
            break;
        }
    }
    assert!(found_old > 3 && found_new > 3, "{found_old} {found_new}");
}

#[test]
fn a_big_checkpoint_is_there_wholly_or_not_at_all() {
    let new = many(2);
    check_atomic(|checkpoint| write(checkpoint, &many(2), 20), &new);
}

/// Rows of generation 2 whose values are read back from a log while they are written.
#[test]
fn a_big_checkpoint_of_copies_is_there_wholly_or_not_at_all() {
    let new = many(2);
    let keys: Vec<Vec<u8>> = new.keys().cloned().collect();
    let copies = || {
        let copies = keys.iter().zip(0..).map(|(key, place)| Row {
            key: key.clone(),
            value: Some(RowValue::Logged {
                position: Position(place),
            }),
        });
        copies.collect::<Vec<Row>>()
    };
    check_atomic(
        |checkpoint| {
            let mut read_back = |position: Position| {
                let key = &keys[position.0 as usize];
                Ok(Some(new[key].clone().into()))
            };
            checkpoint.write(copies(), meta(20), &mut read_back)
        },
        &new,
    );
}

#[test]
fn rows_are_found_while_they_are_written() {
    let store = MemoryStore::default();
    let mut checkpoint = Checkpoint::open(Arc::new(store), GROUP).unwrap();
    let rows = checkpoint.rows();
    write(&mut checkpoint, &many(1), 1).unwrap();
    assert_eq!(rows.row(b"long").unwrap().unwrap(), vec![1; 200_000]);
    assert_eq!(rows.row(b"none").unwrap(), None);
    let with_prefix = rows.after(&[0, 0, 1], None, usize::MAX).unwrap();
    assert_eq!(with_prefix.len(), 256);
    let after = rows.after(&[0, 0, 1], Some(&[0, 0, 1, 9]), 1).unwrap();
    assert_eq!(after, [(vec![0, 0, 1, 10], Bytes::from(vec![1; 20]))]);
}

#[test]
fn a_snapshot_is_installed_wholly_or_not_at_all() {
    let mut new = many(2);
    new.remove(&b"long"[..]);
    let staged = new.clone();
    check_atomic(
        move |checkpoint| {
            let mut staging = checkpoint.stage()?;
            let rows = staged.iter();
            let rows = rows.map(|(key, value)| (key.clone(), value.clone().into()));
            staging.put(rows.collect())?;
            staging.finish(meta(20))?;
            checkpoint.install(staging)
        },
        &new,
    );
}

#[test]
fn the_rows_that_a_snapshot_replaces_can_be_read_until_they_are_dropped() {
    // What was dropped is gone for readers, too.
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(dir.path().join("db"), 1 << 20).unwrap());
    let mut checkpoint = Checkpoint::open(Arc::clone(&store) as _, GROUP).unwrap();
    write(&mut checkpoint, &many(1), 1).unwrap();
    let before = checkpoint.rows();
    let mut staging = checkpoint.stage().unwrap();
    staging.finish(meta(20)).unwrap();
    checkpoint.install(staging).unwrap();
    assert_eq!(before.row(b"long").unwrap().unwrap(), vec![1; 200_000]);
    checkpoint.drop_replaced().unwrap();
    let after = before.row(b"long");
    assert!(!matches!(after, Ok(Some(_))), "dropped");
    assert_eq!(store.tree_names().len(), 2, "the slots, and one of them");
    assert_eq!(checkpoint.meta(), &meta(20));
}

#[test]
fn changes_and_deletions_add_up() {
    let store = MemoryStore::default();
    let mut checkpoint = Checkpoint::open(Arc::new(store.clone()), GROUP).unwrap();
    write(&mut checkpoint, &many(1), 1).unwrap();
    let gone = |key: &[u8]| Row {
        key: key.to_vec(),
        value: None,
    };
    let changes = vec![
        gone(b"long"),
        gone(&3u32.to_be_bytes()),
        Row {
            key: b"new".to_vec(),
            value: Some(RowValue::Bytes(Vec::new())),
        },
    ];
    checkpoint
        .write(changes, meta(2), &mut |_| panic!("all is here"))
        .unwrap();
    drop(checkpoint);
    let checkpoint = Checkpoint::open(Arc::new(store), GROUP).unwrap();
    let mut expected = many(1);
    expected.remove(&b"long"[..]);
    expected.remove(&3u32.to_be_bytes()[..]);
    expected.insert(b"new".to_vec(), Vec::new());
    assert!(content(&checkpoint) == expected);
    assert_eq!(checkpoint.meta(), &meta(2));
}
