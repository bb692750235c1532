//! Whole nodes without clients, each on a runtime of its own, over loopback, with real files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use magpie_state::control::{ControlState, MemberState};
use magpie_state::{NodeId, PartitionId};
use magpie_storage::{DataDir, Log, Options, RealDisk, SledStore};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::fatal::FatalSwitch;
use crate::groups::Groups;
use crate::identity_file::IdentityFile;
use crate::leaders::Leaders;
use crate::membership::{Membership, MembershipParts};
use crate::raft::Registry;
use crate::rpc::{self, Channels, Directory, Guard, Identity, Secret};
use crate::{Config, Event, Fatal, Readiness, StartError};
use ports::free_ports;

#[path = "../../../../../tests/ports.rs"]
mod ports;

/// Nothing here takes longer, even on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(120);

/// One running node.
pub(super) struct Node {
    pub(super) membership: Membership,
    pub(super) groups: Groups,
    pub(super) leaders: Leaders,
    pub(super) fatal: FatalSwitch,
    pub(super) identity_file: IdentityFile,
    pub(super) events: mpsc::Receiver<Event>,
    runtime: Runtime,
    log: Log,
}

impl Node {
    pub(super) fn id(&self) -> NodeId {
        self.membership.node()
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.membership.readiness().borrow() == Readiness::Ready
    }

    pub(super) fn why_not(&self) -> String {
        match &*self.membership.readiness().borrow() {
            Readiness::Ready => String::from("ready"),
            Readiness::NotReady(why) => why.clone(),
        }
    }

    pub(super) fn state<R>(&self, read: impl FnOnce(&ControlState) -> R) -> R {
        self.membership.state(read)
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, work).await.unwrap() })
    }

    /// Whether nothing is asked of the broker for so long.
    pub(super) fn no_event_for(&mut self, time: Duration) -> bool {
        let next = async { tokio::time::timeout(time, self.events.recv()).await };
        self.runtime.block_on(next).is_err()
    }

    pub(super) fn fatal(&self) -> Fatal {
        self.block_on(self.fatal.tripped())
    }
}

/// Some nodes with their directories and addresses, by number.
pub(super) struct Nodes {
    pub(super) running: BTreeMap<u64, Node>,
    seeds: Vec<u64>,
    ports: BTreeMap<u64, u16>,
    dirs: BTreeMap<u64, tempfile::TempDir>,
}

pub(super) const PARTITIONS: u16 = 4;

impl Nodes {
    /// None yet; the nodes with these numbers will be the seeds.
    pub(super) fn new(seeds: &[u64]) -> Self {
        Self {
            running: BTreeMap::new(),
            seeds: seeds.to_vec(),
            ports: BTreeMap::new(),
            dirs: BTreeMap::new(),
        }
    }

    /// For nodes started from now on.
    pub(super) fn set_seeds(&mut self, seeds: &[u64]) {
        self.seeds = seeds.to_vec();
    }

    /// Three nodes that are ready.
    pub(super) fn three() -> Self {
        let mut nodes = Self::new(&[1, 2, 3]);
        for number in 1..=3 {
            nodes.start(number);
        }
        nodes.all_ready();
        nodes
    }

    pub(super) fn address(&mut self, number: u64) -> String {
        let port = self.ports.entry(number).or_insert_with(|| free_ports(1));
        format!("127.0.0.1:{port}")
    }

    pub(super) fn dir(&mut self, number: u64) -> PathBuf {
        let dir = self.dirs.entry(number);
        dir.or_insert_with(|| tempfile::tempdir().unwrap())
            .path()
            .to_owned()
    }

    fn config(&mut self, number: u64) -> Config {
        let seeds = self.seeds.clone();
        Config {
            node_name: format!("node-{number}"),
            cluster_advertise: self.address(number),
            seeds: seeds.into_iter().map(|seed| self.address(seed)).collect(),
            cluster_secret: Some(String::from("secret")),
            partitions: PARTITIONS,
            heartbeat: Duration::from_millis(50),
            // A busy machine's pauses are shorter than these.
            election_timeout: Duration::from_secs(1),
            quorum_lost_after: Duration::from_millis(1200),
            down_after: Duration::from_secs(6),
            ..Config::default()
        }
    }

    pub(super) fn start(&mut self, number: u64) {
        self.try_start(number).unwrap();
    }

