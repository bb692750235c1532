//! Files that changed while nobody looked: a cut tail opens, anything else is refused.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{append, entries, eventually, read_all, small, wait};
use magpie_storage::{Error, GroupId, Log, Options, RealDisk};

fn filled(dir: &Path, appends: u64) {
    let (log, _) = Log::open(dir, small(), RealDisk).unwrap();
    for first in (1..=appends * 3).step_by(3) {
        append(&log, 1, first..first + 3);
    }
}

/// The file that holds records last, and where they start and end in it.
fn last_records(dir: &Path) -> (PathBuf, Vec<u8>, usize) {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    files.sort();
    files
        .into_iter()
        .rev()
        .find_map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            let end = 4096 + bytes[4096..].iter().rposition(|byte| *byte != 0)?;
            Some((path, bytes, end + 1))
        })
        .unwrap()
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_file_cut_anywhere_in_its_last_records_opens_with_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 8);
    let (path, bytes, end) = last_records(dir.path());
    let all = entries(1..25, 1);
    let mut seen = std::collections::BTreeSet::new();
    for cut in (end.saturating_sub(400)..end).rev() {
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let file = copied.path().join(path.file_name().unwrap());
        std::fs::write(&file, &bytes[..cut]).unwrap();
        let (log, _) = Log::open(copied.path(), small(), RealDisk).unwrap();
        let found = read_all(&log, 1);
        assert_eq!(found, all[..found.len()], "cut at {cut}");
        seen.insert(found.len());
        if cut % 16 != 0 {
            continue;
        }
        // And it goes on from there.
        let next = found.len() as u64 + 1;
        append(&log, 1, next..next + 3);
        drop(log);
        let (log, _) = Log::open(copied.path(), small(), RealDisk).unwrap();
        assert_eq!(read_all(&log, 1), entries(1..next + 3, 1));
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn a_flipped_bit_in_the_middle_is_refused_with_file_and_offset() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 4);
    let (path, bytes, _) = last_records(dir.path());
    // The second append's first record, with header, payload and checksum.
    let mut offset = 4096;
    for index in 1..4 {
        offset += (40 + common::payload(index).len()).next_multiple_of(8);
    }
    let record = offset..offset + 40 + common::payload(4).len();
    for bit in 0..record.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[record.start + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &damaged).unwrap();
        match Log::open(dir.path(), small(), RealDisk).map(|_| ()) {
            Err(Error::Damaged {
                file, offset: at, ..
            }) => {
                assert_eq!((file, at), (path.clone(), record.start as u64), "bit {bit}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    let (log, _) = Log::open(dir.path(), small(), RealDisk).unwrap();
    assert_eq!(read_all(&log, 1), entries(1..13, 1));
}

#[test]
fn a_flipped_bit_in_the_last_append_is_refused_soon_after_it() {
    // Nothing follows the append but the watermark of an idle log; and nobody prepares spares while the files are copied.
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        spare_segments: 0,
        ..small()
    };
    let (log, _) = Log::open(dir.path(), options, RealDisk).unwrap();
    append(&log, 1, 1..2);
    eventually("the watermark of an idle log", || {
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let (path, mut bytes, _) = last_records(copied.path());
        let text = bytes[4096..].windows(8).position(|w| w == [1; 8]).unwrap();
        bytes[4096 + text] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Log::open(copied.path(), small(), RealDisk).map(|_| ());
        matches!(error, Err(Error::Damaged { .. }))
    });
}

#[test]
fn a_missing_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 400);
    for missing in ["0000000001.log", "0000000002.log"] {
        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        std::fs::remove_file(copied.path().join(missing)).unwrap();
        match Log::open(copied.path(), small(), RealDisk).map(|_| ()) {
            Err(Error::Damaged { file, .. }) => assert_eq!(file, copied.path().join(missing)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_damaged_header_of_a_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 400);
    let path = dir.path().join("0000000002.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[17] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = Log::open(dir.path(), small(), RealDisk).map(|_| ());
    assert!(
        matches!(&error, Err(Error::Damaged { file, offset: 0, .. }) if *file == path),
        "{error:?}"
    );
}

#[test]
fn an_entry_that_rots_while_the_log_is_open_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 4);
    let (log, _) = Log::open(dir.path(), small(), RealDisk).unwrap();
    let (path, mut bytes, _) = last_records(dir.path());
    bytes[4096 + 45] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = log.read(GroupId(1), 1..2, usize::MAX).unwrap_err();
    assert!(
        matches!(error, Error::Damaged { offset: 4096, .. }),
        "{error}"
    );
    wait(|done| log.save_vote(GroupId(1), bytes::Bytes::new(), done)).unwrap();
}
