//! Replicas of one partition with real logs, whose process can be killed; and what they must find, as a list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_codec::{Message, QoS, Text, TopicFilter, TopicName};
use magpie_state::partition::{
    Append, AppendAnswer, PartitionAnswer, PartitionCommand, PartitionState,
};
use magpie_state::{
    ClientId, ClusterId, Epoch, Incarnation, NodeId, Position, Publish, Record, StreamId,
};
use magpie_storage::{GroupId, Log, MemoryStore, Options, RealDisk};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::service::Routes;

use crate::index::PartitionIndex;
use crate::raft::{Config, GroupParts, RaftGroup, Registry};
use crate::rpc::{self, Channels, Directory, Guard, Identity, Secret};

pub(crate) const SOON: Duration = Duration::from_secs(120);
const GROUP: GroupId = GroupId(1);

/// Purges whatever may be purged, at once.
fn eager() -> Config {
    Config {
        election_min: Duration::from_secs(15),
        election_max: Duration::from_secs(30),
        heartbeat_every: Duration::from_millis(50),
        append_within: Duration::from_secs(15),
        call_within: Duration::from_secs(15),
        read_within: Duration::from_secs(15),
        retention_every: Duration::from_millis(5),
        log_retain_bytes: 0,
        log_retain: Duration::ZERO,
        checkpoint_every: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// One running replica.
pub(crate) struct Replica {
    pub(crate) group: RaftGroup<PartitionState>,
    pub(crate) index: Arc<PartitionIndex>,
    log: Log,
    runtime: Runtime,
}

impl Replica {
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, work).await.unwrap() })
    }

    pub(crate) fn propose(&self, command: &PartitionCommand) -> (u64, PartitionAnswer) {
        loop {
            let proposed = self.block_on(self.group.propose(command.encode()));
            if let Ok(answer) = proposed {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that a search finds, by as many answers as it takes.
    pub(crate) fn fetch_all(
        &self,
        filters: &[TopicFilter],
        mut after: Position,
        bytes_max: usize,
    ) -> Vec<(Position, Publish)> {
        let applied = self.group.applied();
        let mut all = Vec::new();
        loop {
            let fetched = self
                .block_on(self.index.fetch(filters, after, bytes_max))
                .unwrap();
            let records = publishes(&fetched.records);
            let is_last = records.is_empty();
            all.extend(records);
            assert!(fetched.upto >= after);
            after = fetched.upto;
            if is_last {
                assert!(after >= Position::end_of(applied));
                return all;
            }
        }
    }
}

pub(crate) fn publishes(records: &crate::index::Records) -> Vec<(Position, Publish)> {
    let mut rest = records.bytes.clone();
    let decoded = records.positions.iter().map(|position| {
        let Record::Publish(publish) = Record::decode(&mut rest).unwrap() else {
            panic!("no publish");
        };
        (*position, publish)
    });
    let decoded = decoded.collect();
    assert!(rest.is_empty());
    decoded
}

/// Some replicas, with what lasts of them.
#[derive(Default)]
pub(crate) struct Replicas {
    pub(crate) running: BTreeMap<u64, Replica>,
    directory: Directory,
    disks: BTreeMap<u64, (tempfile::TempDir, MemoryStore)>,
    seq: u64,
}

impl Replicas {
    pub(crate) fn start(&mut self, id: u64) {
        let disk = self
            .disks
            .entry(id)
            .or_insert_with(|| (tempfile::tempdir().unwrap(), MemoryStore::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            segment_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            ..Options::default()
        };
        let (log, _) = Log::open(disk.0.path(), options, RealDisk).unwrap();
        let incarnation = Incarnation {
            counter: 1,
            nonce: id,
        };
        let identity = Identity::new(NodeId(id), incarnation, Secret::new(b"secret"));
        assert!(identity.join(ClusterId(7)));
        let channels = Channels::new(Arc::clone(&identity), self.directory.clone());
        let registry = Registry::default();
        let guard = Guard::new(identity);
        let parts = GroupParts {
            group: GROUP,
            node: NodeId(id),
            log: log.clone(),
            store: Arc::new(disk.1.clone()),
            channels,
            registry: registry.clone(),
            config: eager(),
            observer: Arc::new(()),
            hold: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let directory = self.directory.clone();
        let (group, index) = runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            directory.set(NodeId(id), listener.local_addr().unwrap().to_string());
            let services = Routes::new(registry.service(&guard));
            tokio::spawn(rpc::serve(listener, None, services, std::future::pending()));
            let group = RaftGroup::start(parts).await.unwrap();
            (group.clone(), PartitionIndex::start(group))
        });
        let replica = Replica {
            group,
            index,
            log,
            runtime,
        };
        self.running.insert(id, replica);
    }

    /// Forms the group with replica 1 as its only voter.
    pub(crate) fn formed() -> Self {
        let mut replicas = Self::default();
        replicas.start(1);
        let first = replicas.first();
        first
            .block_on(first.group.initialize(&BTreeSet::from([NodeId(1)])))
            .unwrap();
        replicas
    }

    pub(crate) fn first(&self) -> &Replica {
        &self.running[&1]
    }

    /// Ends a process without a goodbye, and loses what the checkpoint store did not flush.
    pub(crate) fn kill(&mut self, id: u64) {
        let Replica {
            group,
            index,
            log,
            runtime,
        } = self.running.remove(&id).unwrap();
        drop((group, index));
        runtime.shutdown_timeout(SOON);
        log.close();
        self.disks[&id].1.power_loss(0);
    }

    /// Appends a batch by the first replica; where it is.
    pub(crate) fn append(&mut self, records: &[Record]) -> (u64, AppendAnswer) {
        self.seq += 1;
        let mut bytes = BytesMut::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        let append = Append {
            stream: StreamId {
                node: NodeId(99),
                incarnation: Incarnation {
                    counter: 1,
                    nonce: 1,
                },
            },
            seq: self.seq,
            has_control: true,
            count: records.len() as u32,
            records: bytes.freeze(),
        };
        match self.first().propose(&PartitionCommand::Append(append)) {
            (index, PartitionAnswer::Append(answer)) => (index, answer),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn client(id: &str) -> ClientId {
    ClientId(Text::try_from(id).unwrap())
}

pub(crate) fn publish(from: &str, topic: &str, qos: QoS, payload: Bytes) -> Publish {
    Publish {
        client: client(from),
        epoch: Epoch(1),
        qos,
        retain: false,
        retain_only: false,
        published_ms: 1,
        dedup: None,
        message: Arc::new(Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload,
            properties: None,
        }),
    }
}
