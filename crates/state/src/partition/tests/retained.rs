//! Retained messages.

use super::*;

fn retain(to: &'static str, payload: &'static [u8]) -> Publish {
    let publish = message(to, "sensor", Epoch(1));
    Publish {
        retain: true,
        message: Arc::new(Message {
            payload: Bytes::from_static(payload),
            ..(*publish.message).clone()
        }),
        ..publish
    }
}

fn matching(replica: &Replica, of: &'static str) -> Vec<String> {
    let found = replica.state.retained_matching(&filter(of), None, 100);
    found.iter().map(|it| it.topic.to_string()).collect()
}

#[test]
fn the_newest_of_a_topic_is_kept_with_its_position_until_an_empty_one() {
    let mut replica = Replica::configured();
    replica.send(A1, &[Record::Publish(retain("a", b"1"))]);
    let (first, second) = (retain("b", b"2"), retain("a", b"3"));
    replica.send(
        B1,
        &[Record::Publish(first), Record::Publish(second.clone())],
    );
    let found = replica.state.retained_matching(&filter("a"), None, 9);
    assert_eq!(
        found,
        [Retained {
            topic: topic("a"),
            position: Position::at(replica.index, 1),
            publish: second,
        }]
    );
    assert_eq!(replica.state.retained_count(), 2);
    // [MQTT-3.3.1-6]
    replica.send(A1, &[Record::Publish(retain("a", b""))]);
    assert_eq!(replica.state.retained_count(), 1);
    assert!(matching(&replica, "a").is_empty());
    replica.send(A1, &[publish("sensor", Epoch(1))]);
    assert_eq!(replica.state.retained_count(), 1, "not retained");
}

#[test]
fn one_that_is_refused_or_repeated_changes_nothing() {
    let mut replica = Replica::configured();
    let dedup = Dedup {
        session: Epoch(1),
        packet_id: packet_id(1),
    };
    let first = Publish {
        dedup: Some(dedup),
        ..retain("a", b"1")
    };
    let fence = Record::Fence {
        client: client("sensor"),
        epoch: Epoch(2),
        against: B1,
    };
    replica.send(A1, &[Record::Publish(first.clone())]);
    replica.send(A1, &[Record::Publish(retain("a", b"2"))]);
    assert_eq!(replica.send(A1, &[Record::Publish(first)]).repeated, [0]);
    replica.send(A1, &[fence]);
    replica.send(B1, &[Record::Publish(retain("a", b"3"))]);
    let found = replica.state.retained_matching(&filter("a"), None, 9);
    assert_eq!(found[0].publish.message.payload, "2");
}

#[test]
fn wildcards_find_what_they_match_in_order() {
    let mut replica = Replica::configured();
    let topics = [
        "$SYS/up", "a", "a b", "a!/b", "a/", "a/b", "a/b/c", "ab", "b/b",
    ];
    for topic in topics {
        replica.send(A1, &[Record::Publish(retain(topic, b"x"))]);
    }
    // [MQTT-4.7.2-1]
    assert_eq!(matching(&replica, "#"), topics[1..]);
    assert_eq!(matching(&replica, "+"), ["a", "a b", "ab"]);
    assert_eq!(matching(&replica, "+/b"), ["a!/b", "a/b", "b/b"]);
    assert_eq!(matching(&replica, "a/#"), ["a", "a/", "a/b", "a/b/c"]);
    assert_eq!(matching(&replica, "a/+"), ["a/", "a/b"]);
    assert_eq!(matching(&replica, "a/b"), ["a/b"]);
    assert_eq!(matching(&replica, "a/b/#"), ["a/b", "a/b/c"]);
    assert_eq!(matching(&replica, "$SYS/#"), ["$SYS/up"]);
    assert!(matching(&replica, "c/#").is_empty());
}

#[test]
fn pages_go_on_behind_the_last() {
    let mut replica = Replica::configured();
    for topic in ["a", "a!", "a/1", "a/2", "a/3"] {
        replica.send(A1, &[Record::Publish(retain(topic, b"x"))]);
    }
    for (of, expected) in [
        ("a/#", vec!["a", "a/1", "a/2", "a/3"]),
        ("#", vec!["a", "a!", "a/1", "a/2", "a/3"]),
        ("a/2", vec!["a/2"]),
    ] {
        for limit in 1..4 {
            let mut found: Vec<TopicName> = Vec::new();
            loop {
                let after = found.last().cloned();
                let state = &replica.state;
                let page = state.retained_matching(&filter(of), after.as_ref(), limit);
                assert!(page.len() <= limit);
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|it| it.topic));
            }
            let found: Vec<_> = found.iter().map(TopicName::as_str).collect();
            assert_eq!(found, expected);
        }
    }
}
