//! Sessions that go from one node to another: what the previous node hands over, and how its connection is kept out.
#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use magpie_cluster::{Attach, Detach, Handover, Submission, Submitted};
use magpie_codec::{QoS, SubscriptionOptions, TopicFilter};
use magpie_state::{
    Binding, Cursor, Laggard, PartitionId, Position, Record, SessionProgress, Stage,
    StoredSubscription, encode_publish,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use node::sessions::{
    attach, detach, detached, inflight, key_led_by, packet_id, separate_nodes, stop, submit,
    while_gone, while_left,
};
use node::{
    Node, PATIENCE, client, committed, delivered, head, message, nodes, publish, subscribe,
};

/// How long an attach waits for the previous node.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_for_the_previous_node_or_fences_it() {
    let mut nodes = nodes(3, &[]).await;
    let attach = || Attach {
        clean_start: true,
        ..attach("phone", 0)
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
        // On a slow machine it comes too late: then the connection is fenced instead.
        let _ = gone.send(None);
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

/// A client whose partition is led by this node. One that started late leads something a moment after it is ready.
async fn client_led_by(node: &Node) -> String {
    let finding = async {
        loop {
            let mut ids = (0..1000).map(|number| format!("phone-{number}"));
            let led = ids.find(|id| node.leads(node.cluster.session_partition(&client(id))));
            if let Some(id) = led {
                break id;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let found = timeout(PATIENCE, finding).await;
    found.expect("a node of a small cluster leads something")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_its_leader_and_is_handed_over() {
    let mut nodes = nodes(3, &[]).await;
    let id = client_led_by(&nodes[1]).await;
    let phone = client(&id);
    let first = nodes[0].cluster.attach(attach(&id, 3600)).await.unwrap();
    assert!(first.session.is_none());
    assert_eq!(first.incarnation, first.epoch);

    let subscription = StoredSubscription {
        filter: TopicFilter::from_static("chat/+"),
        options: SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            ..SubscriptionOptions::default()
        },
        id: Some(7),
        since: vec![(PartitionId(0), Position::at(5, 0))],
    };
    let subscribe = Record::Subscribe {
        client: phone.clone(),
        epoch: first.epoch,
        subscriptions: vec![subscription.clone()],
    };
    assert!(nodes[0].cluster.commit(&phone, subscribe).await.unwrap());
    let bind = Record::Bind {
        client: phone.clone(),
        epoch: first.epoch,
        bindings: vec![Binding {
            packet_id: packet_id(3),
            partition: PartitionId(0),
            position: Position::at(12, 0),
            share: None,
        }],
    };
    let mut records = BytesMut::new();
    bind.encode(&mut records);
    let (done, outcome) = oneshot::channel();
    let done = Box::new(move |outcome| drop(done.send(outcome)));
    let submitting = nodes[0]
        .cluster
        .submit_session(&phone, records.freeze(), 1, done);
    submitting.await.unwrap();
    assert_eq!(outcome.await.unwrap(), committed());
    let progress = Record::Progress {
        floors: Vec::new(),
        laggards: vec![Laggard {
            client: phone.clone(),
            epoch: first.epoch,
            progress: vec![Cursor {
                partition: PartitionId(0),
                floor: Position::at(10, 0),
                done: vec![Position::at(14, 0)],
            }],
        }],
        joined: Vec::new(),
    };
    let partition = nodes[0].cluster.session_partition(&phone);
    let report = nodes[0].cluster.report_progress(partition, progress);
    report.await.unwrap();

    // The leader of the session's partition dies. The session goes to another node, with what its previous node knows better.
    let leader = nodes.remove(1);
    drop(leader);
    let last = inflight(9, Position::at(16, 0), QoS::AtLeastOnce, Stage::Published);
    let left = SessionProgress {
        cursors: vec![Cursor {
            partition: PartitionId(0),
            floor: Position::at(12, 0),
            done: vec![Position::at(15, 0)],
        }],
        inflight: vec![last],
    };
    let (mut epoch, mut lost) = (first.epoch, 0);
    let session = loop {
        let asked = Instant::now();
        let cluster = nodes[1].cluster.clone();
        let attaching = async {
            loop {
                match cluster.attach(attach(&id, 3600)).await {
                    Ok(attached) => break attached,
                    // Until there is another leader.
                    Err(error) => println!("{error}"),
                }
            }
        };
        let progress = Box::new(left.clone());
        let handover = Handover { epoch, progress };
        let attached = while_left(&mut nodes[0], Some(handover), attaching).await;
        assert_eq!(attached.incarnation, first.epoch);
        let session = attached.session.unwrap();
        if session.inflight == [last] {
            break session;
        }
        // A node that answers later than this is fenced, and what it hands over may be lost: then the session goes back the same way.
        let is_late = asked.elapsed() >= CONFIRM_WITHIN;
        assert!(is_late, "what was handed over in time is lost");
        lost += 1;
        assert!(lost < 10, "the machine is too slow for this test");
        epoch = attached.epoch;
        nodes.swap(0, 1);
    };
    assert_eq!(session.subscriptions, [subscription]);
    let expected = Cursor {
        partition: PartitionId(0),
        floor: Position::at(12, 0),
        done: vec![Position::at(14, 0), Position::at(15, 0)],
    };
    assert_eq!(session.cursors, [expected]);

    // The old connection can change nothing any more.
    let late = Record::Unsubscribe {
        client: phone.clone(),
        epoch,
        filters: vec![TopicFilter::from_static("chat/+")],
        inflight: Vec::new(),
    };
    assert!(!nodes[0].cluster.commit(&phone, late).await.unwrap());
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_left_is_there_whether_its_detach_is_committed_or_not() {
    let mut nodes = nodes(3, &[]).await;
    let mut known = 0;
    for round in 0..20u16 {
        let (from, to) = (usize::from(round % 3), usize::from((round + 1) % 3));
        let attached = timeout(PATIENCE, nodes[from].cluster.attach(attach("phone", 3600)));
        let attached = attached.await.unwrap().unwrap();
        let left = inflight(
            round + 1,
            Position::at(u64::from(round) + 1, 0),
            QoS::AtLeastOnce,
            Stage::Published,
        );
        nodes[from].cluster.detach(Detach {
            last: Some(Box::new(SessionProgress {
                // What was under way in the rounds before is done.
                cursors: vec![Cursor {
                    partition: PartitionId(0),
                    floor: Position::at(u64::from(round), 0xffff),
                    done: Vec::new(),
                }],
                inflight: vec![left],
            })),
            ..detach("phone", &attached, true)
        });
        let asked = Instant::now();
        let cluster = nodes[to].cluster.clone();
        let attaching = cluster.attach(attach("phone", 3600));
        let next = while_gone(&mut nodes[from], attaching).await.unwrap();
        // A node that answers later than this is fenced, and what it would have handed over may be lost.
        if asked.elapsed() < CONFIRM_WITHIN {
            assert_eq!(next.session.as_ref().unwrap().inflight, [left]);
            known += 1;
        }
        detached(&nodes[to], detach("phone", &next, true)).await;
    }
    assert!(known > 0, "the machine is too slow for this test");
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_kept_out_although_its_connection_is_gone() {
    let mut nodes = separate_nodes(Duration::from_secs(2)).await;
    let topic = key_led_by(&nodes[2], "chat/");
    let id = key_led_by(&nodes[1], "phone-");
    let phone = client(&id);
    subscribe(&nodes[2], "chat/#").await;
    assert_eq!(publish(&nodes[0], &topic, "before").await, committed());
    let first = nodes[0].cluster.attach(attach(&id, 3600)).await.unwrap();

    // The partition stands still while a message of the connection is on its way; the connection is given up.
    let frozen = Instant::now();
    nodes[2].freeze(Duration::from_secs(8)).await;
    let head_of = |epoch| head(&phone, epoch);
    let old = submit(&nodes[0], &topic, "old", &head_of(first.epoch)).await;
    assert_eq!(old.await.unwrap(), Submitted::Unknown);
    nodes[0].cluster.detach(detach(&id, &first, false));
    sleep(Duration::from_millis(500)).await;

    // Until it is known what became of the message, nobody else can act for the client.
    let second = loop {
        let cluster = nodes[1].cluster.clone();
        let attaching = cluster.attach(attach(&id, 3600));
        match while_gone(&mut nodes[0], attaching).await {
            Ok(attached) => break attached,
            Err(error) => println!("after {:?}: {error}", frozen.elapsed()),
        }
        while let Ok((_, _, gone)) = nodes[1].superseded.try_recv() {
            let _ = gone.send(None);
        }
    };
    assert!(frozen.elapsed() >= Duration::from_secs(8));
    let new = submit(&nodes[1], &topic, "new", &head_of(second.epoch)).await;
    assert_eq!(new.await.unwrap(), committed());
    let mut arrived = Vec::new();
    while arrived.last().is_none_or(|last| last != "new") {
        arrived.extend(delivered(&mut nodes[2], 1).await);
    }
    sleep(Duration::from_secs(1)).await;
    assert!(
        nodes[2].delivered.try_recv().is_err(),
        "a message of the old connection came after one of the new"
    );
    assert!(arrived == ["before", "old", "new"] || arrived == ["before", "new"]);
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_while_the_fence_is_raised_counts() {
    let mut nodes = separate_nodes(PATIENCE).await;
    let id = key_led_by(&nodes[1], "phone-");
    let first = nodes[0].cluster.attach(attach(&id, 3600)).await.unwrap();
    let last = inflight(9, Position::at(16, 0), QoS::AtLeastOnce, Stage::Published);
    let left = Handover {
        epoch: first.epoch,
        progress: Box::new(SessionProgress {
            cursors: Vec::new(),
            inflight: vec![last],
        }),
    };

    // One partition stands still, so no fence can be raised there; the previous node answers late, but before it can.
    nodes[2].freeze(Duration::from_secs(8)).await;
    let cluster = nodes[1].cluster.clone();
    let attaching = tokio::spawn(async move { cluster.attach(attach(&id, 3600)).await });
    let asked = timeout(PATIENCE, nodes[0].superseded.recv()).await;
    let (_, _, gone) = asked.expect("asked in time").unwrap();
    sleep(CONFIRM_WITHIN * 2).await;
    let sent = gone.send(Some(left));
    sent.expect("the machine is too slow for this test");
    let attached = while_gone(&mut nodes[0], attaching).await.unwrap().unwrap();
    assert_eq!(attached.session.unwrap().inflight, [last]);
    stop(&nodes).await;
}
