//! The index against a list of messages.

#![expect(clippy::unwrap_used, reason = "tests")]

use magpie_codec::{TopicFilter, TopicName};
use magpie_state::Position;
use proptest::prelude::*;

use super::{Found, TopicIndex};

#[derive(Debug, Clone)]
enum Step {
    Add {
        topic: usize,
        gap: u64,
    },
    Trim {
        back: u64,
        keep: u64,
    },
    Forget {
        keep: u64,
    },
    Search {
        filters: Vec<usize>,
        after: u64,
        bytes_max: usize,
    },
}

const TOPICS: [&str; 12] = [
    "a", "a/b", "a/b/c", "a/bc", "b", "b/a", "b/a/c", "$sys/a", "c/1", "c/2", "c/3", "c",
];
const FILTERS: [&str; 14] = [
    "a", "a/#", "a/b", "+", "+/a", "#", "a/+", "b/+/c", "c/2", "c/#", "nothing", "$sys/#", "+/+/c",
    "c/+",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..TOPICS.len(), 0..3u64).prop_map(|(topic, gap)| Step::Add { topic, gap }),
        1 => (0..20u64, any::<u64>()).prop_map(|(back, keep)| Step::Trim { back, keep }),
        1 => any::<u64>().prop_map(|keep| Step::Forget { keep }),
        3 => (prop::collection::vec(0..FILTERS.len(), 1..4), 0..300u64, 0..400usize)
            .prop_map(|(filters, after, bytes_max)| Step::Search { filters, after, bytes_max }),
    ];
    prop::collection::vec(step, 1..300)
}

