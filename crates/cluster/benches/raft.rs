//! Proposals per second and CPU per proposal: one group, three nodes in one process, gRPC over loopback, real files.
//!
//! `cargo bench -p magpie-cluster --bench raft [-- BYTES INFLIGHT SECONDS]`

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_cluster::raft::{Config, GroupId, GroupParts, RaftGroup, Registry};
use magpie_cluster::rpc::{self, Channels, Directory, Guard, Identity, Secret};
use magpie_state::{ClusterId, DecodeError, Incarnation, NodeId, Row, RowValue, StateMachine};
use magpie_storage::{Log, Options, RealDisk, SledStore};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::Routes;

/// Counts commands and bytes; nothing that costs.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Answer = u64;
    type Carry = ();

    fn apply(&mut self, _: u64, _: &Bytes) -> u64 {
        self.0 += 1;
        self.0
    }

    fn take_changed(&mut self) -> Vec<Row> {
        self.rows()
    }

    fn rows(&self) -> Vec<Row> {
        vec![Row {
            key: b"n".to_vec(),
            value: Some(RowValue::Bytes(self.0.to_le_bytes().to_vec())),
        }]
    }

    fn load(&mut self, row: Row) -> Result<(), DecodeError> {
        let value = row.value.and_then(RowValue::bytes).unwrap();
        self.0 = u64::from_le_bytes(value.try_into().unwrap());
        Ok(())
    }
}

async fn start(id: u64, dir: &std::path::Path, directory: &Directory) -> RaftGroup<Counter> {
    let options = Options {
        segment_bytes: 4 << 20,
        ..Options::default()
    };
    let dir = dir.join(id.to_string());
    let (log, _) = Log::open(dir.join("log"), options, RealDisk).unwrap();
    let store = Arc::new(SledStore::open(dir.join("db"), 1 << 20).unwrap());
    let incarnation = Incarnation {
        counter: 1,
        nonce: id,
    };
    let identity = Identity::new(NodeId(id), incarnation, Secret::new(b"secret"));
    identity.join(ClusterId(1));
    let registry = Registry::default();
    let guard = Guard::new(Arc::clone(&identity));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    directory.set(NodeId(id), listener.local_addr().unwrap().to_string());
    let services = Routes::new(registry.service(&guard));
    tokio::spawn(rpc::serve(listener, None, services, std::future::pending()));
    let parts = GroupParts {
        group: GroupId(1),
        node: NodeId(id),
        log,
        store,
        channels: Channels::new(identity, directory.clone()),
        registry,
        config: Config {
            // Soon in the steady state, in which segments are recycled instead of made.
            log_retain_bytes: 8 << 20,
            checkpoint_bytes: 4 << 20,
            ..Config::default()
        },
        observer: Arc::new(()),
        hold: Arc::new(AtomicU64::new(u64::MAX)),
    };
    RaftGroup::start(parts).await.unwrap()
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::main]
async fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (bytes, inflight, seconds) = (number(0, 256), number(1, 512), number(2, 5));
    let dir = tempfile::tempdir_in(".").unwrap();
    let directory = Directory::default();
    let mut groups = Vec::new();
    for id in 1..=3 {
        groups.push(start(id, dir.path(), &directory).await);
    }
    let voters: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
    groups[0].initialize(&voters).await.unwrap();
    let leader = loop {
        if let Some(leader) = groups.iter().find(|group| group.is_leader())
            && leader.read_index().await.is_ok()
        {
            break leader.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };

    let command = Bytes::from(vec![b'x'; usize::try_from(bytes).unwrap()]);
    let window = Arc::new(Semaphore::new(usize::try_from(inflight).unwrap()));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let failed = Arc::new(AtomicU64::new(0));
    let (begun, cpu_before) = (Instant::now(), cpu());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let permit = Arc::clone(&window).acquire_owned().await.unwrap();
        let (latencies, failed) = (Arc::clone(&latencies), Arc::clone(&failed));
        let at = Instant::now();
        leader
            .submit(command.clone(), move |outcome| {
                match outcome {
                    Ok(_) => latencies.lock().unwrap().push(at.elapsed()),
                    Err(_) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                drop(permit);
            })
            .await;
    }
    let all = u32::try_from(inflight).unwrap();
    let _idle = window.acquire_many(all).await.unwrap();
    let (elapsed, used) = (begun.elapsed(), cpu() - cpu_before);
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap());
    latencies.sort_unstable();
    let count = latencies.len();
    println!(
        "{bytes} B, {inflight} in flight: {:.0}/s, p50 {:?}, p99 {:?}, {:.2} us CPU per proposal (three nodes and the proposer), {} failed",
        count as f64 / elapsed.as_secs_f64(),
        latencies[count / 2],
        latencies[count * 99 / 100],
        used.as_secs_f64() * 1e6 / count as f64,
        failed.load(Ordering::Relaxed),
    );
    let at = Instant::now();
    for _ in 0..200 {
        leader.read_index().await.unwrap();
    }
    println!(
        "read index, one after the other: {:?} each",
        at.elapsed() / 200
    );
    for group in &groups {
        group.stop().await;
    }
}
