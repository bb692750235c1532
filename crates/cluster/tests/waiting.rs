//! Messages that wait for sessions: read back by topic, trimmed and kept, over whole nodes in one process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use magpie_cluster::{
    Attach, Cluster, Config, Detach, Events, Fetch, Readiness, Submission, Submitted,
};
use magpie_codec::{Message, QoS, SubscriptionOptions, Text, TopicFilter, TopicName};
use magpie_state::{
    ClientId, Cursor, Epoch, Laggard, PartitionId, Position, PublishHead, Record,
    StoredSubscription, encode_publish,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use ports::free_ports;

#[path = "../../../tests/ports.rs"]
mod ports;

const PATIENCE: Duration = Duration::from_secs(120);

struct Node {
    cluster: Cluster,
    config: Config,
    _events: Events,
    dir: tempfile::TempDir,
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

async fn start(dir: tempfile::TempDir, config: Config) -> Node {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let started = runtime.spawn(async move {
        let (cluster, events) = Cluster::start(config.clone()).await.unwrap();
        timeout(PATIENCE, cluster.formed())
            .await
            .expect("formed in time");
        (cluster, events, config)
    });
    let (cluster, events, config) = started.await.unwrap();
    Node {
        cluster,
        config,
        _events: events,
        dir,
        runtime: Some(runtime),
    }
}

/// Stops a node and starts it again, with its data, as another life.
async fn restart(mut node: Node) -> Node {
    node.cluster.stop().await;
    let runtime = node.runtime.take().unwrap();
    let dir = std::mem::replace(&mut node.dir, tempfile::tempdir().unwrap());
    let config = node.config.clone();
    drop(node);
    let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
    ended.await.unwrap();
    let node = start(dir, config).await;
    ready(&node.cluster).await;
    node
}

async fn nodes(count: usize, change: impl Fn(&mut Config)) -> Vec<Node> {
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
            ..Config::default()
        };
        change(&mut config);
        start(dir, config)
    });
    let nodes = futures::future::join_all(started).await;
    for node in &nodes {
        ready(&node.cluster).await;
    }
    nodes
}

async fn ready(cluster: &Cluster) {
    let mut readiness = cluster.readiness();
    let ready = readiness.wait_for(|readiness| *readiness == Readiness::Ready);
    timeout(PATIENCE, ready)
        .await
        .expect("ready in time")
        .unwrap();
}

/// Publishes messages to one topic each, in batches, and waits until they are committed.
async fn publish(node: &Node, messages: &[(String, String)]) {
    let client = ClientId(Text::from_static("publisher"));
    let mut waiting = Vec::new();
    for batch in messages.chunks(200) {
        let mut by_partition = std::collections::BTreeMap::<PartitionId, (BytesMut, u32)>::new();
        for (topic, payload) in batch {
            let message = Message {
                topic: TopicName::try_from(topic.as_str()).unwrap(),
                payload: Bytes::copy_from_slice(payload.as_bytes()),
                properties: None,
            };
            let head = PublishHead {
                client: &client,
                epoch: Epoch(1),
                qos: QoS::AtLeastOnce,
                retain: false,
                retain_only: false,
                published_ms: 1,
                dedup: None,
            };
            let (records, count) = by_partition
                .entry(node.cluster.partition_of(&message.topic))
                .or_default();
            encode_publish(&head, &message, records);
            *count += 1;
        }
        for (partition, (records, count)) in by_partition {
            let (done, outcome) = oneshot::channel();
            let submission = Submission {
                records: records.freeze(),
                count,
                must_read: false,
                client: client.clone(),
                done: Box::new(move |outcome| drop(done.send(outcome))),
            };
            node.cluster.submit(partition, submission).await.unwrap();
            waiting.push(outcome);
        }
    }
    for outcome in waiting {
        let outcome = timeout(PATIENCE, outcome).await.expect("in time").unwrap();
        assert!(
            matches!(outcome, Submitted::Committed { .. }),
            "{outcome:?}"
        );
    }
}

