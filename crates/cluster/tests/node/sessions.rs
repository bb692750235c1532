//! Sessions and what connections do with them, on nodes whose broker is the test.

use std::time::Duration;

use bytes::BytesMut;
use magpie_cluster::{Attach, Attached, Detach, Handover, Submission, Submitted};
use magpie_codec::{PacketId, QoS, TopicName};
use magpie_state::{
    Departure, Inflight, PartitionId, Position, PublishHead, Stage, encode_publish,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Node, PATIENCE, client, message, nodes_with};

pub(crate) fn attach(id: &str, session_expiry_s: u32) -> Attach {
    Attach {
        client: client(id),
        clean_start: false,
        session_expiry_s,
        will: None,
        owner: None,
    }
}

pub(crate) fn detach(id: &str, attached: &Attached, is_clean: bool) -> Detach {
    Detach {
        client: client(id),
        epoch: attached.epoch,
        departure: if is_clean {
            Departure::Clean
        } else {
            Departure::Unclean
        },
        session_expiry_s: None,
        last: None,
    }
}

pub(crate) fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub(crate) fn inflight(number: u16, position: Position, qos: QoS, stage: Stage) -> Inflight {
    Inflight {
        packet_id: packet_id(number),
        partition: PartitionId(0),
        position,
        qos,
        stage,
        share: None,
    }
}

/// Detaches, and waits until that is so.
pub(crate) async fn detached(node: &Node, request: Detach) {
    let client = request.client.clone();
    node.cluster.detach(request);
    let gone = async {
        while let Some(session) = node.cluster.session(&client).await.unwrap() {
            if session.attached.is_none() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("detached in time");
}

pub(crate) async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.cluster.stop().await;
    }
}

/// Does something, while a node answers supersessions as a broker that has no such connection any more.
pub(crate) async fn while_gone<T>(node: &mut Node, act: impl Future<Output = T>) -> T {
    while_left(node, None, act).await
}

/// The same, as a broker that has just ended the connection and hands over what it left.
pub(crate) async fn while_left<T>(
    node: &mut Node,
    left: Option<Handover>,
    act: impl Future<Output = T>,
) -> T {
    let mut act = std::pin::pin!(act);
    loop {
        tokio::select! {
            done = &mut act => return done,
            Some((_, _, gone)) = node.superseded.recv() => drop(gone.send(left.clone())),
        }
    }
}

pub(crate) async fn submit(
    node: &Node,
    topic: &str,
    payload: &str,
    head: &PublishHead<'_>,
) -> oneshot::Receiver<Submitted> {
    let message = message(topic, payload);
    let mut records = BytesMut::new();
    encode_publish(head, &message, &mut records);
    let (done, outcome) = oneshot::channel();
    let submission = Submission {
        records: records.freeze(),
        count: 1,
        must_read: head.must_read(),
        client: head.client.clone(),
        done: Box::new(move |outcome| drop(done.send(outcome))),
    };
    let partition = node.cluster.partition_of(&message.topic);
    node.cluster.submit(partition, submission).await.unwrap();
    outcome
}

/// Three partitions, each with its only replica on another node.
pub(crate) async fn separate_nodes(publish_deadline: Duration) -> Vec<Node> {
    nodes_with(3, |config| {
        config.replication_factor = 1;
        config.publish_deadline = publish_deadline;
        // Nobody that stands still is to be taken for dead.
        config.down_after = Duration::from_secs(30);
    })
    .await
}

/// A key of a partition that is led by `node`.
pub(crate) fn key_led_by(node: &Node, prefix: &str) -> String {
    (0..1000)
        .map(|number| format!("{prefix}{number}"))
        .find(|key| {
            let topic = TopicName::try_from(key.as_str()).unwrap();
            node.leads(node.cluster.partition_of(&topic))
        })
        .expect("each node leads a partition")
}
