//! Matching among 10, 10^5 and 10^6 filters, and a fan-out. `cargo bench -p magpie-router`.
//!
//! Filters are those of a messenger: per user an inbox, two thirds of them exact, one third with a `+`; five observers
//! with wildcards in front. "same" asks for one topic again and again, "random" for any user's.

#![expect(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use magpie_codec::{TopicFilter, TopicName};
use magpie_router::{CacheLimits, FilterMap, MatchCache, Matches, RouteTable, Router};

const SIZES: [usize; 3] = [10, 100_000, 1_000_000];

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).expect("valid")
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).expect("valid")
}

fn user_filter(user: usize) -> TopicFilter {
    filter(&if user.is_multiple_of(3) {
        format!("inbox/{user}/+")
    } else {
        format!("inbox/{user}/new")
    })
}

fn observers() -> [TopicFilter; 5] {
    ["inbox/+/alarm", "+/status", "chat/#", "$SYS/#", "+/+/+/log"].map(filter)
}

fn topics(users: usize, count: usize) -> Vec<TopicName> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    (0..count)
        .map(|_| topic(&format!("inbox/{}/new", random() % users)))
        .collect()
}

fn matching(c: &mut Criterion) {
    for size in SIZES {
        let users = size - 5;
        let mut map = FilterMap::new();
        let mut slowest = std::time::Duration::ZERO;
        let filters: Vec<TopicFilter> = (0..users).map(user_filter).chain(observers()).collect();
        let start = Instant::now();
        for filter in &filters {
            let before = Instant::now();
            map.insert(filter, 1_u64).expect("within limits");
            slowest = slowest.max(before.elapsed());
        }
        let each = start.elapsed() / size as u32;
        println!(
            "{size} filters: {} B each, {each:?} per insert, slowest {slowest:?}",
            map.heap_bytes() / size
        );

        let mut group = c.benchmark_group("filter_map");
        let same = topics(users, 1);
        // Distinct objects, so that reading the topic itself costs the same at each size.
        let random = topics(users, 1 << 16);
        let misses: Vec<TopicName> = (0..1 << 16)
            .map(|n| topic(&format!("other/{n}/new")))
            .collect();
        for (name, topics) in [("same", &same), ("random", &random), ("miss", &misses)] {
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    at = (at + 1) % topics.len();
                    let mut sum = 0;
                    map.for_each_match(black_box(&topics[at]), |_, value| sum += value);
                    sum
                });
            });
        }
        group.finish();
    }
}

fn routing(c: &mut Criterion) {
    let mut group = c.benchmark_group("router");
    for size in SIZES {
        let users = size - 5;
        let mut router = Router::new();
        let mut routes = RouteTable::new();
        for (key, filter) in (0..users).map(user_filter).chain(observers()).enumerate() {
            router
                .subscribe(&filter, key as u32, [0_u32; 2])
                .expect("within limits");
            routes.add(&filter, key as u64 % 3).expect("within limits");
        }
        println!("{size} routes: {} B each", routes.heap_bytes() / size);
        let random = topics(users, 1 << 16);
        let same = topics(users, 1);
        let mut matches = Matches::new();
        for (name, topics) in [("same", &same), ("random", &random)] {
            let mut at = 0;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                b.iter(|| {
                    at = (at + 1) % topics.len();
                    router.matches(black_box(&topics[at]), &mut matches);
                    let mut sum = 0;
                    router.for_each_subscriber(&matches, |key, _| sum += key);
                    sum
                });
            });
            group.bench_function(BenchmarkId::new(format!("nodes_{name}"), size), |b| {
                b.iter(|| {
                    at = (at + 1) % topics.len();
                    routes.nodes_for(black_box(&topics[at]))
                });
            });
        }
        let mut cache = MatchCache::new(CacheLimits::default());
        group.bench_function(BenchmarkId::new("cached_same", size), |b| {
            b.iter(|| cache.get_or_find(black_box(&same[0]), 1, || (7, 0)));
        });
    }
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fan_out");
    for (name, observers) in [
        ("alone", 0),
        ("with_100_observers", 100),
        ("with_100000_observers", 100_000),
    ] {
        let mut router = Router::new();
        for key in 0..100_000_u32 {
            router
                .subscribe(&filter("chat/room"), key, [key; 2])
                .expect("within limits");
        }
        for key in 0..observers {
            router
                .subscribe(&filter("chat/#"), key * 7, [key; 2])
                .expect("within limits");
        }
        let mut matches = Matches::new();
        router.matches(&topic("chat/room"), &mut matches);
        group.throughput(Throughput::Elements(100_000 + u64::from(observers)));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut sum = 0;
                router.for_each_subscriber(&matches, |key, options| {
                    sum += u64::from(key) + u64::from(options[0][0])
                });
                sum
            });
        });
        if observers == 0 {
            group.throughput(Throughput::Elements(1));
            group.bench_function("leave_and_join", |b| {
                let room = filter("chat/room");
                let mut key = 0;
                b.iter(|| {
                    key = (key + 7919) % 100_000;
                    let options = router.unsubscribe(&room, key).expect("it is there");
                    router.subscribe(&room, key, options)
                });
            });
        }
    }
    group.finish();
}

fn short() -> Criterion {
    use std::time::Duration;
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = matching, routing, fan_out }
criterion_main!(benches);
