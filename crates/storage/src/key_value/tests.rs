#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn pairs(tree: &dyn Tree, prefix: &[u8], from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    tree.scan_prefix(prefix, from, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        true
    })
    .unwrap();
    found
}

fn put(tree: &dyn Tree, key: &'static [u8], value: &'static [u8]) {
    let mut batch = Batch::default();
    batch.put(key, value);
    tree.apply(batch).unwrap();
}

/// What both implementations do.
fn check(store: &dyn KeyValue) {
    let tree = store.tree("one").unwrap();
    let mut batch = Batch::default();
    batch.put(&b"a/1"[..], &b"x"[..]);
    batch.put(&b"a/2"[..], &b"y"[..]);
    batch.put(&b"b/1"[..], &b"z"[..]);
    batch.delete(&b"a/2"[..]);
    tree.apply(batch).unwrap();
    put(&*tree, b"a/3", b"w");
    assert_eq!(tree.get(b"a/1").unwrap().unwrap(), &b"x"[..]);
    assert_eq!(tree.get(b"a/2").unwrap(), None);
    let (one, three) = (
        (b"a/1".to_vec(), b"x".to_vec()),
        (b"a/3".to_vec(), b"w".to_vec()),
    );
    assert_eq!(pairs(&*tree, b"a/", b""), [one, three.clone()]);
    assert_eq!(pairs(&*tree, b"a/", b"a/2"), [three]);
    store.tree("two").unwrap();
    assert_eq!(store.tree_names(), ["one", "two"]);
    store.flush().unwrap();
    store.drop_tree("two").unwrap();
    assert_eq!(store.tree_names(), ["one"]);

    let mut batch = Batch::default();
    batch.put(&b"k"[..], vec![0; Batch::VALUE_BYTES_MAX + 1]);
    assert!(matches!(tree.apply(batch), Err(Error::TooLarge { .. })));
    let mut batch = Batch::default();
    (0..=Batch::KEYS_MAX).for_each(|_| batch.delete(&b"k"[..]));
    assert!(matches!(tree.apply(batch), Err(Error::TooLarge { .. })));
}

#[test]
fn memory_does_what_a_store_does() {
    check(&MemoryStore::default());
}

#[test]
fn sled_does_what_a_store_does_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), 1 << 20).unwrap();
    check(&store);
    store.flush().unwrap();
    drop(store);
    let store = SledStore::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(store.tree_names(), ["one"]);
    let tree = store.tree("one").unwrap();
    assert_eq!(tree.get(b"b/1").unwrap().unwrap(), &b"z"[..]);
}

#[test]
fn memory_loses_only_what_was_not_flushed() {
    let store = MemoryStore::default();
    let tree = store.tree("one").unwrap();
    put(&*tree, b"1", b"");
    store.flush().unwrap();
    put(&*tree, b"2", b"");
    put(&*tree, b"3", b"");
    assert_eq!(store.unflushed(), 2);
    store.power_loss(1);
    assert_eq!(pairs(&*tree, b"", b"").len(), 2);
    assert_eq!(tree.get(b"3").unwrap(), None);
}

#[test]
fn sled_keeps_the_longest_values_in_the_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), 64 << 20).unwrap();
    let tree = store.tree("one").unwrap();
    for round in 0..4_u8 {
        let mut batch = Batch::default();
        for key in 0..100_u8 {
            batch.put(vec![key, round], vec![key; Batch::VALUE_BYTES_MAX]);
        }
        tree.apply(batch).unwrap();
        store.flush().unwrap();
    }
    drop(tree);
    drop(store);
    let blobs = std::fs::read_dir(dir.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0);
    let store = SledStore::open(dir.path(), 64 << 20).unwrap();
    let tree = store.tree("one").unwrap();
    let value = tree.get(&[99, 3]).unwrap().unwrap();
    assert_eq!(value, vec![99; Batch::VALUE_BYTES_MAX]);
}

/// As sled's own threads hold it for a moment after a store was dropped.
#[test]
fn sled_waits_for_a_lock_that_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), 1 << 20).unwrap();
    let (is_tried, tried) = std::sync::mpsc::sync_channel(1);
    let other = std::thread::spawn({
        let dir = dir.path().to_owned();
        move || {
            is_tried.send(()).unwrap();
            SledStore::open(dir, 1 << 20).map(drop)
        }
    });
    tried.recv().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    drop(store);
    other.join().unwrap().unwrap();
}
