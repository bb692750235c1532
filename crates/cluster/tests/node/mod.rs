//! Whole nodes in one process, each with a test for a broker.
#![allow(dead_code, reason = "no test uses all of it")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_cluster::{
    Cluster, Config, DealtMessage, Event, Handover, Readiness, Submission, Submitted, Tailed,
};
use magpie_codec::{Message, QoS, Text, TopicFilter, TopicName};
use magpie_state::{ClientId, Epoch, PartitionId, PublishHead, encode_publish};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use ports::free_ports;

#[path = "../../../../tests/ports.rs"]
mod ports;
pub(crate) mod sessions;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A node whose broker is this test.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    pub(crate) config: Config,
    /// Payloads from all tails.
    pub(crate) delivered: mpsc::Receiver<String>,
    /// What share groups dealt to members here.
    pub(crate) dealt: mpsc::Receiver<(PartitionId, DealtMessage)>,
    pub(crate) direct: mpsc::Receiver<String>,
    pub(crate) superseded: mpsc::Receiver<(ClientId, Epoch, oneshot::Sender<Option<Handover>>)>,
    _dir: tempfile::TempDir,
    /// Its own, so that a restart leaves nothing of the old life behind.
    pub(crate) runtime: Option<tokio::runtime::Runtime>,
}

impl Node {
    /// Nothing of the node goes on for so long, as if its process were stopped; its connections stay open. Returns when that has begun.
    pub(crate) async fn freeze(&self, pause: Duration) {
        let runtime = self.runtime.as_ref().unwrap();
        let (begin, begun) = oneshot::channel();
        // It has one worker.
        runtime.spawn(async move {
            let _ = begin.send(());
            std::thread::sleep(pause);
        });
        timeout(PATIENCE, begun)
            .await
            .expect("frozen in time")
            .unwrap();
    }

    /// Whether this node leads the partition.
    pub(crate) fn leads(&self, partition: PartitionId) -> bool {
        let groups = self.cluster.status().groups;
        groups
            .iter()
            .any(|group| group.group == partition.to_string() && group.leading)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) async fn nodes(count: usize, direct_filters: &[&str]) -> Vec<Node> {
    let filters = direct_filters.iter();
    let direct_filters: Vec<_> = filters.map(|filter| (*filter).to_owned()).collect();
    nodes_with(count, |config| {
        config.direct_filters.clone_from(&direct_filters);
    })
    .await
}

/// Nodes with other settings than the tests' usual ones.
pub(crate) async fn nodes_with(count: usize, change: impl Fn(&mut Config)) -> Vec<Node> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let addresses: Vec<String> = (0..count)
        .map(|_| format!("127.0.0.1:{}", free_ports(1)))
        .collect();
    let started = addresses.iter().enumerate().map(|(number, address)| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().to_owned(),
            node_name: format!("node-{number}"),
            cluster_listen: address.clone(),
            cluster_advertise: address.clone(),
            seeds: if count > 1 {
                addresses.clone()
            } else {
                Vec::new()
            },
            cluster_secret: Some("secret".to_owned()),
            partitions: 3,
            route_linger: Duration::from_millis(200),
            ..Config::default()
        };
        change(&mut config);
        start(dir, config)
    });
    let nodes = futures::future::join_all(started).await;
    for node in &nodes {
        let mut readiness = node.cluster.readiness();
        let ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready);
        timeout(PATIENCE, ready)
            .await
            .expect("ready in time")
            .unwrap();
    }
    nodes
}

/// Starts a node on a runtime of its own.
async fn start(dir: tempfile::TempDir, config: Config) -> Node {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let node = runtime.spawn(async move {
        let (cluster, events) = Cluster::start(config.clone()).await.unwrap();
        run_broker(cluster, events, dir, config).await
    });
    let mut node = node.await.unwrap();
    node.runtime = Some(runtime);
    node
}

