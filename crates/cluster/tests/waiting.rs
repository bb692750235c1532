//! Messages that wait for sessions: read back by topic, trimmed and kept, over whole nodes in one process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use magpie_cluster::{Cluster, Config, Events, Fetch, Readiness, Submission, Submitted};
use magpie_codec::{Message, QoS, Text, TopicFilter, TopicName};
use magpie_state::{ClientId, Epoch, PartitionId, Position, PublishHead, encode_publish};
use tokio::sync::oneshot;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(120);

struct Node {
    cluster: Cluster,
    config: Config,
    _events: Events,
    dir: tempfile::TempDir,
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn start(dir: tempfile::TempDir, config: Config) -> Node {
    let (cluster, events) = Cluster::start(config.clone()).await.unwrap();
    timeout(PATIENCE, cluster.formed())
        .await
        .expect("formed in time");
    Node {
        cluster,
        config,
        _events: events,
        dir,
    }
}

async fn nodes(count: usize, change: impl Fn(&mut Config)) -> Vec<Node> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let addresses: Vec<String> = (0..count)
        .map(|_| format!("127.0.0.1:{}", free_port()))
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
            node.cluster.stop().await;
            let Node { config, dir, .. } = node;
            // The log's threads end with the last handle.
            tokio::time::sleep(Duration::from_secs(1)).await;
            node = start(dir, config).await;
            ready(&node.cluster).await;
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