/// Says by chance, the same each time, whether a message is kept.
fn is_kept(position: Position, seed: u64) -> bool {
    (position.0 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0
}

fn check(steps: Vec<Step>, start: u32) {
    let mut index = TopicIndex::default();
    index.young.start_at(start);
    index.kept.start_at(start);
    let mut naive: Vec<(Found, TopicName)> = Vec::new();
    let (mut last, mut ordinal, mut trimmed) = (1, 0, 0);
    for step in steps {
        match step {
            Step::Add { topic, gap } => {
                ordinal = if gap == 0 { ordinal + 1 } else { 0 };
                last += gap;
                let found = Found {
                    position: Position::at(last, ordinal),
                    offset: ordinal * 7,
                    bytes: 10 + topic as u32,
                };
                let topic = TopicName::from_static(TOPICS[topic]);
                index.add(&topic, found);
                naive.push((found, topic));
            }
            Step::Trim { back, keep } => {
                let upto = last.saturating_sub(back);
                let wanted: Vec<Position> = naive
                    .iter()
                    .map(|(found, _)| found.position)
                    .filter(|position| position.index() <= upto && is_kept(*position, keep))
                    .collect();
                index.trim(upto, &wanted);
                if upto > trimmed {
                    naive.retain(|(found, _)| {
                        let index = found.position.index();
                        index > upto || index <= trimmed || wanted.contains(&found.position)
                    });
                    trimmed = upto;
                    // What comes next stands above.
                    (last, ordinal) = (last.max(upto + 1), if last > upto { ordinal } else { 0 });
                }
            }
            Step::Forget { keep } => {
                let gone: Vec<Position> = naive
                    .iter()
                    .map(|(found, _)| found.position)
                    .filter(|position| position.index() <= trimmed && !is_kept(*position, keep))
                    .collect();
                index.forget(&gone);
                naive.retain(|(found, _)| !gone.contains(&found.position));
            }
            Step::Search {
                filters,
                after,
                bytes_max,
            } => {
                let filters: Vec<TopicFilter> = filters
                    .into_iter()
                    .map(|filter| TopicFilter::from_static(FILTERS[filter]))
                    .collect();
                let after = Position(after << 14);
                let mut expected = Vec::new();
                let (mut bytes, mut is_cut) = (0, false);
                for (found, topic) in &naive {
                    if found.position <= after || !filters.iter().any(|f| f.matches(topic)) {
                        continue;
                    }
                    bytes += found.bytes as usize;
                    if bytes > bytes_max && !expected.is_empty() {
                        is_cut = true;
                        break;
                    }
                    expected.push(*found);
                }
                let search = index.search(&filters, after, bytes_max, u32::MAX);
                assert_eq!(search.upto.is_some(), is_cut);
                assert_eq!(search.found, expected);
                let mut in_steps = Vec::new();
                let mut from = Some(after);
                while let Some(after) = from {
                    let step = index.search(&filters, after, bytes_max, 5);
                    assert!(step.upto.is_none_or(|upto| upto > after));
                    in_steps.extend(step.found);
                    from = step.upto;
                }
                let all = index.search(&filters, after, usize::MAX, u32::MAX).found;
                assert_eq!(in_steps, all);
            }
        }
        let all: Vec<Position> = naive.iter().map(|(found, _)| found.position).collect();
        let found: Vec<Found> = naive.iter().map(|(found, _)| *found).collect();
        assert_eq!(index.at(&all), found);
        assert_eq!(index.at(&[Position::at(last + 1, 3)]), []);
        let kept = naive.iter().filter(|(f, _)| f.position.index() <= trimmed);
        let bytes = kept.clone().map(|(found, _)| u64::from(found.bytes));
        assert_eq!(index.kept_bytes(), bytes.sum::<u64>());
        assert_eq!(index.kept_count() as usize, kept.count());
        let mut topics: Vec<&TopicName> = naive.iter().map(|(_, topic)| topic).collect();
        topics.sort_unstable();
        topics.dedup();
        assert!(index.topic_count() >= topics.len());
        let is_swept = index.kept.gone() == 0;
        assert!(
            !is_swept || index.topic_count() == topics.len(),
            "a topic without messages goes"
        );
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_a_list_finds(steps in steps()) {
        check(steps, 0);
    }

    #[test]
    fn numbers_wrap_around(steps in steps()) {
        check(steps, u32::MAX - 40);
    }
}

fn filled(messages: u32, topics: u32) -> TopicIndex {
    let mut index = TopicIndex::default();
    for number in 0..messages {
        let topic = TopicName::try_from(format!("chat/user/{}/inbox", number % topics)).unwrap();
        let found = Found {
            position: Position::at(u64::from(1 + number / 100), number % 100),
            offset: number % 100 * 300,
            bytes: 300,
        };
        index.add(&topic, found);
    }
    index
}

#[test]
fn many_kept_messages_are_swept_out() {
    let mut index = filled(20_000, 50);
    let all: Vec<Position> = (0..20_000)
        .map(|number| Position::at(1 + number / 100, (number % 100) as u32))
        .collect();
    index.trim(200, &all);
    assert_eq!(index.kept_count(), 20_000);
    let (kept, gone): (Vec<Position>, Vec<Position>) = all
        .iter()
        .partition(|position| position.ordinal() % 10 == 0);
    index.forget(&gone);
    assert_eq!(index.kept_count() as usize, kept.len());
    assert_eq!(index.kept.gone(), 0, "swept");
    let filter = [TopicFilter::from_static("#")];
    let found: Vec<Position> = index
        .search(&filter, Position::default(), usize::MAX, u32::MAX)
        .found
        .iter()
        .map(|found| found.position)
        .collect();
    assert_eq!(found, kept);
    let topics = index.topic_count();
    assert_eq!(topics, 5, "every tenth message is of one of five topics");
}

#[test]
fn ranges_end_between_entries() {
    let index = filled(1000, 7);
    let waiting = index.oldest_young(9, 150, 100);
    assert_eq!(
        waiting.upto, 2,
        "the third entry would begin beyond the limit"
    );
    assert_eq!(waiting.messages.len(), 200);
    assert_eq!(waiting.topics.len(), 7);
    let waiting = index.oldest_young(9, 10_000, 100);
    assert_eq!((waiting.upto, waiting.messages.len()), (9, 900));
}

#[test]
#[ignore = "prints figures"]
fn memory_and_speed() {
    use std::time::Instant;
    for (messages, topics) in [
        (1_000_000, 200),
        (1_000_000, 100_000),
        (1_000_000, 1_000_000),
    ] {
        let start = Instant::now();
        let index = filled(messages, topics);
        let built = start.elapsed();
        let start = Instant::now();
        let filter = [TopicFilter::from_static("chat/user/77/inbox")];
        let found = index
            .search(&filter, Position::default(), usize::MAX, u32::MAX)
            .found
            .len();
        let exact = start.elapsed();
        let start = Instant::now();
        let filter = [TopicFilter::from_static("chat/user/77/#")];
        let by_prefix = index
            .search(&filter, Position::at(5000, 0), 1 << 20, u32::MAX)
            .found
            .len();
        let wildcard = start.elapsed();
        let start = Instant::now();
        let filter = [TopicFilter::from_static("chat/+/77/inbox")];
        let by_scan = index
            .search(&filter, Position::at(0, 0), usize::MAX, u32::MAX)
            .found
            .len();
        let scan = start.elapsed();
        let bytes = index.memory() as f64 / f64::from(messages);
        println!(
            "{messages} messages, {topics} topics: built in {built:?}, {bytes:.1} bytes a message; exact: {found} in {exact:?}; \
             prefix: {by_prefix} in {wildcard:?}; scan: {by_scan} in {scan:?}"
        );
    }
}
