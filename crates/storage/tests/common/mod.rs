//! What the tests of the log share.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses some of it")]

use std::sync::mpsc;

use bytes::Bytes;
use magpie_storage::{Entry, Error, GroupId, Log, Options, Purged};

/// Small segments, so that a short test sees many of them.
pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 2,
        cache_bytes: 16 << 10,
        queue_bytes: 1 << 20,
        soft_free_bytes: 0,
        hard_free_bytes: 0,
    }
}

pub(crate) fn payload(index: u64) -> Bytes {
    vec![index as u8; 50 + (index % 200) as usize].into()
}

pub(crate) fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    range
        .map(|index| Entry {
            index,
            term,
            payload: payload(index),
        })
        .collect()
}

pub(crate) fn purged(index: u64) -> Purged {
    Purged {
        index,
        term: 1,
        note: Bytes::new(),
    }
}

/// Does one operation and waits until it is durable.
pub(crate) fn wait(
    operation: impl FnOnce(Box<dyn FnOnce(Result<(), Error>) + Send>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (sender, receiver) = mpsc::sync_channel(1);
    operation(Box::new(move |result| {
        let _ = sender.send(result);
    }))?;
    receiver.recv().unwrap()
}

pub(crate) fn append(log: &Log, group: u32, range: std::ops::Range<u64>) {
    wait(|done| log.append(GroupId(group), entries(range, 1), done)).unwrap();
}

pub(crate) fn read_all(log: &Log, group: u32) -> Vec<Entry> {
    log.read(GroupId(group), 0..u64::MAX, usize::MAX).unwrap()
}

/// Waits until something holds, at most ten seconds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("not within a minute: {what}");
}

/// SplitMix64.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
