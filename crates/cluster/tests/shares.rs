//! Share groups whose members are on several nodes, come, go, and die.
#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use magpie_cluster::{DealtMessage, ShareMember};
use magpie_codec::{QoS, TopicFilter};
use magpie_state::{Epoch, PartitionId, Record, ShareSession};
use tokio::time::timeout;

use node::{Node, PATIENCE, client, committed, nodes, nodes_with, publish};

const JOBS: &str = "$share/workers/jobs/+";

async fn join(node: &Node, member: u64, session: Option<ShareSession>) {
    let qos = QoS::ExactlyOnce;
    let filter = TopicFilter::from_static(JOBS);
    let member = ShareMember(member);
    let joined = node.cluster.join_share(&filter, member, qos, session);
    joined.await.unwrap();
}

fn session(id: &str, epoch: u64) -> Option<ShareSession> {
    Some(ShareSession {
        client: client(id),
        session: Epoch(1),
        epoch: Epoch(epoch),
    })
}

async fn publish_jobs(node: &Node, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let topic = format!("jobs/{}", number % 7);
        assert_eq!(
            publish(node, &topic, &number.to_string()).await,
            committed()
        );
    }
}

/// What was dealt to a member of a node next.
async fn dealt(node: &mut Node) -> (PartitionId, DealtMessage) {
    let dealt = timeout(PATIENCE, node.dealt.recv()).await;
    dealt.expect("dealt in time").unwrap()
}

fn payload(message: &DealtMessage) -> u32 {
    let item = message.message.as_ref().unwrap();
    std::str::from_utf8(&item.message.payload)
        .unwrap()
        .parse()
        .unwrap()
}

async fn done(node: &Node, partition: PartitionId, message: &DealtMessage) {
    let done = vec![(message.dealt.membership, vec![message.dealt.position])];
    let record = [Record::ShareDone { done }];
    node.cluster
        .commit_shares(partition, &record)
        .await
        .unwrap();
}

async fn part(node: &Node, member: u64) {
    let record = [Record::PartShare {
        member,
        sent: Some(Vec::new()),
    }];
    for partition in (0..node.cluster.partitions()).map(PartitionId) {
        node.cluster
            .commit_shares(partition, &record)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_is_dealt_to_one_member_and_again_when_that_one_goes() {
    let mut nodes = nodes(3, &[]).await;
    for (number, node) in (0..).zip(&nodes) {
        join(node, number, None).await;
    }
    publish_jobs(&nodes[0], 0..90).await;
    let mut got = BTreeMap::new();
    for (number, node) in (0..).zip(&mut nodes) {
        for _ in 0..10 {
            let (partition, message) = dealt(node).await;
            assert_eq!(
                (message.dealt.member, message.dealt.qos),
                (number, QoS::AtLeastOnce)
            );
            assert!(
                got.insert(payload(&message), number).is_none(),
                "dealt once"
            );
            done(node, partition, &message).await;
        }
    }
    // The first leaves in order, the second's node dies: the third gets what they had and were not done with.
    part(&nodes[0], 0).await;
    nodes[1].cluster.stop().await;
    while got.len() < 90 {
        let (partition, message) = dealt(&mut nodes[2]).await;
        got.entry(payload(&message)).or_insert(2);
        done(&nodes[2], partition, &message).await;
    }
    assert_eq!(
        got.into_keys().collect::<Vec<_>>(),
        (0..90).collect::<Vec<_>>()
    );
    for node in [&nodes[0], &nodes[2]] {
        node.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_a_session_and_its_window_bounds_what_it_has() {
    // One without a replica of each partition.
    let mut nodes = nodes_with(4, |config| {
        config.share_window = 5;
        config.log_retain = Duration::from_secs(1);
        config.log_retain_bytes = 1;
    })
    .await;
    join(&nodes[0], 1, session("worker", 1)).await;
    part(&nodes[0], 1).await;
    publish_jobs(&nodes[0], 0..60).await;
    // Long enough for the log to be trimmed.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(nodes[0].dealt.try_recv().is_err(), "nobody is there");
    let mut seen = BTreeSet::new();
    let mut open = Vec::new();
    join(&nodes[3], 7, session("worker", 2)).await;
    let partitions = usize::from(nodes[3].cluster.partitions());
    for _ in 0..5 * partitions {
        let next = dealt(&mut nodes[3]).await;
        assert_eq!(next.1.dealt.member, 7);
        open.push(next);
    }
    let more = timeout(Duration::from_secs(3), nodes[3].dealt.recv()).await;
    assert!(more.is_err(), "a window for each partition");
    while seen.len() < 60 {
        let (partition, message) = match open.pop() {
            Some(next) => next,
            None => dealt(&mut nodes[3]).await,
        };
        assert!(seen.insert(payload(&message)), "dealt once");
        done(&nodes[3], partition, &message).await;
    }
    for node in &nodes {
        node.cluster.stop().await;
    }
}