    pub(super) fn try_start(&mut self, number: u64) -> Result<(), StartError> {
        let (dir, config) = (self.dir(number), Arc::new(self.config(number)));
        let data_dir = Arc::new(DataDir::open(&dir).unwrap());
        let identity_file = IdentityFile::open(data_dir)?;
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
        let identity = Identity::new(
            identity_file.node(),
            identity_file.incarnation(),
            Secret::new(b"secret"),
        );
        let registry = Registry::default();
        let guard = Guard::new(Arc::clone(&identity));
        let (groups, leaders) = (Groups::default(), Leaders::default());
        let fatal = FatalSwitch::default();
        let (events, received) = mpsc::channel(16);
        let parts = MembershipParts {
            config: Arc::clone(&config),
            identity_file: identity_file.clone(),
            channels: Channels::new(Arc::clone(&identity), Directory::default()),
            identity,
            guard: guard.clone(),
            registry: registry.clone(),
            log: log.clone(),
            store,
            groups: groups.clone(),
            leaders: leaders.clone(),
            feed_of: Arc::new(|_| (Arc::new(()), Arc::new(u64::MAX.into()))),
            events,
            fatal: fatal.clone(),
            stop: CancellationToken::new(),
        };
        let membership = runtime.block_on(async {
            let membership = Membership::start(parts).await?;
            let listener = TcpListener::bind(&config.cluster_advertise).await.unwrap();
            let (formation, members) = membership.services();
            let services = Routes::new(registry.service(&guard))
                .add_service(formation)
                .add_service(members);
            tokio::spawn(rpc::serve(listener, None, services, std::future::pending()));
            Ok::<_, StartError>(membership)
        })?;
        let node = Node {
            membership,
            groups,
            leaders,
            fatal,
            identity_file,
            events: received,
            runtime,
            log,
        };
        self.running.insert(number, node);
        Ok(())
    }

    /// Ends a node as a crash of its process would.
    pub(super) fn kill(&mut self, number: u64) {
        let node = self.running.remove(&number).unwrap();
        drop((node.membership, node.groups, node.identity_file));
        node.runtime.shutdown_timeout(SOON);
        node.log.close();
    }

    /// Kills a node and empties its data directory; its address stays.
    pub(super) fn wipe(&mut self, number: u64) {
        self.kill(number);
        self.dirs.remove(&number);
    }

    pub(super) fn node(&self, number: u64) -> &Node {
        &self.running[&number]
    }

    /// A copy of a stopped node's directory as it is now.
    pub(super) fn back_up(&mut self, number: u64) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(&self.dir(number), copy.path());
        copy
    }

    /// Puts a copy in place of a stopped node's directory.
    pub(super) fn restore(&mut self, number: u64, copy: tempfile::TempDir) {
        self.dirs.insert(number, copy);
    }

    pub(super) fn ids(&self) -> BTreeSet<NodeId> {
        self.running.values().map(Node::id).collect()
    }

    /// Waits until every running node may accept clients.
    pub(super) fn all_ready(&self) {
        let why = || -> Vec<String> {
            let all = self.running.values();
            all.map(Node::why_not).collect()
        };
        eventually(why, || {
            self.running.values().all(Node::is_ready).then_some(())
        });
    }

    /// The control group's leader.
    pub(super) fn control_leader(&self) -> u64 {
        eventually(
            || "no control leader",
            || {
                let mut all = self.running.iter();
                let leads =
                    |node: &Node| node.groups.control().is_some_and(|group| group.is_leader());
                all.find(|(_, node)| leads(node)).map(|(number, _)| *number)
            },
        )
    }

    /// Waits until every partition's group consists of exactly these nodes, as voters, and runs nowhere else.
    pub(super) fn replicated_on(&self, nodes: &BTreeSet<NodeId>) {
        let members = || {
            let all = self.running.values();
            all.map(|node| (node.id(), node.membership.status().groups))
                .collect::<Vec<_>>()
        };
        eventually(members, || {
            let all_have = (0..PARTITIONS).map(PartitionId).all(|partition| {
                let mut all = self.running.values();
                all.all(|node| match node.groups.partition(partition) {
                    Some(group) => {
                        let members = group.members();
                        members.voters == *nodes && members.learners.is_empty()
                    }
                    None => !nodes.contains(&node.id()),
                })
            });
            all_have.then_some(())
        });
    }

    /// Waits until all running nodes know these members, all of them up.
    pub(super) fn know(&self, members: &BTreeSet<NodeId>) {
        eventually(
            || "members",
            || {
                let mut all = self.running.values();
                let knows = |node: &Node| {
                    node.state(|state| {
                        state.members().keys().eq(members.iter())
                            && state
                                .members()
                                .values()
                                .all(|member| member.state == MemberState::Up)
                    })
                };
                all.all(knows).then_some(())
            },
        );
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let (file, name) = file.map(|file| (file.path(), file.file_name())).unwrap();
        if file.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy_dir(&file, &to.join(&name));
        } else {
            std::fs::copy(&file, to.join(&name)).unwrap();
        }
    }
}

/// Polls until there is an answer.
pub(super) fn eventually<T, W: std::fmt::Debug>(
    what: impl Fn() -> W,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < SOON, "never came: {:?}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}
