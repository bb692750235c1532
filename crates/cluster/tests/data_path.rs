//! Streams, tails, links and takeovers over whole nodes in one process, through the handle that the broker uses.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_cluster::{
    Attach, Cluster, Config, Direct, DirectOutcome, Event, Handover, Readiness, ShareMember,
    Submission, Submitted,
};
use magpie_codec::{Message, QoS, Text, TopicFilter, TopicName};
use magpie_state::{ClientId, Epoch, PartitionId, PublishHead, encode_publish};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

/// A node whose broker is this test.
struct Node {
    cluster: Cluster,
    config: Config,
    /// Payloads from all tails, with the share members chosen here.
    delivered: mpsc::Receiver<(String, Vec<u64>)>,
    direct: mpsc::Receiver<String>,
    superseded: mpsc::Receiver<(ClientId, Epoch, oneshot::Sender<Option<Handover>>)>,
    _dir: tempfile::TempDir,
    /// Its own, so that a restart leaves nothing of the old life behind.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn nodes(count: usize, direct_filters: &[&str]) -> Vec<Node> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let addresses: Vec<String> = (0..count)
        .map(|_| format!("127.0.0.1:{}", free_port()))
        .collect();
    let started = addresses.iter().enumerate().map(|(number, address)| {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
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
            direct_filters: direct_filters
                .iter()
                .map(|filter| (*filter).to_owned())
                .collect(),
            route_linger: Duration::from_millis(200),
            ..Config::default()
        };
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
            while let Some(batch) = tail.next().await {
                for item in batch.items {
                    let payload = String::from_utf8(item.message.payload.to_vec()).unwrap();
                    let shares = item.shares.iter().map(|(_, member)| member.0).collect();
                    let _ = deliver.send((payload, shares)).await;
                }
                tail.done(batch.index);
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
                Event::TailLost { .. } | Event::CloseAll { .. } => {}
            }
        }
    });
    Node {
        cluster,
        delivered,
        direct,
        superseded,
        _dir: dir,
        config,
        runtime: None,
    }
}

fn client(id: &str) -> ClientId {
    ClientId(Text::try_from(id).unwrap())
}

fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: None,
    }
}

const fn head(client: &ClientId, epoch: Epoch) -> PublishHead<'_> {
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

async fn publish(node: &Node, topic: &str, payload: &str) -> Submitted {
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

fn committed() -> Submitted {
    Submitted::Committed {
        refused: Vec::new(),
        repeated: Vec::new(),
    }
}

async fn delivered(node: &mut Node, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        let (payload, _) = timeout(PATIENCE, node.delivered.recv())
            .await
            .expect("delivered in time")
            .unwrap();
        payloads.push(payload);
    }
    payloads
}

