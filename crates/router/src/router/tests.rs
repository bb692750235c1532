#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use magpie_codec::TopicName;
use proptest::prelude::*;

use super::*;
use crate::Policy;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

fn found(router: &Router<u32, usize>, topic: &str) -> Matches {
    let mut matches = Matches::new();
    router.matches(&TopicName::try_from(topic).unwrap(), &mut matches);
    matches
}

/// Subscriber -> options of all matching plain subscriptions.
fn plain(router: &Router<u32, usize>, topic: &str) -> BTreeMap<u32, Vec<usize>> {
    let mut all = BTreeMap::new();
    router.for_each_subscriber(&found(router, topic), |key, options| {
        let mut options: Vec<usize> = options.iter().map(|it| **it).collect();
        options.sort_unstable();
        assert_eq!(
            all.insert(key, options),
            None,
            "each subscriber is met once"
        );
    });
    all
}

/// (Share name, filter) -> members.
fn shares(router: &Router<u32, usize>, topic: &str) -> BTreeMap<(String, String), Vec<u32>> {
    let matches = found(router, topic);
    let members = |group: &ShareGroup<u32, usize>| {
        let mut members: Vec<u32> = group.members().iter().map(|(key, _)| *key).collect();
        members.sort_unstable();
        members
    };
    let all = router.shares(&matches);
    all.map(|it| {
        (
            (it.name.to_owned(), it.filter.to_owned()),
            members(it.group),
        )
    })
    .collect()
}

/// [MQTT-3.8.4-3], [MQTT-3.8.4-3 v3.1.1]
#[test]
fn mqtt_3_8_4_3_same_filter_replaces() {
    let mut router = Router::new();
    assert_eq!(router.subscribe(&filter("a/+"), 1, 10), Ok(None));
    assert_eq!(router.subscribe(&filter("a/+"), 1, 11), Ok(Some(10)));
    assert_eq!(plain(&router, "a/b"), BTreeMap::from([(1, vec![11])]));
    assert_eq!(router.subscriptions_of(1), 1);
    assert_eq!(router.subscribers(&filter("a/+")), 1);
}

/// Overlapping subscriptions of one subscriber come together, so that the caller can take the highest QoS and all
/// Subscription Identifiers.
///
/// [MQTT-3.3.4-2]
#[test]
fn mqtt_3_3_4_2_overlapping_filters_are_grouped() {
    let mut router = Router::new();
    for (text, key, options) in [
        ("a/b", 1, 10),
        ("a/+", 1, 11),
        ("#", 1, 12),
        ("#", 2, 20),
        ("a/+", 3, 30),
        ("b", 1, 13),
    ] {
        router.subscribe(&filter(text), key, options).unwrap();
    }
    let expected = BTreeMap::from([(1, vec![10, 11, 12]), (2, vec![20]), (3, vec![30])]);
    assert_eq!(plain(&router, "a/b"), expected);
    assert_eq!(router.rows(&found(&router, "a/b")).count(), 3);
}

#[test]
fn section_4_8_2_members_of_each_group() {
    let mut router = Router::new();
    for (text, key) in [
        ("$share/g/a/+", 1),
        ("$share/g/a/+", 2),
        ("$share/h/a/+", 1),
        ("$share/g/a/b", 3),
        ("a/+", 1),
    ] {
        router.subscribe(&filter(text), key, 0).unwrap();
    }
    let group = |name: &str, filter: &str| (name.to_owned(), filter.to_owned());
    let expected = BTreeMap::from([
        (group("g", "a/+"), vec![1, 2]),
        (group("h", "a/+"), vec![1]),
        (group("g", "a/b"), vec![3]),
    ]);
    assert_eq!(shares(&router, "a/b"), expected);
    assert_eq!(plain(&router, "a/b"), BTreeMap::from([(1, vec![0])]));

    let matches = found(&router, "a/c");
    let picks: Vec<u32> = (0..4)
        .map(|_| {
            router
                .shares(&matches)
                .find(|it| it.name == "g")
                .unwrap()
                .group
        })
        .map(|group| group.pick(Policy::RoundRobin, |_, _| true).unwrap().0)
        .collect();
    assert_eq!(picks, [1, 2, 1, 2]);
    assert_eq!(router.unsubscribe(&filter("$share/g/a/+"), 3), None);
    assert_eq!(router.unsubscribe(&filter("$share/h/a/+"), 1), Some(0));
    assert_eq!(router.share_groups(), 2);
}

#[test]
fn a_subscriber_leaves_nothing_behind() {
    let mut router = Router::new();
    for text in ["a", "a/+", "$share/g/a/+", "$share/g/b"] {
        router.subscribe(&filter(text), 1, 7).unwrap();
    }
    router.subscribe(&filter("$share/g/b"), 2, 8).unwrap();
    let mut removed = Vec::new();
    router.remove_subscriber(1, |it| {
        assert_eq!(it.options, 7);
        removed.push((
            it.filter.to_owned(),
            it.share_name.map(str::to_owned),
            it.left,
        ));
    });
    removed.sort();
    let group = || Some("g".to_owned());
    let expected = [
        ("a", None, 0),
        ("a/+", None, 0),
        ("a/+", group(), 0),
        ("b", group(), 1),
    ];
    assert_eq!(
        removed,
        expected.map(|(filter, name, left)| (filter.to_owned(), name, left))
    );
    router.remove_subscriber(1, |_| panic!("nothing is left"));
    assert_eq!(
        (router.filters(), router.share_groups(), router.held.len()),
        (1, 1, 1)
    );
    router.remove_subscriber(2, |_| ());
    assert_eq!(
        (router.filters(), router.share_groups(), router.held.len()),
        (0, 0, 0)
    );
}

