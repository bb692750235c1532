//! Durable sessions over whole nodes in one process: their wills, reading them from any node, and what partitions do to each other for them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::time::{Duration, Instant};

use magpie_cluster::{Attach, Error};
use magpie_codec::{QoS, Text, TopicFilter, TopicName, Will};
use magpie_state::{ClientId, Epoch, PartitionId, PublishHead, StoredWill};
use tokio::time::{sleep, timeout};

use node::sessions::{attach, detach, detached, separate_nodes, stop, submit, while_gone};
use node::{
    Node, PATIENCE, client, committed, delivered, head, nodes, nodes_with, restart, subscribe,
};

fn with_will(attach: Attach, topic: &str, delay_interval_s: u32) -> Attach {
    let will = Will {
        topic: TopicName::try_from(topic).unwrap(),
        payload: topic.to_owned().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_s,
        properties: None,
    };
    Attach {
        will: Some(Box::new(StoredWill {
            will,
            publish_ms: 1,
        })),
        ..attach
    }
}

/// How often each payload arrives until `count` have, and for a while after that.
async fn arrivals(node: &mut Node, count: usize) -> Vec<String> {
    let mut arrived = delivered(node, count).await;
    while let Ok(Some(payload)) = timeout(Duration::from_secs(3), node.delivered.recv()).await {
        arrived.push(payload);
    }
    arrived.sort();
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_is_published_once_by_takeover_death_or_when_its_delay_is_over() {
    let mut nodes = nodes(3, &[]).await;
    subscribe(&nodes[2], "will/#").await;

    // Taken over: of a connection that ended without DISCONNECT.
    let first = with_will(attach("phone", 3600), "will/taken-over", 0);
    nodes[0].cluster.attach(first).await.unwrap();
    let second = with_will(attach("phone", 3600), "will/resumed", 2);
    let cluster = nodes[1].cluster.clone();
    let attaching = cluster.attach(second.clone());
    let second_attached = while_gone(&mut nodes[0], attaching).await.unwrap();
    assert_eq!(arrivals(&mut nodes[2], 1).await, ["will/taken-over"]);

    // Resumed in time, and then not.
    detached(&nodes[1], detach("phone", &second_attached, false)).await;
    let resumed = nodes[1].cluster.attach(second).await.unwrap();
    assert!(resumed.session.is_some());
    let quiet = timeout(Duration::from_secs(5), nodes[2].delivered.recv()).await;
    assert!(
        quiet.is_err(),
        "the will of a resumed session was published"
    );
    let gone = Instant::now();
    detached(&nodes[1], detach("phone", &resumed, false)).await;
    assert_eq!(delivered(&mut nodes[2], 1).await, ["will/resumed"]);
    assert!(gone.elapsed() >= Duration::from_secs(2), "never early");
    assert_eq!(arrivals(&mut nodes[2], 0).await, Vec::<String>::new());

    // The node dies.
    let dies = with_will(attach("phone", 3600), "will/node-died", 0);
    nodes[0].cluster.attach(dies).await.unwrap();
    drop(nodes.remove(0));
    assert_eq!(arrivals(&mut nodes[1], 1).await, ["will/node-died"]);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outboxes_lose_and_double_nothing_while_leaders_change() {
    const CLIENTS: usize = 300;
    let mut nodes = nodes(3, &[]).await;
    subscribe(&nodes[0], "will/#").await;
    let attaching = (0..CLIENTS).map(|number| {
        let attach = attach(&format!("phone-{number}"), 0);
        let attach = with_will(attach, &format!("will/{number:03}"), 0);
        nodes[0].cluster.attach(attach)
    });
    let attached = futures::future::join_all(attaching).await;
    for round in 0..3 {
        for number in (0..CLIENTS).filter(|number| number % 3 == round) {
            let attached = attached[number].as_ref().unwrap();
            let id = format!("phone-{number}");
            nodes[0].cluster.detach(detach(&id, attached, false));
        }
        // Every leader goes once, in the middle of it.
        if round < 2 {
            let restarted = restart(nodes.remove(1)).await;
            nodes.push(restarted);
        }
    }
    let arrived = arrivals(&mut nodes[0], CLIENTS).await;
    let expected: Vec<_> = (0..CLIENTS)
        .map(|number| format!("will/{number:03}"))
        .collect();
    assert_eq!(arrived, expected);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_retained_messages_are_read_from_nodes_without_a_replica() {
    let nodes = separate_nodes(Duration::from_secs(10)).await;
    let publisher = client("publisher");
    for number in 0..300 {
        let head = PublishHead {
            retain: true,
            ..head(&publisher, Epoch(1))
        };
        let topic = format!("state/{number:03}");
        let outcome = submit(&nodes[0], &topic, "on", &head).await;
        assert_eq!(outcome.await.unwrap(), committed());
    }
    let cleared = TopicName::from_static("state/007");
    nodes[1].cluster.clear_retained(&cleared).await.unwrap();
    let filter = TopicFilter::from_static("state/#");
    for node in &nodes {
        let mut topics = Vec::new();
        for partition in 0..3 {
            let mut after = None;
            loop {
                let page =
                    node.cluster
                        .retained(PartitionId(partition), &filter, 1, after.as_ref());
                let page = page.await.unwrap();
                assert!(page.items.iter().all(|item| item.retain));
                let items = page.items.iter();
                topics.extend(items.map(|item| item.message.topic.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        topics.sort();
        assert_eq!(topics.len(), 299);
        assert!(!topics.contains(&cleared.to_string()));
        let (list, more) = node
            .cluster
            .retained_list(&filter, Some(&cleared), 10)
            .await
            .unwrap();
        assert_eq!((list.len(), more), (10, true));
        assert_eq!(list[0].message.topic.as_str(), "state/008");
    }

    let ids: Vec<String> = (0..10).map(|number| format!("phone-{number}")).collect();
    for id in &ids {
        let attached = nodes[0].cluster.attach(attach(id, 3600)).await.unwrap();
        detached(&nodes[0], detach(id, &attached, true)).await;
        let resumed = nodes[2].cluster.attach(attach(id, 3600)).await.unwrap();
        assert_eq!(resumed.incarnation, attached.epoch);
        detached(&nodes[2], detach(id, &resumed, true)).await;
    }
    for node in &nodes {
        let after = ClientId(client(&ids[3]).0);
        let listed = node.cluster.sessions(Some(&after), 4).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|it| it.client.to_string()).collect();
        assert_eq!(listed, ["phone-4", "phone-5", "phone-6", "phone-7"]);
    }
    assert!(
        nodes[1]
            .cluster
            .end_session(&client("phone-4"))
            .await
            .unwrap()
    );
    let gone = async {
        let (cluster, phone) = (&nodes[0].cluster, client("phone-4"));
        while cluster.session(&phone).await.unwrap().is_some() {
            sleep(Duration::from_millis(20)).await;
        }
        assert!(!cluster.end_session(&phone).await.unwrap());
    };
    timeout(PATIENCE, gone).await.expect("ended in time");
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_no_more_sessions_than_one_may_have_on_all_nodes() {
    let nodes = nodes_with(2, |config| config.user_sessions_max = 4).await;
    let of = |owner: &str, number: usize, session_expiry_s| Attach {
        owner: Some(Text::try_from(owner.to_owned()).unwrap()),
        ..attach(&format!("{owner}-{number}"), session_expiry_s)
    };
    let (mut admitted, mut refused) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let node = &nodes[number % 2];
        let expiry_s = if number % 3 == 0 { 0 } else { 60 };
        match node.cluster.attach(of("ann", number, expiry_s)).await {
            Ok(_) => admitted.push(number),
            Err(error) => {
                assert!(matches!(error, Error::Full(_)), "{error}");
                refused.push(number);
            }
        }
    }
    // A partition that has no more than its share asks nobody: three of one each may come on top of the others.
    assert!((4..=6).contains(&admitted.len()), "{admitted:?}");
    assert_eq!(admitted[..4], [0, 1, 2, 3], "nobody with fewer is refused");
    for number in refused {
        let gone = async {
            let client = client(&format!("ann-{number}"));
            while nodes[0].cluster.session(&client).await.unwrap().is_some() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("ended again");
    }
    // Others have theirs, and who has a session goes on with it, on another node.
    nodes[0].cluster.attach(of("bob", 0, 60)).await.unwrap();
    nodes[1]
        .cluster
        .attach(attach("anybody", 60))
        .await
        .unwrap();
    nodes[0].cluster.attach(of("ann", 1, 60)).await.unwrap();
    stop(&nodes).await;
}