/// All payloads that wait for a filter, in each partition's order.
async fn fetch_all(cluster: &Cluster, filter: &str, bytes_max: usize) -> Vec<String> {
    let filter = TopicFilter::try_from(filter).unwrap();
    let partitions: Vec<PartitionId> = if filter.is_exact() {
        let topic = TopicName::try_from(filter.as_str()).unwrap();
        vec![cluster.partition_of(&topic)]
    } else {
        (0..cluster.partitions()).map(PartitionId).collect()
    };
    let mut payloads = Vec::new();
    for partition in partitions {
        let mut fetch = Fetch {
            filters: vec![filter.clone()],
            after: Position::START,
            bytes_max,
        };
        loop {
            let fetched = cluster.fetch(partition, &fetch).await.unwrap();
            let is_last = fetched.items.is_empty();
            assert!(fetched.items.is_sorted_by_key(|item| item.position));
            for item in fetched.items {
                assert!(filter.matches(&item.message.topic));
                assert!(item.position > fetch.after && item.position <= fetched.upto);
                payloads.push(String::from_utf8(item.message.payload.to_vec()).unwrap());
            }
            fetch.after = fetched.upto;
            if is_last {
                break;
            }
        }
    }
    payloads
}

fn numbered(count: usize, topics: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|number| (format!("chat/{}/in", number % topics), number.to_string()))
        .collect()
}

