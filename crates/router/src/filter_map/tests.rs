#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

/// Which of the filters match the topic, in the order given.
#[track_caller]
fn check(topic_text: &str, filters: &[(&str, bool)]) {
    let mut map = FilterMap::new();
    for (text, matches) in filters {
        map.insert(&filter(text), (*text, *matches)).unwrap();
    }
    let topic = topic(topic_text);
    let mut met = Vec::new();
    map.for_each_match(&topic, |id, (text, matches)| {
        assert!(matches, "{text} must not match {topic}");
        assert_eq!(map.filter(id), Some(*text));
        met.push(*text);
    });
    let expected = filters.iter().filter(|(_, matches)| *matches).count();
    assert_eq!(met.len(), expected, "only {met:?} matched {topic}");
    assert_eq!(map.any_match(&topic), expected > 0);
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2 v3.1.1]
#[test]
fn mqtt_4_7_1_1_multi_level_wildcard() {
    check(
        "sport/tennis",
        &[
            ("sport/tennis/#", true),
            ("sport/#", true),
            ("#", true),
            ("sport/tennis", true),
            ("sport/tennis/+/#", false),
        ],
    );
    check(
        "sport",
        &[
            ("sport/#", true),
            ("sport/+", false),
            ("sport/+/#", false),
            ("tennis/#", false),
        ],
    );
}

/// [MQTT-4.7.1-2], [MQTT-4.7.1-3 v3.1.1]
#[test]
fn mqtt_4_7_1_2_single_level_wildcard() {
    check(
        "sport/tennis/player1",
        &[
            ("sport/tennis/+", true),
            ("sport/+", false),
            ("+/+/+", true),
            ("+/tennis/#", true),
        ],
    );
    check(
        "sport/",
        &[
            ("sport/+", true),
            ("sport", false),
            ("+/+", true),
            ("+", false),
        ],
    );
    check(
        "/finance",
        &[("+/+", true), ("/+", true), ("+", false), ("//+", false)],
    );
}

/// [MQTT-4.7.2-1], [MQTT-4.7.2-1 v3.1.1]
#[test]
fn mqtt_4_7_2_1_dollar_topics() {
    check(
        "$SYS/monitor/Clients",
        &[
            ("#", false),
            ("+/monitor/Clients", false),
            ("$SYS/#", true),
            ("$SYS/monitor/+", true),
        ],
    );
    check(
        "$SYS",
        &[
            ("#", false),
            ("+", false),
            ("+/#", false),
            ("$SYS", true),
            ("$SYS/#", true),
        ],
    );
    check(
        "a/$SYS",
        &[("a/+", true), ("#", true), ("+/$SYS", true), ("+/+", true)],
    );
}

/// [MQTT-4.7.3-4], [MQTT-4.7.3-4 v3.1.1]
#[test]
fn mqtt_4_7_3_4_no_normalization() {
    check(
        "Accounts payable/ä",
        &[
            ("accounts payable/ä", false),
            ("Accounts payable/+", true),
            ("Accounts payable/ä", true),
        ],
    );
}

#[test]
fn share_name_is_not_part_of_the_key() {
    let mut map = FilterMap::new();
    assert_eq!(map.insert(&filter("$share/g/a/+"), 1), Ok(None));
    assert_eq!(map.insert(&filter("a/+"), 2), Ok(Some(1)));
    assert_eq!(map.len(), 1);
    assert!(map.any_match(&topic("a/b")));
}

#[test]
fn removal_prunes_everything() {
    let mut map = FilterMap::new();
    let texts = [
        "a/b/c/+",
        "a/b/#",
        "a/+/c",
        "+/+/+/x/#",
        "#",
        "+",
        "a/b",
        "//+/",
    ];
    for text in texts {
        map.insert(&filter(text), ()).unwrap();
    }
    for text in texts {
        assert_eq!(map.remove(&filter(text)), Some(()));
        assert_eq!(map.remove(&filter(text)), None);
    }
    assert!(map.is_empty());
    assert_eq!(map.trie.sizes(), (0, 0));
    assert_eq!(map.shapes(), 0);
    assert!(!map.any_match(&topic("a/b/c")));
    assert_eq!(map.trie.heap_bytes(), Trie::new().heap_bytes());
}

#[test]
fn a_filter_at_the_root_outlives_the_branches() {
    let mut map = FilterMap::new();
    for text in ["#", "a/+"] {
        map.insert(&filter(text), text).unwrap();
    }
    map.remove(&filter("a/+"));
    assert_eq!(map.trie.sizes(), (0, 0));
    assert_eq!(map.get(&filter("#")), Some(&"#"));
    assert!(map.any_match(&topic("a/b")));
}

#[test]
fn a_pruned_branch_leaves_its_neighbours() {
    let mut map = FilterMap::new();
    map.insert(&filter("a/b/+"), 1).unwrap();
    map.insert(&filter("a/b/+/c"), 2).unwrap();
    map.remove(&filter("a/b/+/c"));
    assert_eq!(map.trie.sizes(), (3, 2));
    assert_eq!(map.get(&filter("a/b/+")), Some(&1));
    assert_eq!(map.get(&filter("a/b")), None);
    assert_eq!(map.get(&filter("a/b/#")), None);
}

