#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

fn nodes(table: &RouteTable<u64>, text: &str) -> Vec<u64> {
    let mut nodes = table.nodes_for(&topic(text)).to_vec();
    nodes.sort_unstable();
    nodes
}

#[test]
fn a_node_is_named_once() {
    let mut table = RouteTable::new();
    assert_eq!(table.add(&filter("a/+"), 7), Ok(true));
    assert_eq!(table.add(&filter("a/+"), 7), Ok(false));
    table.add(&filter("#"), 7).unwrap();
    table.add(&filter("#"), 9).unwrap();
    assert_eq!(nodes(&table, "a/b"), [7, 9]);
    assert!(table.remove(&filter("#"), 9));
    assert!(!table.remove(&filter("#"), 9));
    assert!(!table.remove(&filter("b"), 11));
    assert_eq!(nodes(&table, "a/b"), [7]);
}

#[test]
fn a_removed_node_is_gone_at_once() {
    let mut table = RouteTable::new();
    for number in 0..100 {
        table.add(&filter(&format!("a/{number}")), 1).unwrap();
        table
            .add(&filter(&format!("a/{number}")), 1 + number % 2)
            .unwrap();
    }
    table.set_members(&filter("$share/g/a/+"), 1, 5).unwrap();
    table.remove_node(1);
    assert_eq!(nodes(&table, "a/0"), []);
    assert_eq!(nodes(&table, "a/1"), [2]);
    assert_eq!((table.iter().count(), table.shares().count()), (50, 0));
    // It comes back before its old rows are swept.
    table.add(&filter("a/0"), 1).unwrap();
    let mut portions = 1;
    while table.sweep(10) {
        portions += 1;
        assert_eq!(nodes(&table, "a/0"), [1]);
        assert_eq!(nodes(&table, "a/2"), []);
    }
    assert_eq!(portions, 10);
    assert_eq!(table.len(), 51);
}

#[test]
fn places_of_removed_nodes_are_given_again() {
    let mut table = RouteTable::new();
    for node in 0..1000 {
        table.add(&filter("a"), node).unwrap();
        assert_eq!(nodes(&table, "a"), [node]);
        table.remove_node(node);
    }
    for node in 0..64 {
        table.add(&filter("a"), node).unwrap();
    }
    assert_eq!(table.add(&filter("a"), 64), Err(Error::TooManyNodes));
    assert_eq!(nodes(&table, "a").len(), NODES_MAX);
}

#[test]
fn a_share_goes_to_nodes_by_their_members() {
    let mut table = RouteTable::new();
    let share = filter("$share/g/a/+");
    assert_eq!(table.set_members(&share, 1, 3), Ok(0));
    assert_eq!(table.set_members(&share, 2, 1), Ok(0));
    assert_eq!(
        nodes(&table, "a/b"),
        [],
        "members of a group are no plain subscribers"
    );
    let picks = |available: fn(u64) -> bool| {
        let mut counts = BTreeMap::new();
        for _ in 0..400 {
            table.for_each_share(&topic("a/b"), |route| {
                assert_eq!((route.name(), route.filter()), ("g", "a/+"));
                *counts.entry(route.pick(available)).or_insert(0) += 1;
            });
        }
        counts
    };
    assert_eq!(
        picks(|_| true),
        BTreeMap::from([(Some(1), 300), (Some(2), 100)])
    );
    assert_eq!(picks(|node| node == 2), BTreeMap::from([(Some(2), 400)]));
    assert_eq!(picks(|_| false), BTreeMap::from([(None, 400)]));
    assert_eq!(table.set_members(&share, 1, 0), Ok(3));
    assert_eq!(table.set_members(&share, 2, 0), Ok(1));
    assert!(table.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Set(&'static str, u64, u32),
    RemoveNode(u64),
    Sweep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let filters = prop::sample::select(vec![
        "a",
        "a/b",
        "a/+",
        "#",
        "$share/g/a/+",
        "$share/h/a/+",
        "$share/g/a",
        "+/b",
    ]);
    prop_oneof![
        8 => (filters, 0..6_u64, 0..3_u32).prop_map(|(filter, node, members)| Step::Set(filter, node, members)),
        1 => (0..6_u64).prop_map(Step::RemoveNode),
        1 => (1..4_usize).prop_map(Step::Sweep),
    ]
}

proptest! {
    /// The table beside a list of (filter, node).
    #[test]
    fn routes_as_the_naive_table(steps in prop::collection::vec(step(), 1..200)) {
        let mut table = RouteTable::new();
        let mut model: BTreeMap<(&str, u64), u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(text, node, members) => {
                    let members = if filter(text).is_shared() { members } else { members.min(1) };
                    let before = match members {
                        0 => model.remove(&(text, node)),
                        _ => model.insert((text, node), members),
                    };
                    prop_assert_eq!(table.set_members(&filter(text), node, members), Ok(before.unwrap_or(0)));
                }
                Step::RemoveNode(node) => {
                    table.remove_node(node);
                    model.retain(|(_, it), _| *it != node);
                }
                Step::Sweep(rows_max) => {
                    table.sweep(rows_max);
                }
            }
            for text in ["a", "a/b", "b"] {
                let here = || model.iter().filter(|((it, _), _)| filter(it).matches(&topic(text)));
                let expected: BTreeSet<u64> =
                    here().filter(|((it, _), _)| !filter(it).is_shared()).map(|((_, node), _)| *node).collect();
                prop_assert_eq!(nodes(&table, text), expected.into_iter().collect::<Vec<_>>());
                let mut expected: BTreeSet<(String, u64, u32)> = BTreeSet::new();
                for ((it, node), members) in here().filter(|((it, _), _)| filter(it).is_shared()) {
                    expected.insert(((*it).to_owned(), *node, *members));
                }
                let mut met = BTreeSet::new();
                table.for_each_share(&topic(text), |route| {
                    for (node, members) in route.members() {
                        met.insert((format!("$share/{}/{}", route.name(), route.filter()), node, members));
                    }
                });
                prop_assert_eq!(met, expected);
            }
        }
        for node in 0..6 {
            table.remove_node(node);
        }
        while table.sweep(1) {}
        prop_assert!(table.is_empty());
    }
}
