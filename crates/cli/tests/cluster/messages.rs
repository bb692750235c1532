//! Where publisher and subscriber are connected makes no difference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use magpie_client::{Client, Incoming};
use magpie_codec::{ProtocolVersion, QoS};
use tokio::time::timeout;

use super::nodes::{Cluster, Node, PATIENCE};

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V3_1_1, ProtocolVersion::V5];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
/// What messages of [`reached`] begin with.
const PROBE: &str = "probe";

#[tokio::test(flavor = "multi_thread")]
async fn every_pair_of_nodes_in_every_way() {
    let cluster = Cluster::start().await;
    let filters = ["pairs/exact", "pairs/plus/+/end", "pairs/hash/#"];
    let topics = ["pairs/exact", "pairs/plus/any/end", "pairs/hash/a/b"];
    let mut subscribers = Vec::new();
    for version in VERSIONS {
        for node in &cluster.nodes {
            let client = node.client(version).await;
            for filter in filters {
                assert_eq!(
                    client.subscribe(filter, QoS::ExactlyOnce).await.unwrap(),
                    QoS::ExactlyOnce
                );
            }
            subscribers.push(client);
        }
    }
    reached(&cluster.nodes, &topics, &mut subscribers).await;

    let mut expected = BTreeMap::new();
    for version in VERSIONS {
        for (number, node) in cluster.nodes.iter().enumerate() {
            let client = node.client(version).await;
            for topic in topics {
                for qos in QOS {
                    let payload = format!("{version:?} on {number}, {qos:?}");
                    client
                        .publish(topic, payload.clone(), qos, false, None)
                        .await
                        .unwrap();
                    *expected
                        .entry((topic.to_owned(), payload, qos as u8))
                        .or_insert(0) += 1;
                }
            }
            client.disconnect().await.unwrap();
        }
    }
    for mut subscriber in subscribers {
        let mut got = BTreeMap::new();
        for message in take(&mut subscriber, expected.len()).await {
            *got.entry((message.topic.to_string(), text(&message), message.qos as u8))
                .or_insert(0) += 1;
        }
        assert_eq!(got, expected);
        while let Some(more) = subscriber.try_next() {
            assert!(is_probe(&more), "{more:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pipelined_arrive_in_order() {
    let cluster = Cluster::start().await;
    for version in VERSIONS {
        for qos in QOS {
            let mut subscriber = cluster.nodes[2].client(version).await;
            let topic = format!("order/{version:?}/{qos:?}");
            subscriber.subscribe(topic.as_str(), qos).await.unwrap();
            if qos == QoS::AtMostOnce {
                let subscriber = std::slice::from_mut(&mut subscriber);
                reached(&cluster.nodes[..1], &[&topic], subscriber).await;
            }
            let publisher = cluster.nodes[0].client(version).await;
            let mut pending = Vec::new();
            for number in 0..1000 {
                let sent =
                    publisher.publish_queued(topic.as_str(), number.to_string(), qos, false, None);
                pending.push(sent.await.unwrap());
            }
            for sent in pending {
                assert!(!sent.outcome().await.unwrap().is_error());
            }
            let got: Vec<String> = take(&mut subscriber, 1000).await.iter().map(text).collect();
            let expected: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
            assert_eq!(got, expected, "{topic}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_payloads_arrive_whole() {
    let cluster = Cluster::start().await;
    let payload: Bytes = (0..250_000_u32)
        .map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let mut subscribers = Vec::new();
    for node in &cluster.nodes {
        let client = node.client(ProtocolVersion::V5).await;
        client.subscribe("large/#", QoS::ExactlyOnce).await.unwrap();
        subscribers.push(client);
    }
    let topics = ["large/0", "large/1", "large/2"];
    reached(&cluster.nodes, &topics, &mut subscribers).await;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let publisher = node.client(ProtocolVersion::V5).await;
        for qos in QOS {
            publisher
                .publish(format!("large/{number}"), payload.clone(), qos, false, None)
                .await
                .unwrap();
        }
        for subscriber in &mut subscribers {
            for message in take(subscriber, 3).await {
                assert!(
                    message.payload == payload,
                    "the payload of {} changed",
                    message.topic
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_group_gets_each_message_once() {
    let cluster = Cluster::start().await;
    for qos in QOS {
        let mut members = Vec::new();
        for node in &cluster.nodes {
            let client = node.client(ProtocolVersion::V5).await;
            client
                .subscribe(format!("$share/group/jobs/{qos:?}/+"), qos)
                .await
                .unwrap();
            members.push(client);
        }
        let topic = format!("jobs/{qos:?}/x");
        if qos == QoS::AtMostOnce {
            reached(&cluster.nodes, &[&topic], &mut members).await;
        }
        let mut publishers = Vec::new();
        for node in &cluster.nodes {
            publishers.push(node.client(ProtocolVersion::V3_1_1).await);
        }
        for number in 0..300 {
            let publisher = &publishers[number % 3];
            publisher
                .publish(topic.as_str(), number.to_string(), qos, false, None)
                .await
                .unwrap();
        }
        let mut got = Vec::new();
        let started = Instant::now();
        // All of them, and then what comes twice.
        for patience in [Duration::from_millis(50), Duration::from_secs(1)] {
            loop {
                for member in &mut members {
                    while let Ok(message) = timeout(patience, member.next()).await {
                        let message = message.unwrap();
                        if !is_probe(&message) {
                            got.push(text(&message).parse::<u32>().unwrap());
                        }
                    }
                }
                if got.len() >= 300 {
                    break;
                }
                assert!(started.elapsed() < PATIENCE, "{} of 300", got.len());
            }
        }
        got.sort_unstable();
        assert_eq!(got, (0..300).collect::<Vec<_>>(), "{qos:?}");
    }
}

/// P2: what is published after the SUBACK is delivered, whatever the filter and the nodes.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_that_is_published_right_after_the_suback() {
    let cluster = Cluster::start().await;
    let mut subscribers = Vec::new();
    let mut publishers = Vec::new();
    for node in &cluster.nodes {
        subscribers.push(node.client(ProtocolVersion::V5).await);
        publishers.push(node.client(ProtocolVersion::V5).await);
    }
    for round in 0..1000 {
        let topic = format!("rounds/{round}/x");
        let filter = match round % 3 {
            0 => topic.clone(),
            1 => format!("rounds/{round}/#"),
            _ => format!("+/{round}/x"),
        };
        let subscriber = &mut subscribers[round / 3 % 3];
        subscriber
            .subscribe(filter.as_str(), QoS::AtLeastOnce)
            .await
            .unwrap();
        let qos = QOS[1 + round % 2];
        publishers[round / 9 % 3]
            .publish(topic.as_str(), "x", qos, false, None)
            .await
            .unwrap();
        let got = take(subscriber, 1).await;
        assert_eq!(got[0].topic.to_string(), topic);
        subscriber
            .unsubscribe(vec![filter.as_str().try_into().unwrap()])
            .await
            .unwrap();
    }
}

/// QoS 0 promises nothing until the nodes know of a subscription: publishes on each node until each of these has heard of it.
async fn reached(nodes: &[Node], topics: &[&str], subscribers: &mut [Client]) {
    for (number, node) in nodes.iter().enumerate() {
        let publisher = node.client(ProtocolVersion::V5).await;
        for topic in topics {
            let probe = format!("{PROBE} of {number} for {topic}");
            for subscriber in &mut *subscribers {
                let heard = hear(&publisher, topic, &probe, subscriber);
                timeout(PATIENCE, heard).await.expect("the route is known");
            }
        }
    }
}

async fn hear(publisher: &Client, topic: &str, probe: &str, subscriber: &mut Client) {
    loop {
        let sent = publisher.publish(topic, probe.to_owned(), QoS::AtMostOnce, false, None);
        sent.await.unwrap();
        while let Ok(message) = timeout(Duration::from_millis(200), subscriber.next()).await {
            if text(&message.unwrap()) == probe {
                return;
            }
        }
    }
}

fn is_probe(message: &Incoming) -> bool {
    message.payload.starts_with(PROBE.as_bytes())
}

/// So many messages, in the order of their arrival, without probes.
async fn take(client: &mut Client, count: usize) -> Vec<Incoming> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = timeout(PATIENCE, client.next()).await;
        let message = next.unwrap_or_else(|_| panic!("{} of {count} messages", taken.len()));
        taken.extend(Some(message.unwrap()).filter(|message| !is_probe(message)));
    }
    taken
}

fn text(message: &Incoming) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}