async fn run_broker(
    cluster: Cluster,
    mut events: magpie_cluster::Events,
    dir: tempfile::TempDir,
    config: Config,
) -> Node {
    timeout(PATIENCE, cluster.formed())
        .await
        .expect("formed in time");
    let (deliver, delivered) = mpsc::channel(100_000);
    for partition in 0..cluster.partitions() {
        let (mut tail, deliver) = (cluster.take_tail(PartitionId(partition)), deliver.clone());
        tokio::spawn(async move {
            while let Some(tailed) = tail.next().await {
                let batch = match tailed {
                    Tailed::Batch(batch) => batch,
                    Tailed::Lost(lost) => {
                        tail.done(lost.upto);
                        continue;
                    }
                };
                for item in batch.items {
                    let payload = String::from_utf8(item.message.payload.to_vec()).unwrap();
                    let _ = deliver.send(payload).await;
                }
                tail.done(batch.index);
            }
        });
    }
    let (deal, dealt) = mpsc::channel(100_000);
    for partition in (0..cluster.partitions()).map(PartitionId) {
        let (mut tail, deal) = (cluster.dealt(partition), deal.clone());
        tokio::spawn(async move {
            while let Some(messages) = tail.next().await {
                for message in messages {
                    let _ = deal.send((partition, message)).await;
                }
            }
        });
    }
    let (direct_in, direct) = mpsc::channel(100_000);
    let (supersede, superseded) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                Event::Direct { messages, taken } => {
                    for message in messages {
                        let payload = String::from_utf8(message.message.payload.to_vec()).unwrap();
                        let _ = direct_in.send(payload).await;
                    }
                    let _ = taken.send(());
                }
                Event::Supersede {
                    client,
                    epoch,
                    gone,
                } => {
                    let _ = supersede.send((client, epoch, gone)).await;
                }
                Event::CloseAll { .. } => {}
            }
        }
    });
    Node {
        cluster,
        delivered,
        dealt,
        direct,
        superseded,
        _dir: dir,
        config,
        runtime: None,
    }
}

pub(crate) fn client(id: &str) -> ClientId {
    ClientId(Text::try_from(id).unwrap())
}

pub(crate) fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: None,
    }
}

pub(crate) const fn head(client: &ClientId, epoch: Epoch) -> PublishHead<'_> {
    PublishHead {
        client,
        epoch,
        qos: QoS::AtLeastOnce,
        retain: false,
        retain_only: false,
        published_ms: 1,
        dedup: None,
    }
}

pub(crate) async fn publish(node: &Node, topic: &str, payload: &str) -> Submitted {
    let message = message(topic, payload);
    let mut records = BytesMut::new();
    encode_publish(
        &head(&client("publisher"), Epoch(1)),
        &message,
        &mut records,
    );
    let (done, outcome) = oneshot::channel();
    let submission = Submission {
        records: records.freeze(),
        count: 1,
        must_read: false,
        client: client("publisher"),
        done: Box::new(move |outcome| drop(done.send(outcome))),
    };
    let partition = node.cluster.partition_of(&message.topic);
    node.cluster.submit(partition, submission).await.unwrap();
    timeout(PATIENCE, outcome)
        .await
        .expect("answered in time")
        .unwrap()
}

pub(crate) fn committed() -> Submitted {
    Submitted::Committed {
        refused: Vec::new(),
        repeated: Vec::new(),
    }
}

pub(crate) async fn delivered(node: &mut Node, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        let payload = timeout(PATIENCE, node.delivered.recv())
            .await
            .expect("delivered in time")
            .unwrap();
        payloads.push(payload);
    }
    payloads
}

pub(crate) async fn subscribe(node: &Node, filter: &str) {
    let filter = TopicFilter::try_from(filter).unwrap();
    let barrier = node.cluster.watch(&filter).await.unwrap();
    node.cluster.passed(barrier).await.unwrap();
}

/// Stops a node and starts it again, with its data, as another life.
pub(crate) async fn restart(mut node: Node) -> Node {
    node.cluster.stop().await;
    let runtime = node.runtime.take().unwrap();
    let (config, dir) = (
        node.config.clone(),
        std::mem::replace(&mut node._dir, tempfile::tempdir().unwrap()),
    );
    drop(node);
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
    ended.await.unwrap();
    let node = start(dir, config).await;
    let mut readiness = node.cluster.readiness();
    let ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready);
    timeout(PATIENCE, ready)
        .await
        .expect("ready in time")
        .unwrap();
    node
}