#[test]
fn generations_tell_what_changed() {
    let mut router = Router::new();
    let steps: [(&str, u32, bool); 5] = [
        ("a", 1, true),
        ("a", 2, false),
        ("a", 2, false),
        ("$share/g/a", 1, true),
        ("$share/g/a", 2, false),
    ];
    for (text, key, new_filter) in steps {
        let before = (router.generation(), router.filter_generation());
        router.subscribe(&filter(text), key, 0).unwrap();
        assert!(router.generation() > before.0);
        assert_eq!(
            router.filter_generation() > before.1,
            new_filter,
            "{text} {key}"
        );
    }
    let matches = found(&router, "a");
    router.unsubscribe(&filter("a"), 1);
    assert!(router.is_current(&matches));
    let mut left = Vec::new();
    router.for_each_subscriber(&matches, |key, _| left.push(key));
    assert_eq!(left, [2]);
    router.unsubscribe(&filter("a"), 2);
    assert!(router.is_current(&matches), "the group keeps the filter");
    router.unsubscribe(&filter("$share/g/a"), 1);
    router.unsubscribe(&filter("$share/g/a"), 2);
    assert!(!router.is_current(&matches));
}

#[test]
fn a_refused_filter_changes_nothing() {
    let mut router = Router::with_limits(Limits {
        filters_max: 1,
        ..Limits::default()
    });
    router.subscribe(&filter("a"), 1, 0).unwrap();
    let before = router.generation();
    assert_eq!(
        router.subscribe(&filter("$share/g/b"), 1, 0),
        Err(Error::TooManyFilters)
    );
    assert_eq!(
        (router.generation(), router.subscriptions_of(1)),
        (before, 1)
    );
    assert_eq!(
        router.subscribe(&filter("$share/g/a"), 2, 0),
        Ok(None),
        "its filter is known"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(&'static str, u32),
    Unsubscribe(&'static str, u32),
    Remove(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let filters = prop::sample::select(vec![
        "a",
        "a/b",
        "a/+",
        "+/b",
        "a/#",
        "#",
        "+/+",
        "$share/g/a/b",
        "$share/g/a/+",
        "$share/h/a/+",
        "$share/h/#",
        "$x/#",
        "/",
    ]);
    // Enough subscribers for lists with an index of positions.
    prop_oneof![
        20 => (filters.clone(), 0..150_u32).prop_map(|(filter, key)| Step::Subscribe(filter, key)),
        6 => (filters, 0..150_u32).prop_map(|(filter, key)| Step::Unsubscribe(filter, key)),
        1 => (0..150_u32).prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// The router beside a list of (filter, subscriber).
    #[test]
    fn routes_as_the_naive_router(steps in prop::collection::vec(step(), 1..1500)) {
        let mut router = Router::new();
        let mut model: BTreeMap<(&str, u32), usize> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Subscribe(text, key) => {
                    let previous = router.subscribe(&filter(text), key, number).unwrap();
                    prop_assert_eq!(previous, model.insert((text, key), number));
                }
                Step::Unsubscribe(text, key) => {
                    prop_assert_eq!(router.unsubscribe(&filter(text), key), model.remove(&(text, key)));
                }
                Step::Remove(key) => {
                    let mut removed = 0;
                    router.remove_subscriber(key, |_| removed += 1);
                    let before = model.len();
                    model.retain(|(_, subscriber), _| *subscriber != key);
                    prop_assert_eq!(removed, before - model.len());
                }
            }
        }
        for topic in ["a", "a/b", "b", "a/b/c", "$x", "$x/b", "/"] {
            let name = TopicName::try_from(topic).unwrap();
            let mut expected_plain: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            let mut expected_shares: BTreeMap<(String, String), Vec<u32>> = BTreeMap::new();
            for ((text, key), options) in &model {
                let filter = filter(text);
                if !filter.matches(&name) {
                    continue;
                }
                match filter.share_name() {
                    None => expected_plain.entry(*key).or_default().push(*options),
                    Some(share) => {
                        expected_shares.entry((share.to_owned(), filter.filter().to_owned())).or_default().push(*key);
                    }
                }
            }
            expected_plain.values_mut().for_each(|options| options.sort_unstable());
            prop_assert_eq!(router.any_match(&name), !expected_plain.is_empty() || !expected_shares.is_empty());
            prop_assert_eq!(plain(&router, topic), expected_plain);
            prop_assert_eq!(shares(&router, topic), expected_shares);
        }
        for key in 0..150 {
            prop_assert_eq!(router.subscriptions_of(key), model.keys().filter(|(_, it)| *it == key).count());
            router.remove_subscriber(key, |_| ());
        }
        prop_assert_eq!((router.filters(), router.share_groups(), router.held.len()), (0, 0, 0));
    }
}
