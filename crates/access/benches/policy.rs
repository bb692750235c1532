//! What a question to the policy costs: with 1,000 rules about everybody, one more for each of 1,000 users, and own rules.

#![expect(missing_docs, reason = "criterion's macros write items without")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use magpie_access::{Action, Change, Effect, Pattern, Policy, Rule, Subject, Tables};
use magpie_codec::Text;

fn rule(effect: Effect, who: &str, pattern: &str) -> Rule {
    Rule {
        effect,
        action: Action::All,
        who: who.parse().expect("who"),
        pattern: Pattern::try_from(pattern).expect("a pattern"),
    }
}

fn tables(general: usize, users: usize) -> Tables {
    let mut tables = Tables::default();
    let mut add = |rule| {
        let added = tables.apply(Change::AddRule { rule }, &mut Vec::new());
        added.expect("there is room");
    };
    for number in 0..general {
        // Half with literals first, half with wildcards and names first, some denies.
        let (site, line) = (number / 50, number % 50);
        let (effect, pattern) = match number % 8 {
            0..4 => (Effect::Allow, format!("site{site}/line{line}/+/value")),
            4 => (Effect::Deny, format!("site{site}/line{line}/admin/#")),
            5 => (Effect::Allow, format!("+/line{line}/kind{site}/#")),
            6 => (Effect::Allow, format!("%u/line{line}/own{site}/#")),
            _ => (Effect::Deny, format!("+/+/secret{number}/+/x")),
        };
        add(rule(effect, "everybody", &pattern));
    }
    for number in 0..users {
        let who = format!("user:user{number}");
        add(rule(Effect::Allow, &who, &format!("users/{number}/#")));
    }
    tables
}

fn questions(c: &mut Criterion) {
    let user = Subject::user(Text::from_static("user7"), Text::from_static("client7"));
    for (general, users) in [(0, 0), (10, 0), (1000, 0), (9000, 1000)] {
        let policy = Policy::new(&tables(general, users));
        let mut group = c.benchmark_group(format!("{general} rules, {users} of users"));
        group.bench_function("publish allowed", |b| {
            b.iter(|| policy.may_publish(&user, black_box("site3/line2/temp/value")));
        });
        group.bench_function("publish by the user's own rule", |b| {
            b.iter(|| policy.may_publish(&user, black_box("users/7/a/b")));
        });
        group.bench_function("publish refused", |b| {
            b.iter(|| policy.may_publish(&user, black_box("elsewhere/line2/other/thing")));
        });
        group.bench_function("subscribe with +", |b| {
            b.iter(|| policy.may_subscribe(&user, black_box("site3/line2/+/value")));
        });
        group.bench_function("subscribe to #", |b| {
            b.iter(|| policy.may_subscribe(&user, black_box("#")));
        });
    }
    let mut own = user;
    own.own_rules = Some(Arc::from(vec![
        rule(Effect::Allow, "everybody", "own/%u/#"),
        rule(Effect::Allow, "everybody", "site3/+/+/value"),
        rule(Effect::Deny, "everybody", "own/+/secret"),
    ]));
    let policy = Policy::new(&tables(1000, 0));
    c.bench_function("1000 rules and 3 of a token: publish allowed", |b| {
        b.iter(|| policy.may_publish(&own, black_box("own/user7/x")));
    });
}

fn compiling(c: &mut Criterion) {
    for (general, users) in [(1000, 0), (9000, 1000)] {
        let tables = tables(general, users);
        c.bench_function(&format!("compile {} rules", general + users), |b| {
            b.iter(|| Policy::new(black_box(&tables)));
        });
    }
}

criterion_group!(benches, questions, compiling);
criterion_main!(benches);
