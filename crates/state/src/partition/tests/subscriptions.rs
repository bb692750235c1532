//! Subscriptions of Sessions, and which messages they hold.

use super::*;

const AT_5: Position = Position::end_of(5);
const AT_9: Position = Position::end_of(9);

fn filters(replica: &Replica) -> Vec<(String, Position)> {
    let session = replica.session("phone").unwrap();
    let subscriptions = session.subscriptions.iter();
    subscriptions
        .map(|it| (it.filter.to_string(), it.since[0].1))
        .collect()
}

#[test]
fn subscribing_again_loses_nothing() {
    // [MQTT-3.8.4-4]
    let mut replica = Replica::configured();
    let epoch = replica.connect(A1, "phone", true, 60, None).epoch;
    for (qos, at, expected) in [
        (QoS::AtLeastOnce, AT_5, AT_5),
        (QoS::ExactlyOnce, AT_9, AT_5),
        (QoS::AtMostOnce, AT_9, AT_5),
        (QoS::AtLeastOnce, AT_9, AT_9),
    ] {
        let subscription = subscription("a", qos, &[(HERE, at)]);
        replica.send(A1, &[subscribe("phone", epoch, subscription)]);
        assert_eq!(filters(&replica), [("a".to_owned(), expected)]);
        let stored = replica.session("phone").unwrap().subscriptions;
        assert_eq!(stored[0].options.qos, qos);
        let needed = (qos > QoS::AtMostOnce).then_some(expected);
        assert_eq!(replica.state.needed_above(HERE, &topic("a")), needed);
    }
}

#[test]
fn an_unsubscribe_never_comes_back() {
    let mut replica = Replica::configured();
    let first = replica.connect(A1, "phone", true, 60, None).epoch;
    for name in ["a", "b"] {
        let subscription = subscription(name, QoS::AtLeastOnce, &[(HERE, AT_5)]);
        replica.send(A1, &[subscribe("phone", first, subscription)]);
    }
    let unsubscribe = |epoch| Record::Unsubscribe {
        client: client("phone"),
        epoch,
        filters: vec![filter("a"), filter("unknown")],
        inflight: Vec::new(),
    };
    assert!(replica.send(A1, &[unsubscribe(first)]).is_plain());
    let second = replica.connect(B1, "phone", false, 60, None);
    assert!(second.session_present);
    // What the old connection still had on its way.
    let late = subscription("a", QoS::AtLeastOnce, &[(HERE, AT_5)]);
    let refused = replica.send(
        A1,
        &[
            publish("tablet", Epoch(1)),
            subscribe("phone", first, late),
            unsubscribe(first),
        ],
    );
    assert_eq!(refused.refused, [1, 2]);
    assert_eq!(filters(&replica), [("b".to_owned(), AT_5)]);
    assert_eq!(replica.state.needed_above(HERE, &topic("a")), None);
    replica.send(B1, &[detach("phone", second.epoch, true)]);
    let late = subscription("a", QoS::AtLeastOnce, &[(HERE, AT_5)]);
    let refused = replica.send(B1, &[subscribe("phone", second.epoch, late)]);
    assert_eq!(refused.refused, [0], "nothing is attached");
}

#[test]
fn what_is_needed_is_above_the_lowest_of_those_who_match() {
    let mut replica = Replica::configured();
    let everywhere = [(HERE, AT_9), (THERE, AT_5)];
    let phone = replica.connect(A1, "phone", true, 60, None).epoch;
    let tablet = replica.connect(A1, "tablet", true, 60, None).epoch;
    let clean = replica.connect(A1, "clean", true, 0, None).epoch;
    let at_least_once = |name, since: &[_]| subscription(name, QoS::AtLeastOnce, since);
    replica.send(
        A1,
        &[
            subscribe("phone", phone, at_least_once("a/b", &[(HERE, AT_5)])),
            subscribe("tablet", tablet, at_least_once("a/#", &everywhere)),
            subscribe("tablet", tablet, at_least_once("$share/g/s", &everywhere)),
            subscribe("clean", clean, at_least_once("c", &[(HERE, AT_5)])),
        ],
    );
    let needed =
        |replica: &Replica, partition, name| replica.state.needed_above(partition, &topic(name));
    assert_eq!(needed(&replica, HERE, "a/b"), Some(AT_5));
    assert_eq!(needed(&replica, HERE, "a/c"), Some(AT_9));
    assert_eq!(needed(&replica, THERE, "a/c"), Some(AT_5));
    assert_eq!(needed(&replica, HERE, "b"), None);
    assert_eq!(needed(&replica, HERE, "s"), None, "the group's to hold");
    assert_eq!(
        needed(&replica, HERE, "c"),
        None,
        "ends with its connection"
    );
    let cursor = |floor| Cursor {
        partition: HERE,
        floor,
        done: Vec::new(),
    };
    let progress = Record::Progress {
        floors: Vec::new(),
        laggards: vec![Laggard {
            client: client("phone"),
            epoch: phone,
            progress: vec![cursor(Position::at(20, 0))],
        }],
        joined: Vec::new(),
    };
    replica.send(A1, &[progress]);
    assert_eq!(needed(&replica, HERE, "a/b"), Some(AT_9), "phone went on");
    replica.apply(&PartitionCommand::EndStream { stream: A1 });
    assert_eq!(needed(&replica, HERE, "a/b"), Some(AT_9));
    replica.pass_s(62);
    assert_eq!(needed(&replica, HERE, "a/b"), None);
}

#[test]
fn a_filter_that_the_index_refuses_holds_messages_too() {
    let mut replica = Replica::configured();
    let epoch = replica.connect(A1, "phone", true, 60, None).epoch;
    let deep = format!("{}+", "a/".repeat(200));
    let stored = StoredSubscription {
        filter: TopicFilter::try_from(deep.as_str()).unwrap(),
        ..subscription("x", QoS::AtLeastOnce, &[(HERE, AT_5)])
    };
    replica.send(A1, &[subscribe("phone", epoch, stored.clone())]);
    let topic = TopicName::try_from(deep.replace('+', "b")).unwrap();
    assert_eq!(replica.state.needed_above(HERE, &topic), Some(AT_5));
    let filters = vec![stored.filter];
    let unsubscribe = Record::Unsubscribe {
        client: client("phone"),
        epoch,
        filters,
        inflight: Vec::new(),
    };
    replica.send(A1, &[unsubscribe]);
    assert_eq!(replica.state.needed_above(HERE, &topic), None);
}