fn of_topic(messages: &[(String, String)], topic: &str) -> Vec<String> {
    let of_topic = messages.iter().filter(|(of, _)| of == topic);
    of_topic.map(|(_, payload)| payload.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_what_waits_whether_or_not_it_has_a_replica() {
    // Four nodes, three replicas: each partition is missing on one.
    let nodes = nodes(4, |_| {}).await;
    let messages = numbered(3000, 17);
    publish(&nodes[0], &messages).await;
    let mut all: Vec<String> = messages
        .iter()
        .map(|(_, payload)| payload.clone())
        .collect();
    all.sort_unstable();
    for node in &nodes {
        for topic in 0..17 {
            let topic = format!("chat/{topic}/in");
            // A replica may lag behind what is committed.
            let expected = of_topic(&messages, &topic);
            let deadline = Instant::now() + PATIENCE;
            loop {
                let got = fetch_all(&node.cluster, &topic, 700).await;
                if got == expected {
                    break;
                }
                assert!(
                    expected.starts_with(&got) && Instant::now() < deadline,
                    "{topic}"
                );
            }
        }
        let mut got = fetch_all(&node.cluster, "chat/+/in", 1 << 20).await;
        got.sort_unstable();
        assert!(got == all);
        assert_eq!(
            fetch_all(&node.cluster, "other/#", 1 << 20).await,
            Vec::<String>::new()
        );
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

/// `cargo test --release -p magpie-cluster --test waiting -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_reading_back() {
    for from_disk in [false, true] {
        let mut node = nodes(1, |config| config.partitions = 8).await.remove(0);
        let (sessions, each) = (200, 500);
        let payload = "x".repeat(200);
        let messages: Vec<(String, String)> = (0..sessions * each)
            .map(|number| {
                (
                    format!("chat/user/{}/in", number % sessions),
                    payload.clone(),
                )
            })
            .collect();
        publish(&node, &messages).await;
        if from_disk {
            node = restart(node).await;
        }
        for (what, filter, bytes_max) in [
            ("exact", "chat/user/{}/in", 64 << 10),
            ("wildcard", "chat/user/{}/#", 64 << 10),
            ("exact, 16 KiB at once", "chat/user/{}/in", 16 << 10),
        ] {
            let start = Instant::now();
            let cluster = Arc::new(node.cluster.clone());
            let readers = (0..sessions).map(|session| {
                let cluster = Arc::clone(&cluster);
                let filter = filter.replace("{}", &session.to_string());
                tokio::spawn(async move { fetch_all(&cluster, &filter, bytes_max).await.len() })
            });
            let got: Vec<usize> = futures::future::join_all(readers)
                .await
                .into_iter()
                .map(|got| got.unwrap())
                .collect();
            assert!(got.iter().all(|got| *got == each), "{got:?}");
            let elapsed = start.elapsed();
            let rate = (sessions * each) as f64 / elapsed.as_secs_f64();
            println!("from disk: {from_disk}, {what}: {rate:.0} messages/s ({elapsed:?})");
        }
        node.cluster.stop().await;
    }
}

/// A client that reads what waits for it, a few messages at a time, as a broker would.
struct Session {
    client: ClientId,
    epoch: Epoch,
    filters: Vec<(TopicFilter, Vec<Position>)>,
    floors: Vec<Position>,
    /// What it must get still, by partition.
    expected: Vec<std::collections::VecDeque<String>>,
}

impl Session {
    async fn attach(cluster: &Cluster, id: &str) -> Self {
        let client = ClientId(Text::try_from(id).unwrap());
        let attach = Attach {
            client: client.clone(),
            clean_start: false,
            session_expiry_s: u32::MAX,
            will: None,
            owner: None,
        };
        let attached = cluster.attach(attach).await.unwrap();
        let partitions = usize::from(cluster.partitions());
        Self {
            client,
            epoch: attached.epoch,
            filters: Vec::new(),
            floors: vec![Position::START; partitions],
            expected: vec![Default::default(); partitions],
        }
    }

    /// From now on: what the cluster of one has applied is what a subscription must not see.
    async fn subscribe(&mut self, cluster: &Cluster, filter: &str) {
        let filter = TopicFilter::try_from(filter).unwrap();
        let mut since = Vec::new();
        for partition in (0..cluster.partitions()).map(PartitionId) {
            since.push((partition, applied(cluster, partition).await));
        }
        let positions = since.iter().map(|(_, position)| *position).collect();
        if filter.is_exact() {
            let topic = TopicName::try_from(filter.as_str()).unwrap();
            let of = cluster.partition_of(&topic);
            since.retain(|(partition, _)| *partition == of);
        }
        let subscription = StoredSubscription {
            filter: filter.clone(),
            options: SubscriptionOptions {
                qos: QoS::AtLeastOnce,
                ..SubscriptionOptions::default()
            },
            id: None,
            since,
        };
        let record = Record::Subscribe {
            client: self.client.clone(),
            epoch: self.epoch,
            subscriptions: vec![subscription],
        };
        assert!(cluster.commit(&self.client, record).await.unwrap());
        if self.filters.iter().all(|(known, _)| *known != filter) {
            self.filters.push((filter, positions));
        }
    }

    fn published(&mut self, cluster: &Cluster, topic: &str, payload: &str) {
        let topic = TopicName::try_from(topic).unwrap();
        if self
            .filters
            .iter()
            .any(|(filter, _)| filter.matches(&topic))
        {
            let partition = usize::from(cluster.partition_of(&topic).0);
            self.expected[partition].push_back(payload.to_owned());
        }
    }

    /// Reads up to so many messages of each partition, and tells how far it got. Panics if one is missing.
    async fn read(&mut self, cluster: &Cluster, at_most: usize) {
        for partition in 0..cluster.partitions() {
            let at = usize::from(partition);
            let mut left = at_most;
            while left > 0 && !self.filters.is_empty() {
                let fetch = Fetch {
                    filters: self.filters.iter().map(|(f, _)| f.clone()).collect(),
                    after: self.floors[at],
                    bytes_max: 30_000,
                };
                let fetched = cluster.fetch(PartitionId(partition), &fetch).await.unwrap();
                assert_eq!(fetched.lost, 0);
                let count = fetched.items.len();
                for item in fetched.items.into_iter().take(left) {
                    self.floors[at] = item.position;
                    let topic = &item.message.topic;
                    let is_mine = self
                        .filters
                        .iter()
                        .any(|(filter, since)| filter.matches(topic) && item.position > since[at]);
                    if is_mine {
                        left -= 1;
                        let expected = self.expected[at].pop_front();
                        assert_eq!(
                            expected.as_deref().map(str::as_bytes),
                            Some(&item.message.payload[..])
                        );
                    }
                }
                if count == 0 {
                    assert_eq!(self.expected[at], Vec::<String>::new(), "missing");
                    break;
                }
            }
        }
        let progress = (0..).zip(&self.floors).map(|(partition, floor)| Cursor {
            partition: PartitionId(partition),
            floor: *floor,
            done: Vec::new(),
        });
        let laggard = Laggard {
            client: self.client.clone(),
            epoch: self.epoch,
            progress: progress.collect(),
        };
        let record = Record::Progress {
            floors: Vec::new(),
            laggards: vec![laggard],
            joined: Vec::new(),
        };
        let partition = cluster.session_partition(&self.client);
        cluster.report_progress(partition, record).await.unwrap();
    }

    fn end(&self, cluster: &Cluster) {
        cluster.detach(Detach {
            client: self.client.clone(),
            epoch: self.epoch,
            departure: magpie_state::Departure::Clean,
            session_expiry_s: Some(0),
            last: None,
        });
    }
}

/// Where the only replica of a partition stands.
async fn applied(cluster: &Cluster, partition: PartitionId) -> Position {
    let fetch = Fetch {
        filters: vec![TopicFilter::from_static("no/such/topic")],
        after: Position::START,
        bytes_max: 0,
    };
    cluster.fetch(partition, &fetch).await.unwrap().upto
}

/// Trims and purges as fast as it can.
fn hasty(config: &mut Config) {
    config.log_retain = Duration::from_millis(100);
    config.log_retain_bytes = 4096;
}

fn big(number: usize, topic: String) -> (String, String) {
    (topic, format!("{number} {}", "x".repeat(3000)))
}

/// Waits until all that is left of a topic that nobody needs are some of its last messages.
async fn trimmed(cluster: &Cluster, topic: &str, at_most: usize) {
    let deadline = Instant::now() + PATIENCE;
    while fetch_all(cluster, topic, 1 << 20).await.len() > at_most {
        assert!(Instant::now() < deadline, "{topic} is never trimmed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_needs_outlives_the_log_and_goes_when_it_is_read() {
    let mut nodes = nodes(3, hasty).await;
    let mut away = Session::attach(&nodes[0].cluster, "away").await;
    away.subscribe(&nodes[0].cluster, "chat/1/in").await;
    away.subscribe(&nodes[0].cluster, "chat/+/urgent").await;
    let messages: Vec<(String, String)> = (0..3000)
        .map(|number| match number % 30 {
            0 => big(number, String::from("chat/9/urgent")),
            _ => big(number, format!("chat/{}/in", number % 7)),
        })
        .collect();
    publish(&nodes[1], &messages).await;
    // The marks of the log are coarse: what was written last stays until more comes.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    publish(&nodes[1], &numbered(70, 7)).await;
    for topic in [0, 2, 3, 4, 5, 6] {
        trimmed(&nodes[2].cluster, &format!("chat/{topic}/in"), 100).await;
    }
    let mine = of_topic(&messages, "chat/1/in");
    let urgent = of_topic(&messages, "chat/9/urgent");
    for round in 0..2 {
        for node in &nodes {
            let got = fetch_all(&node.cluster, "chat/1/in", 100_000).await;
            assert!(
                got.starts_with(&mine),
                "round {round}: {} of {}",
                got.len(),
                mine.len()
            );
            let got = fetch_all(&node.cluster, "chat/+/urgent", 100_000).await;
            assert!(got == urgent);
        }
        if round == 0 {
            for number in 0..3 {
                let restarted = restart(nodes.remove(number)).await;
                nodes.insert(number, restarted);
            }
        }
    }
    // It comes back, reads, and then nobody needs them.
    let mut back = Session::attach(&nodes[2].cluster, "away").await;
    back.filters.clone_from(&away.filters);
    for (number, floor) in back.floors.iter_mut().enumerate() {
        *floor = applied(&nodes[2].cluster, PartitionId(number as u16)).await;
    }
    back.read(&nodes[2].cluster, 1).await;
    for node in &nodes {
        trimmed(&node.cluster, "chat/1/in", 10).await;
        trimmed(&node.cluster, "chat/9/urgent", 0).await;
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_session_needs_is_dropped() {
    let mut node = nodes(1, hasty).await.remove(0);
    let mut seed = 0x1234_5678_u64;
    let mut chance = move |end: usize| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (seed >> 33) as usize % end
    };
    let filters = ["chat/1/in", "chat/+/in", "chat/2/in", "chat/#", "chat/3/in"];
    let mut sessions: Vec<Session> = Vec::new();
    let (mut number, mut born) = (0, 0);
    for _ in 0..400 {
        let cluster = node.cluster.clone();
        match chance(14) {
            0 if sessions.len() < 6 => {
                sessions.push(Session::attach(&cluster, &format!("client-{born}")).await);
                born += 1;
            }
            1 | 2 if !sessions.is_empty() => {
                let at = chance(sessions.len());
                let filter = filters[chance(5)];
                sessions[at].subscribe(&cluster, filter).await;
            }
            3 if chance(4) == 0 && !sessions.is_empty() => {
                let at = chance(sessions.len());
                sessions.swap_remove(at).end(&cluster);
            }
            4..=6 if !sessions.is_empty() => {
                let at = chance(sessions.len());
                sessions[at].read(&cluster, 1 + chance(60)).await;
            }
            7 => tokio::time::sleep(Duration::from_millis(chance(150) as u64)).await,
            8 if chance(12) == 0 => {
                // The sessions have lost their connections, not themselves.
                drop(cluster);
                node = restart(node).await;
                for session in &mut sessions {
                    let again = Session::attach(&node.cluster, &session.client.0).await;
                    session.epoch = again.epoch;
                }
            }
            _ => {
                let messages: Vec<(String, String)> = (0..=chance(60))
                    .map(|at| big(number + at, format!("chat/{}/in", chance(6))))
                    .collect();
                number += messages.len();
                publish(&node, &messages).await;
                for session in &mut sessions {
                    for (topic, payload) in &messages {
                        session.published(&cluster, topic, payload);
                    }
                }
            }
        }
    }
    for session in &mut sessions {
        session.read(&node.cluster, usize::MAX).await;
    }
    println!("{number} messages, {born} sessions");
    node.cluster.stop().await;
}
