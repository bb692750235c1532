//! The log beside a plain preallocated file, in one run.
//!
//! `cargo bench -p magpie-storage --bench log -- [append] [latency] [reopen]`; `BENCH_DIR` names a
//! directory on the disk to be measured. Not criterion: what counts here are syncs of many threads,
//! a second each, and the two sides must take turns on the same disk.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_storage::{Entry, GroupId, Log, Options, Purged, RealDisk};
use rustix::time::{ClockId, clock_gettime};

const ENTRIES: u64 = 8;
const PAYLOAD_BYTES: usize = 256;
const RUN: Duration = Duration::from_secs(2);

fn main() {
    let names: Vec<_> = std::env::args().filter(|a| !a.starts_with('-')).collect();
    let wants = |name: &str| names.len() < 2 || names.iter().any(|n| n == name);
    let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    if wants("append") {
        append(&base);
    }
    if wants("latency") {
        latency(&base);
    }
    if wants("reopen") {
        reopen(&base);
    }
}

/// One side of a comparison: appends durably, answering on another thread.
trait Side: Send + Sync + 'static {
    fn append(&self, group: u32, first: u64, count: u64, done: Box<dyn FnOnce() + Send>);
}

fn append(base: &Path) {
    println!("durable appends of {ENTRIES} x {PAYLOAD_BYTES} B, one writer a group, one committer");
    println!("groups  side    entries/s  p50 us  p99 us  max us  cpu us/entry");
    for groups in [1, 16, 64] {
        let mut rates = [0.0; 2];
        // In turns, the better of each: what else the machine does hits both.
        for _ in 0..2 {
            let dir = tempfile::tempdir_in(base).unwrap();
            let file = FileSide::open(&dir.path().join("file"));
            rates[0] = f64::max(rates[0], measure("file", groups, Arc::new(file)));
            let dir = tempfile::tempdir_in(base).unwrap();
            let (log, _) = Log::open(dir.path(), Options::default(), RealDisk).unwrap();
            warm_up(&log);
            rates[1] = f64::max(rates[1], measure("log", groups, Arc::new(LogSide(log))));
        }
        println!(
            "{groups:6}  log / file: {:.0} %",
            100.0 * rates[1] / rates[0]
        );
    }
}

/// Waits until spares are prepared, as they are on a node that runs.
fn warm_up(log: &Log) {
    while log.metrics().spare_segments < 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn measure(name: &str, groups: u32, side: Arc<dyn Side>) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(groups as usize + 1));
    let threads: Vec<_> = (0..groups)
        .map(|group| {
            let (side, stop, start) = (side.clone(), stop.clone(), start.clone());
            std::thread::spawn(move || {
                let gate = Arc::new(Gate::default());
                let mut times = Vec::new();
                let mut next = 1;
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let opened = gate.clone();
                    side.append(group, next, ENTRIES, Box::new(move || opened.open()));
                    gate.wait();
                    times.push(began.elapsed().as_micros() as u64);
                    next += ENTRIES;
                }
                times
            })
        })
        .collect();
    start.wait();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    std::thread::sleep(RUN);
    stop.store(true, Ordering::Relaxed);
    let mut times: Vec<_> = threads
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .collect();
    let (took, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    times.sort_unstable();
    let entries = times.len() as f64 * ENTRIES as f64;
    println!(
        "{groups:6}  {name:6} {:10.0}  {:6}  {:6}  {:6}  {:12.2}",
        entries / took,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1],
        cpu * 1e6 / entries,
    );
    entries / took
}

#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            is_open = self.changed.wait(is_open).unwrap();
        }
        *is_open = false;
    }
}

fn entries(first: u64, count: u64) -> Vec<Entry> {
    static PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];
    (first..first + count)
        .map(|index| Entry {
            index,
            term: 1,
            payload: Bytes::from_static(&PAYLOAD),
        })
        .collect()
}

struct LogSide(Log);

impl Side for LogSide {
    fn append(&self, group: u32, first: u64, count: u64, done: Box<dyn FnOnce() + Send>) {
        let entries = entries(first, count);
        self.0
            .append(GroupId(group), entries, move |result| {
                result.unwrap();
                done();
            })
            .unwrap();
        // As a node does that snapshots: segments are recycled.
        if first % 4096 == 1 && first > 65_536 {
            let purged = Purged {
                index: first - 65_536,
                term: 1,
                note: Bytes::new(),
            };
            self.0.purge(GroupId(group), purged, |_| {}).unwrap();
        }
    }
}

type Job = (Vec<Entry>, Box<dyn FnOnce() + Send>);

/// What the log cannot beat: payloads only, into a file that exists, one sync for all.
struct FileSide {
    jobs: Arc<(Mutex<Vec<Job>>, Condvar)>,
}

