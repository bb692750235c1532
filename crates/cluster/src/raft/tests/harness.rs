//! Nodes in one process, each on a runtime of its own, so that one can be killed with everything that runs on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_state::{ClusterId, DecodeError, Incarnation, NodeId, Row, RowValue, StateMachine};
use magpie_storage::{GroupId, Log, Options, RealDisk, SledStore};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::service::Routes;

use crate::raft::{Config, GroupParts, Observer, ProposeError, RaftGroup, Registry};
use crate::rpc::{self, Channels, Directory, Guard, Identity, Secret};

pub(super) const GROUP: GroupId = GroupId(1);
/// No wait in these tests is longer, even on a busy machine; all of them end as soon as the thing happens.
pub(super) const SOON: Duration = Duration::from_secs(120);

/// Keeps the last value of each key, and how many commands it saw: a command applied twice or not at all shows.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) values: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) count: u64,
    changed: BTreeSet<Vec<u8>>,
}

impl StateMachine for Tally {
    /// How many commands were applied, this one included.
    type Answer = u64;
    type Carry = ();

    fn apply(&mut self, _: u64, command: &Bytes) -> u64 {
        let split = command.iter().position(|b| *b == b'=').unwrap();
        let (key, value) = (command[..split].to_vec(), command[split + 1..].to_vec());
        self.changed.insert(key.clone());
        self.values.insert(key, value);
        self.count += 1;
        self.count
    }

    fn take_changed(&mut self) -> Vec<Row> {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return Vec::new();
        }
        let value = |key: &Vec<u8>| self.values.get(key).cloned();
        let rows = changed.iter().map(|key| row(key.clone(), value(key)));
        rows.chain([self.count_row()]).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let rows = self.values.iter();
        rows.map(|(key, value)| row(key.clone(), Some(value.clone())))
            .chain([self.count_row()])
            .collect()
    }

    fn load(&mut self, row: Row) -> Result<(), DecodeError> {
        let value = row.value.and_then(RowValue::bytes).unwrap();
        match row.key.split_first().unwrap() {
            (b'k', key) => {
                self.values.insert(key.to_vec(), value);
            }
            _ => self.count = u64::from_le_bytes(value.try_into().unwrap()),
        }
        Ok(())
    }
}

impl Tally {
    fn count_row(&self) -> Row {
        Row {
            key: b"n".to_vec(),
            value: Some(RowValue::Bytes(self.count.to_le_bytes().to_vec())),
        }
    }
}

fn row(key: Vec<u8>, value: Option<Vec<u8>>) -> Row {
    let key = [&b"k"[..], &key].concat();
    let value = value.map(RowValue::Bytes);
    Row { key, value }
}

/// Remembers what it saw, to be compared with the log.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) applied: Mutex<Vec<(u64, Bytes)>>,
    pub(super) jumps: Mutex<Vec<u64>>,
}

impl Observer<Tally> for Seen {
    fn applied(&self, index: u64, command: &Bytes, _: &u64) {
        self.applied.lock().unwrap().push((index, command.clone()));
    }

    fn jumped(&self, to_index: u64) {
        self.jumps.lock().unwrap().push(to_index);
    }
}

pub(super) fn quick() -> Config {
    Config {
        heartbeat_every: Duration::from_millis(50),
        election_min: Duration::from_millis(1000),
        election_max: Duration::from_millis(2000),
        append_within: Duration::from_secs(2),
        read_within: Duration::from_millis(500),
        retention_every: Duration::from_millis(20),
        ..Config::default()
    }
}

/// For tests whose leader stays: no pause of a busy machine makes another one. The first election waits for no timeout.
pub(super) fn steady() -> Config {
    Config {
        election_min: Duration::from_secs(15),
        election_max: Duration::from_secs(30),
        append_within: Duration::from_secs(15),
        call_within: Duration::from_secs(15),
        read_within: Duration::from_secs(15),
        ..quick()
    }
}

/// One running node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) group: RaftGroup<Tally>,
    pub(super) seen: Arc<Seen>,
    pub(super) hold: Arc<AtomicU64>,
    pub(super) channels: Channels,
    runtime: Runtime,
    log: Log,
}

impl Node {
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, work).await.unwrap() })
    }

    pub(super) fn put(&self, key: &str, value: &str) -> Result<(u64, u64), ProposeError> {
        self.block_on(self.group.propose(format!("{key}={value}").into()))
    }
}

/// Some nodes with their directories.
pub(super) struct Nodes {
    pub(super) running: BTreeMap<u64, Node>,
    config: Config,
    directory: Directory,
    dirs: BTreeMap<u64, tempfile::TempDir>,
}