#[test]
fn limits_hold() {
    let limits = Limits {
        filters_max: 3,
        levels_max: 4,
        shapes_max: 0,
    };
    let mut map = FilterMap::with_limits(limits);
    assert_eq!(
        map.insert(&filter("a/b/c/d/e"), ()),
        Err(Error::TooManyLevels)
    );
    assert_eq!(map.insert(&filter("+/+/+"), ()), Err(Error::TooManyShapes));
    for text in ["a/b/c/d", "+/+/#", "a"] {
        assert_eq!(map.insert(&filter(text), ()), Ok(None));
    }
    assert_eq!(map.insert(&filter("b"), ()), Err(Error::TooManyFilters));
    assert_eq!(
        map.insert(&filter("a"), ()),
        Ok(Some(())),
        "it is there already"
    );
    assert_eq!(map.len(), 3);
}

/// Filters like `a/+/a/+` in all mixtures: without a limit, a topic stands on 2^16 nodes at its last level.
#[test]
fn mixtures_of_wildcards_do_not_blow_up() {
    let mut map = FilterMap::new();
    let mut taken = 0;
    for mixture in 0..1_u32 << 16 {
        let levels: Vec<&str> = (0..16)
            .map(|bit| if mixture >> bit & 1 == 1 { "+" } else { "a" })
            .collect();
        taken += usize::from(
            map.insert(&filter(&(levels.join("/") + "/x/+")), ())
                .is_ok(),
        );
    }
    assert!(
        taken >= 256 && map.shapes() <= 256 + 137,
        "{taken} taken, {} shapes",
        map.shapes()
    );
    let mut matches = 0;
    map.for_each_match(&topic(&("a/".repeat(16) + "x/y")), |_, ()| matches += 1);
    assert_eq!(matches, taken);
}

#[test]
fn deep_filters_and_topics() {
    let mut map = FilterMap::new();
    let deep = "a/".repeat(127);
    map.insert(&filter(&(deep.clone() + "+")), 1).unwrap();
    map.insert(&filter(&("+/".repeat(127) + "#")), 2).unwrap();
    let mut sum = 0;
    map.for_each_match(&topic(&(deep + "b")), |_, value| sum += value);
    assert_eq!(sum, 3);
    sum = 0;
    map.for_each_match(&topic(&"/".repeat(65_000)), |_, value| sum += value);
    assert_eq!(sum, 2);
}

#[test]
fn a_filter_is_lean() {
    assert_eq!(size_of::<Option<Entry<u64>>>(), 32);
    let mut map = FilterMap::new();
    for number in 0..100_000 {
        map.insert(&filter(&format!("user/{number}/inbox")), 0_u64)
            .unwrap();
    }
    let bytes = map.heap_bytes() / map.len();
    assert!(bytes < 60, "{bytes} bytes per exact filter");
    let mut map = FilterMap::new();
    for number in 0..100_000 {
        map.insert(&filter(&format!("user/{number}/+")), 0_u64)
            .unwrap();
    }
    let bytes = map.heap_bytes() / map.len();
    assert!(bytes < 190, "{bytes} bytes per filter with a wildcard");
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 4 => Just("b"), 1 => Just(""), 1 => Just("$x"), 1 => Just("a level too long to be kept inline")]
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(level(), 1..6)
        .prop_filter_map("empty", |levels| TopicName::try_from(levels.join("/")).ok())
}

fn any_filter() -> impl Strategy<Value = TopicFilter> {
    let levels = prop::collection::vec(prop_oneof![2 => level(), 1 => Just("+")], 0..6);
    let share = prop_oneof![3 => Just(""), 1 => Just("$share/g/")];
    (share, levels, prop::bool::weighted(0.3)).prop_filter_map(
        "empty",
        |(share, mut levels, multi)| {
            if multi {
                levels.push("#");
            }
            TopicFilter::try_from(format!("{share}{}", levels.join("/"))).ok()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The map beside a list of filters that asks each of them.
    #[test]
    fn matches_as_the_naive_matcher(
        steps in prop::collection::vec((prop::bool::weighted(0.6), any_filter()), 1..120),
        topics in prop::collection::vec(any_topic(), 1..20),
    ) {
        let mut map = FilterMap::new();
        let mut model: BTreeMap<String, (TopicFilter, usize)> = BTreeMap::new();
        for (number, (insert, filter)) in steps.into_iter().enumerate() {
            let key = filter.filter().to_owned();
            if insert {
                let previous = model.insert(key, (filter.clone(), number)).map(|(_, number)| number);
                prop_assert_eq!(map.insert(&filter, number), Ok(previous));
                prop_assert_eq!(map.get(&filter), Some(&number));
            } else {
                prop_assert_eq!(map.remove(&filter), model.remove(&key).map(|(_, number)| number));
                prop_assert_eq!(map.get(&filter), None);
            }
            prop_assert_eq!(map.len(), model.len());
        }
        for topic in topics {
            let mut met = Vec::new();
            map.for_each_match(&topic, |_, number| met.push(*number));
            met.sort_unstable();
            let mut expected: Vec<usize> =
                model.values().filter(|(filter, _)| filter.matches(&topic)).map(|(_, number)| *number).collect();
            expected.sort_unstable();
            prop_assert_eq!(map.any_match(&topic), !expected.is_empty());
            prop_assert_eq!(met, expected, "{}", topic);
        }
        let mut all: Vec<(String, usize)> =
            map.iter().map(|(_, text, number)| (text.to_owned(), *number)).collect();
        all.sort();
        let expected: Vec<(String, usize)> = model.iter().map(|(text, (_, number))| (text.clone(), *number)).collect();
        prop_assert_eq!(all, expected);
        for (filter, number) in model.into_values() {
            prop_assert_eq!(map.remove(&filter), Some(number));
        }
        prop_assert_eq!(map.trie.sizes(), (0, 0));
        prop_assert_eq!(map.shapes(), 0);
    }
}
