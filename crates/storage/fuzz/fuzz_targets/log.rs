//! Whatever becomes of the bytes of a log on disk, opening it does not panic, and what it then reads is what was written.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::sync::mpsc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use magpie_storage::{Disk, Entry, Error, GroupId, Log, Options, Purged, SimulatedDisk};

const DIR: &str = "/log";
const GROUPS: u32 = 3;

/// The files of a log with everything that can be in one.
static WRITTEN: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let disk = SimulatedDisk::default();
    write(&disk).expect("a disk in memory");
    let names = disk.list(Path::new(DIR)).expect("a disk in memory");
    names
        .into_iter()
        .map(|name| {
            let file = disk
                .open(&Path::new(DIR).join(&name))
                .expect("it was listed");
            let mut bytes = vec![0; file.bytes().expect("it is open") as usize];
            file.read_at(&mut bytes, 0).expect("it is open");
            (name, bytes)
        })
        .collect()
});

fuzz_target!(|edits: Vec<(u8, u32, u8)>| {
    let mut files = WRITTEN.clone();
    for (file, offset, change) in edits.into_iter().take(16) {
        let count = files.len();
        let (_, bytes) = &mut files[usize::from(file) % count];
        let most = bytes.len().max(1);
        let offset = offset as usize % most;
        match bytes.get_mut(offset) {
            Some(byte) if change > 0 => *byte ^= change,
            // Cut off here.
            _ => bytes.truncate(offset),
        }
    }
    let disk = SimulatedDisk::default();
    disk.create_dir(Path::new(DIR)).expect("a disk in memory");
    for (name, bytes) in &files {
        let file = disk
            .create(&Path::new(DIR).join(name))
            .expect("a disk in memory");
        file.write_at(bytes, 0).expect("a disk in memory");
    }
    let Ok((log, _)) = Log::open(DIR, options(), disk) else {
        return;
    };
    for group in log.groups() {
        let Ok(entries) = log.read(group, 0..u64::MAX, usize::MAX) else {
            continue;
        };
        for entry in entries {
            let terms = [1, 2].map(|term| written(group.0, entry.index, term));
            assert!(
                terms.contains(&entry),
                "{entry:?} of {group:?} was never written"
            );
        }
    }
});

fn write(disk: &SimulatedDisk) -> Result<(), Error> {
    let (log, _) = Log::open(DIR, options(), disk.clone())?;
    for group in 0..GROUPS {
        let entries = |range: std::ops::Range<u64>, term| {
            range.map(|index| written(group, index, term)).collect()
        };
        let id = GroupId(group);
        wait(|done| log.save_vote(id, Bytes::from_static(b"vote"), done))?;
        wait(|done| log.append(id, entries(1..200, 1), done))?;
        wait(|done| log.truncate(id, 150, done))?;
        wait(|done| log.append(id, entries(150..300, 2), done))?;
        log.save_committed(id, Bytes::from_static(b"committed"))?;
        let purged = Purged {
            index: 40,
            term: 1,
            note: Bytes::from_static(b"note"),
        };
        wait(|done| log.purge(id, purged, done))?;
    }
    wait(|done| log.remove_group(GroupId(GROUPS - 1), done))?;
    log.close();
    Ok(())
}

fn written(group: u32, index: u64, term: u64) -> Entry {
    let payload = vec![(u64::from(group) + index + term) as u8; 10 + (index % 300) as usize];
    Entry {
        index,
        term,
        payload: payload.into(),
    }
}

/// Does one operation and waits until it is durable.
fn wait(
    operation: impl FnOnce(Box<dyn FnOnce(Result<(), Error>) + Send>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    operation(Box::new(move |result| {
        let _ = sender.send(result);
    }))?;
    receiver.recv().expect("every operation is answered")
}

/// Small segments, so that there are several.
fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        cache_bytes: 1 << 10,
        queue_bytes: 1 << 20,
        soft_free_bytes: 0,
        hard_free_bytes: 0,
    }
}
