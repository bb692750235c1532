//! Durable sessions over whole nodes in one process: taken over, handed over, their wills, and what partitions do to each other for them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod node;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use magpie_cluster::{Attach, Attached, Detach, Error, Handover, Submission, Submitted};
use magpie_codec::{PacketId, QoS, SubscriptionOptions, Text, TopicFilter, TopicName, Will};
use magpie_state::{
    Binding, ClientId, Cursor, Epoch, Inflight, Laggard, PartitionId, Position, PublishHead,
    Record, SessionProgress, Stage, StoredSubscription, StoredWill, encode_publish,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use node::{
    Node, PATIENCE, client, committed, delivered, head, message, nodes, nodes_with, publish,
    restart, subscribe,
};

/// How long an attach waits for the previous node.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

fn attach(id: &str, session_expiry_s: u32) -> Attach {
    Attach {
        client: client(id),
        clean_start: false,
        session_expiry_s,
        will: None,
        owner: None,
    }
}

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

fn detach(id: &str, attached: &Attached, is_clean: bool) -> Detach {
    Detach {
        client: client(id),
        epoch: attached.epoch,
        departure: if is_clean {
            magpie_state::Departure::Clean
        } else {
            magpie_state::Departure::Unclean
        },
        session_expiry_s: None,
        last: None,
    }
}

fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn inflight(number: u16, position: Position, qos: QoS, stage: Stage) -> Inflight {
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
async fn detached(node: &Node, request: Detach) {
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

async fn stop(nodes: &[Node]) {
    for node in nodes {
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
        // A node that answers later than this is fenced, and what it hands over is lost: then the session goes back the same way.
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
        // A node that answers later than this is fenced, and what it would have handed over is lost.
        if asked.elapsed() < CONFIRM_WITHIN {
            assert_eq!(next.session.as_ref().unwrap().inflight, [left]);
            known += 1;
        }
        detached(&nodes[to], detach("phone", &next, true)).await;
    }
    assert!(known > 0, "the machine is too slow for this test");
    stop(&nodes).await;
}

/// Does something, while a node answers supersessions as a broker that has no such connection any more.
async fn while_gone<T>(node: &mut Node, act: impl Future<Output = T>) -> T {
    while_left(node, None, act).await
}

/// The same, as a broker that has just ended the connection and hands over what it left.
async fn while_left<T>(node: &mut Node, left: Option<Handover>, act: impl Future<Output = T>) -> T {
    let mut act = std::pin::pin!(act);
    loop {
        tokio::select! {
            done = &mut act => return done,
            Some((_, _, gone)) = node.superseded.recv() => drop(gone.send(left.clone())),
        }
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

async fn submit(
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
async fn separate_nodes(publish_deadline: Duration) -> Vec<Node> {
    nodes_with(3, |config| {
        config.replication_factor = 1;
        config.publish_deadline = publish_deadline;
        // Nobody that stands still is to be taken for dead.
        config.down_after = Duration::from_secs(30);
    })
    .await
}

/// A key of a partition that is led by `node`.
fn key_led_by(node: &Node, prefix: &str) -> String {
    (0..1000)
        .map(|number| format!("{prefix}{number}"))
        .find(|key| {
            let topic = TopicName::try_from(key.as_str()).unwrap();
            node.leads(node.cluster.partition_of(&topic))
        })
        .expect("each node leads a partition")
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