async fn subscribe(node: &Node, filter: &str) {
    let filter = TopicFilter::try_from(filter).unwrap();
    let barrier = node.cluster.watch(&filter).await.unwrap();
    node.cluster.passed(barrier).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_commits_and_delivers_in_order() {
    let mut nodes = nodes(1, &[]).await;
    subscribe(&nodes[0], "chat/#").await;
    for number in 0..200 {
        assert_eq!(
            publish(&nodes[0], "chat/1", &number.to_string()).await,
            committed()
        );
    }
    let got = delivered(&mut nodes[0], 200).await;
    assert_eq!(
        got,
        (0..200)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
    nodes[0].cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_publishes_every_node_delivers() {
    let mut nodes = nodes(3, &[]).await;
    for node in &nodes {
        subscribe(node, "chat/+").await;
    }
    for (from, node) in nodes.iter().enumerate() {
        for number in 0..20 {
            assert_eq!(
                publish(node, "chat/1", &format!("{from}-{number}")).await,
                committed()
            );
        }
    }
    let expected: Vec<String> = (0..3)
        .flat_map(|from| (0..20).map(move |number| format!("{from}-{number}")))
        .collect();
    for node in &mut nodes {
        assert_eq!(delivered(node, 60).await, expected);
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_the_previous_node_or_fences_it() {
    let mut nodes = nodes(3, &[]).await;
    let attach = || Attach {
        client: client("phone"),
        clean_start: true,
        session_expiry_s: 0,
        will: None,
    };
    let first = nodes[0].cluster.attach(attach()).await.unwrap();

    // The previous node confirms.
    let second = {
        let cluster = nodes[1].cluster.clone();
        let attaching = tokio::spawn(async move { cluster.attach(attach()).await.unwrap() });
        let (who, epoch, gone) = timeout(PATIENCE, nodes[0].superseded.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(who, client("phone"));
        assert!(epoch > first.epoch);
        gone.send(None).unwrap();
        let second = attaching.await.unwrap();
        assert_eq!(second.epoch, epoch);
        second
    };

    // The previous node does not: its connection's publishes are refused, everywhere.
    let third = {
        let cluster = nodes[2].cluster.clone();
        let attaching = tokio::spawn(async move { cluster.attach(attach()).await.unwrap() });
        let (_, epoch, held) = timeout(PATIENCE, nodes[1].superseded.recv())
            .await
            .unwrap()
            .unwrap();
        let third = attaching.await.unwrap();
        assert_eq!(third.epoch, epoch);
        std::mem::forget(held);
        third
    };
    for topic in 0..8 {
        let message = message(&format!("chat/{topic}"), "late");
        let mut records = BytesMut::new();
        encode_publish(
            &head(&client("phone"), second.epoch),
            &message,
            &mut records,
        );
        encode_publish(&head(&client("phone"), third.epoch), &message, &mut records);
        let (done, outcome) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = done.send(outcome);
        });
        let partition = nodes[1].cluster.partition_of(&message.topic);
        let submission = Submission {
            records: records.freeze(),
            count: 2,
            must_read: false,
            client: client("phone"),
            done,
        };
        nodes[1]
            .cluster
            .submit(partition, submission)
            .await
            .unwrap();
        assert_eq!(
            outcome.await.unwrap(),
            Submitted::Committed {
                refused: vec![0],
                repeated: Vec::new(),
            }
        );
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_reach_the_nodes_that_have_subscribers() {
    let mut nodes = nodes(3, &["telemetry/#"]).await;
    assert!(
        nodes[0]
            .cluster
            .is_direct(&TopicName::from_static("telemetry/1"))
    );
    assert!(
        !nodes[0]
            .cluster
            .is_direct(&TopicName::from_static("chat/1"))
    );
    subscribe(&nodes[1], "telemetry/#").await;
    let count = 500;
    let mut outcomes = Vec::new();
    for number in 0..count {
        let (done, outcome) = oneshot::channel();
        let direct = Direct {
            publisher: client("sensor"),
            qos: QoS::AtLeastOnce,
            retain: false,
            published_ms: 1,
            message: Arc::new(message("telemetry/1", &number.to_string())),
            plain: true,
            shares: Vec::new(),
        };
        nodes[0].cluster.forward(
            vec![direct],
            Some(Box::new(move |outcome| {
                let _ = done.send(outcome);
            })),
        );
        outcomes.push(outcome);
    }
    for outcome in outcomes {
        assert_eq!(
            timeout(PATIENCE, outcome).await.unwrap().unwrap(),
            DirectOutcome::Received
        );
    }
    for number in 0..count {
        assert_eq!(nodes[1].direct.recv().await.unwrap(), number.to_string());
    }
    assert!(
        nodes[2].direct.try_recv().is_err(),
        "nobody subscribed there"
    );
    for node in &nodes {
        node.cluster.stop().await;
    }
}

/// Stops a node and starts it again, with its data, as another life.
async fn restart(mut node: Node) -> Node {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_goes_on_when_the_other_node_has_started_anew() {
    let mut nodes = nodes(3, &["telemetry/#"]).await;
    for life in 0..2 {
        subscribe(&nodes[1], "telemetry/#").await;
        for number in 0..10 {
            let payload = format!("{life}-{number}");
            let direct = Direct {
                publisher: client("sensor"),
                qos: QoS::AtLeastOnce,
                retain: false,
                published_ms: 1,
                message: Arc::new(message("telemetry/1", &payload)),
                plain: true,
                shares: Vec::new(),
            };
            let (done, outcome) = oneshot::channel();
            let done = Box::new(move |outcome| {
                let _ = done.send(outcome);
            });
            nodes[0].cluster.forward(vec![direct], Some(done));
            let outcome = timeout(PATIENCE, outcome).await.unwrap().unwrap();
            assert_eq!(outcome, DirectOutcome::Received, "{payload}");
            assert_eq!(nodes[1].direct.recv().await.unwrap(), payload);
        }
        if life == 0 {
            let restarted = restart(nodes.remove(1)).await;
            nodes.insert(1, restarted);
        }
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_group_hands_each_message_to_one_member() {
    let mut nodes = nodes(3, &[]).await;
    let filter = TopicFilter::from_static("$share/workers/jobs/+");
    for (number, node) in (0..).zip(&nodes) {
        let barrier = node.cluster.watch(&filter).await.unwrap();
        node.cluster
            .join_share(&filter, ShareMember(number))
            .await
            .unwrap();
        node.cluster.passed(barrier).await.unwrap();
    }
    for number in 0..90 {
        assert_eq!(
            publish(
                &nodes[0],
                &format!("jobs/{}", number % 7),
                &number.to_string()
            )
            .await,
            committed()
        );
    }
    let mut taken = Vec::new();
    for (number, node) in (0..).zip(&mut nodes) {
        let mut mine = 0;
        for _ in 0..90 {
            let (payload, shares) = timeout(PATIENCE, node.delivered.recv())
                .await
                .unwrap()
                .unwrap();
            assert!(shares.iter().all(|member| *member == number));
            mine += shares.len();
            taken.extend(shares.iter().map(|_| payload.clone()));
        }
        assert!(mine > 10, "node {number} got {mine} of 90");
    }
    taken.sort_by_key(|payload| payload.parse::<u32>().unwrap());
    assert_eq!(
        taken,
        (0..90).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    for node in &nodes {
        node.cluster.stop().await;
    }
}