impl FileSide {
    const BYTES: u64 = 256 << 20;

    fn open(path: &Path) -> Self {
        let file = File::create(path).unwrap();
        let zeros = vec![0; 1 << 20];
        for offset in (0..Self::BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset).unwrap();
        }
        file.sync_all().unwrap();
        let jobs: Arc<(Mutex<Vec<Job>>, Condvar)> = Arc::default();
        let taken = Arc::downgrade(&jobs);
        std::thread::spawn(move || {
            let mut offset = 0;
            let mut buffer = Vec::new();
            while let Some(jobs) = taken.upgrade() {
                let guard = jobs.0.lock().unwrap();
                let wait = Duration::from_millis(100);
                let (mut guard, _) = jobs
                    .1
                    .wait_timeout_while(guard, wait, |jobs| jobs.is_empty())
                    .unwrap();
                let batch = std::mem::take(&mut *guard);
                drop(guard);
                buffer.clear();
                for (entries, _) in &batch {
                    for entry in entries {
                        buffer.extend_from_slice(&entry.payload);
                    }
                }
                if offset + buffer.len() as u64 > Self::BYTES {
                    offset = 0;
                }
                file.write_all_at(&buffer, offset).unwrap();
                offset += buffer.len() as u64;
                file.sync_data().unwrap();
                for (_, done) in batch {
                    done();
                }
            }
        });
        Self { jobs }
    }
}

impl Side for FileSide {
    fn append(&self, _: u32, first: u64, count: u64, done: Box<dyn FnOnce() + Send>) {
        self.jobs
            .0
            .lock()
            .unwrap()
            .push((entries(first, count), done));
        self.jobs.1.notify_one();
    }
}

/// One append at a time at a steady rate, through many segments, and the same on the file, which
/// shows what the disk does by itself. The log is fresh in its first round, when all segments are
/// prepared anew, and recycles in the later ones.
fn latency(base: &Path) {
    println!("one writer, 128 x {PAYLOAD_BYTES} B an append");
    println!("side    appends  MB  p50 us  p99 us  p99.9 us  max us");
    let dir = tempfile::tempdir_in(base).unwrap();
    let file = FileSide::open(&dir.path().join("file"));
    let (log, _) = Log::open(dir.path().join("log"), Options::default(), RealDisk).unwrap();
    warm_up(&log);
    let log = LogSide(log);
    let mut next = [1; 2];
    for _ in 0..3 {
        next[0] = steady("file", &file, next[0]);
        next[1] = steady("log", &log, next[1]);
    }
}

fn steady(name: &str, side: &dyn Side, mut next: u64) -> u64 {
    const COUNT: u64 = 128;
    let first = next;
    let mut times = Vec::new();
    let gate = Arc::new(Gate::default());
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let began = Instant::now();
        let opened = gate.clone();
        side.append(1, next, COUNT, Box::new(move || opened.open()));
        gate.wait();
        times.push(began.elapsed().as_micros() as u64);
        next += COUNT;
        std::thread::sleep(Duration::from_micros(200));
    }
    times.sort_unstable();
    let at = |per_mille: usize| times[times.len() * per_mille / 1000];
    println!(
        "{name:6}  {:7}  {:3}  {:6}  {:6}  {:6}  {:6}",
        times.len(),
        ((next - first) * PAYLOAD_BYTES as u64) >> 20,
        at(500),
        at(990),
        at(999),
        times[times.len() - 1]
    );
    next
}

/// Opens a gigabyte of entries of 256 B; memory per entry from what the process holds.
fn reopen(base: &Path) {
    const COUNT: u64 = (1 << 30) / 296;
    let dir = tempfile::tempdir_in(base).unwrap();
    let (log, _) = Log::open(dir.path(), Options::default(), RealDisk).unwrap();
    let durable = Arc::new(AtomicU64::new(0));
    let mut next = 1;
    while next < COUNT {
        for group in 0..8 {
            let durable = durable.clone();
            log.append(GroupId(group), entries(next / 8 + 1, 64), move |result| {
                result.unwrap();
                durable.fetch_add(64, Ordering::Relaxed);
            })
            .unwrap();
        }
        next += 8 * 64;
    }
    drop(log);
    for _ in 0..3 {
        let before = resident_bytes();
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let (log, recovered) = Log::open(dir.path(), Options::default(), RealDisk).unwrap();
        let (took, cpu) = (began.elapsed(), cpu_seconds() - cpu);
        let (records, live) = (recovered.records, log.metrics().live_bytes);
        let held = resident_bytes().saturating_sub(before);
        println!(
            "reopened {} MB, {records} records in {:.2} s ({cpu:.2} s of cpu); resident memory grew {:.1} B a record",
            live >> 20,
            took.as_secs_f64(),
            held as f64 / records as f64
        );
        drop(log);
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