impl Nodes {
    pub(super) fn start(count: u64, config: Config) -> Self {
        let mut nodes = Self {
            running: BTreeMap::new(),
            config,
            directory: Directory::default(),
            dirs: BTreeMap::new(),
        };
        for id in 1..=count {
            nodes.start_node(id);
        }
        nodes
    }

    /// Three nodes that form a group.
    pub(super) fn formed(config: Config) -> Self {
        let nodes = Self::start(3, config);
        let voters = (1..=3).map(NodeId).collect();
        let first = &nodes.running[&1];
        first.block_on(first.group.initialize(&voters)).unwrap();
        nodes
    }

    fn dir(&mut self, id: u64) -> PathBuf {
        let dir = self.dirs.entry(id);
        dir.or_insert_with(|| tempfile::tempdir().unwrap())
            .path()
            .to_owned()
    }

    pub(super) fn start_node(&mut self, id: u64) {
        self.start_as(id, ClusterId(7), b"secret");
    }

    pub(super) fn start_as(&mut self, id: u64, cluster: ClusterId, secret: &[u8]) {
        let dir = self.dir(id);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            segment_bytes: 1 << 20,
            ..Options::default()
        };
        let (log, _) = Log::open(dir.join("log"), options, RealDisk).unwrap();
        let store = Arc::new(SledStore::open(dir.join("db"), 1 << 20).unwrap());
        let incarnation = Incarnation {
            counter: 1,
            nonce: id,
        };
        let identity = Identity::new(NodeId(id), incarnation, Secret::new(secret));
        assert!(identity.join(cluster));
        let channels = Channels::new(Arc::clone(&identity), self.directory.clone());
        let registry = Registry::default();
        let guard = Guard::new(identity);
        let seen = Arc::new(Seen::default());
        let hold = Arc::new(AtomicU64::new(u64::MAX));
        let parts = GroupParts {
            group: GROUP,
            node: NodeId(id),
            log: log.clone(),
            store,
            channels: channels.clone(),
            registry: registry.clone(),
            config: self.config.clone(),
            observer: Arc::clone(&seen) as Arc<dyn Observer<Tally>>,
            hold: Arc::clone(&hold),
        };
        let directory = self.directory.clone();
        let group = runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            directory.set(NodeId(id), listener.local_addr().unwrap().to_string());
            let services = Routes::new(registry.service(&guard));
            tokio::spawn(rpc::serve(listener, None, services, std::future::pending()));
            RaftGroup::start(parts).await.unwrap()
        });
        let node = Node {
            id: NodeId(id),
            group,
            seen,
            hold,
            channels,
            runtime,
            log,
        };
        self.running.insert(id, node);
    }

    /// Ends a node as a crash of its process would: no goodbye, sockets closed, and only what the log already wrote.
    pub(super) fn kill(&mut self, id: u64) {
        let node = self.running.remove(&id).unwrap();
        drop(node.group);
        node.runtime.shutdown_timeout(SOON);
        node.log.close();
    }

    pub(super) fn node(&self, id: u64) -> &Node {
        &self.running[&id]
    }

    /// The leader that a majority of the running nodes knows.
    pub(super) fn leader(&self) -> &Node {
        let id = eventually("a leader", || {
            let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
            for node in self.running.values() {
                if let Some(leader) = node.group.leader() {
                    *votes.entry(leader.0).or_default() += 1;
                }
            }
            let (leader, count) = votes.into_iter().max_by_key(|(_, count)| *count)?;
            let node = self.running.get(&leader)?;
            (count * 2 > self.running.len() && node.group.is_leader()).then_some(leader)
        });
        &self.running[&id]
    }

    pub(super) fn follower(&self) -> &Node {
        let leader = self.leader().id;
        self.running
            .values()
            .find(|node| node.id != leader)
            .unwrap()
    }

    /// Proposes on whoever leads until it is committed; a command whose fate is unknown is proposed again.
    pub(super) fn put(&self, key: &str, value: &str) -> u64 {
        eventually("a commit", || self.leader().put(key, value).ok()).0
    }

    /// All running nodes have applied the same, with this many commands.
    pub(super) fn agree(&self, count: u64) {
        eventually("agreement", || {
            let mut all = self.running.values();
            all.all(|node| node.group.with_state(|tally| tally.count) == count)
                .then_some(())
        });
        let states: Vec<_> = self.running.values().collect();
        let first = states[0].group.with_state(|tally| tally.values.clone());
        for node in states {
            assert!(node.group.with_state(|tally| tally.values == first));
        }
    }
}

/// Polls until there is an answer.
pub(super) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < SOON, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
