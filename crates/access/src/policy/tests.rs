#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use magpie_codec::{Text, TopicFilter, TopicName};
use proptest::prelude::*;

use crate::{Action, Change, Effect, Pattern, Policy, Rule, Subject, Tables, Who};

fn rule(effect: Effect, action: Action, who: &str, pattern: &str) -> Rule {
    Rule {
        effect,
        action,
        who: who.parse().unwrap(),
        pattern: Pattern::try_from(pattern).unwrap(),
    }
}

fn policy(rules: &[Rule]) -> Policy {
    let mut tables = Tables::default();
    for rule in rules {
        let rule = rule.clone();
        tables
            .apply(Change::AddRule { rule }, &mut Vec::new())
            .unwrap();
    }
    Policy::new(&tables)
}

fn subject(username: Option<&str>, client_id: &str) -> Subject {
    Subject {
        username: username.map(|name| Text::try_from(name).unwrap()),
        client_id: Text::try_from(client_id).unwrap(),
        is_superuser: false,
        own_rules: None,
    }
}

fn allow(pattern: &str) -> Rule {
    rule(Effect::Allow, Action::All, "everybody", pattern)
}

fn deny(pattern: &str) -> Rule {
    rule(Effect::Deny, Action::All, "everybody", pattern)
}

#[test]
fn without_rules_everything_is_allowed() {
    let anna = subject(Some("anna"), "c1");
    assert!(policy(&[]).is_open());
    assert!(policy(&[]).may_publish(&anna, "a/b"));
    assert!(policy(&[]).may_subscribe(&anna, "#"));
}

#[test]
fn with_one_rule_the_rest_is_refused() {
    let policy = policy(&[rule(Effect::Allow, Action::Publish, "user:anna", "a/#")]);
    let (anna, bert) = (subject(Some("anna"), "c1"), subject(Some("bert"), "c2"));
    assert!(policy.may_publish(&anna, "a"));
    assert!(policy.may_publish(&anna, "a/b/c"));
    assert!(!policy.may_publish(&anna, "b"));
    assert!(!policy.may_subscribe(&anna, "a/b"));
    assert!(!policy.may_publish(&bert, "a/b"));
}

#[test]
fn deny_wins_whatever_the_order_and_whoever_is_meant() {
    for rules in [
        [
            allow("a/#"),
            rule(Effect::Deny, Action::All, "client:c1", "a/b"),
        ],
        [
            rule(Effect::Deny, Action::All, "everybody", "a/b"),
            rule(Effect::Allow, Action::All, "user:anna", "a/#"),
        ],
    ] {
        let policy = policy(&rules);
        let anna = subject(Some("anna"), "c1");
        assert!(policy.may_publish(&anna, "a/c"));
        assert!(!policy.may_publish(&anna, "a/b"));
        assert!(policy.may_subscribe(&anna, "a/c/#"));
        assert!(!policy.may_subscribe(&anna, "a/#"));
        assert!(!policy.may_subscribe(&anna, "a/+"));
    }
}

#[test]
fn a_superuser_is_not_asked() {
    let policy = policy(&[deny("#")]);
    let mut anna = subject(Some("anna"), "c1");
    anna.is_superuser = true;
    assert!(policy.may_publish(&anna, "a"));
    assert!(policy.may_subscribe(&anna, "$SYS/#"));
}

#[test]
fn wildcards_do_not_reach_dollar_topics() {
    let policy = policy(&[allow("#"), allow("+/x")]);
    let anna = subject(Some("anna"), "c1");
    assert!(policy.may_subscribe(&anna, "#"));
    assert!(policy.may_subscribe(&anna, "+/x"));
    assert!(!policy.may_subscribe(&anna, "$SYS/#"));
    assert!(!policy.may_publish(&anna, "$SYS/x"));
}

#[test]
fn own_rules_add_to_those_of_the_cluster_and_close_an_open_one() {
    let mut anna = subject(Some("anna"), "c1");
    anna.own_rules = Some(Arc::from([allow("own/%u")]));
    let open = policy(&[]);
    assert!(open.may_publish(&anna, "own/anna"));
    assert!(!open.may_publish(&anna, "own/bert"));
    let shared = policy(&[allow("all"), deny("own/anna")]);
    assert!(shared.may_publish(&anna, "all"));
    assert!(!shared.may_publish(&anna, "own/anna"));
    anna.own_rules = Some(Arc::from([deny("all")]));
    assert!(!shared.may_publish(&anna, "all"));
    anna.own_rules = Some(Arc::from([]));
    assert!(!open.may_publish(&anna, "all"));
}

#[test]
fn anonymous_clients_are_their_own_kind() {
    let policy = policy(&[
        rule(Effect::Allow, Action::All, "anonymous", "lobby"),
        allow("u/%u"),
        allow("c/%c"),
    ]);
    let (nobody, anna) = (subject(None, "c1"), subject(Some("anna"), "c1"));
    assert!(policy.may_publish(&nobody, "lobby"));
    assert!(!policy.may_publish(&anna, "lobby"));
    assert!(!policy.may_publish(&nobody, "u/"));
    assert!(!policy.may_publish(&nobody, "u/%u"));
    assert!(policy.may_publish(&nobody, "c/c1"));
}

#[test]
fn names_are_filled_in_within_a_level_too() {
    let policy = policy(&[allow("dev-%c/%u-%c/x")]);
    let anna = subject(Some("anna"), "7");
    assert!(policy.may_publish(&anna, "dev-7/anna-7/x"));
    assert!(!policy.may_publish(&anna, "dev-8/anna-7/x"));
    assert!(!policy.may_publish(&anna, "dev-7/anna-/x"));
}

/// What a client could call itself to get more than its name.
const INJECTIONS: [&str; 12] = [
    "+", "#", "a/b", "a/#", "/", "+/+", "x+", "#x", "$SYS", "$", "%u", "%c",
];

#[test]
fn no_name_acts_as_a_wildcard_or_as_more_than_one_level() {
    let policy = policy(&[
        allow("u/%u/#"),
        allow("c/%c"),
        allow("%u/own/#"),
        allow("%c/own"),
        allow("dev-%c/#"),
    ]);
    for name in INJECTIONS {
        let both = subject(Some(name), name);
        let is_plain = !name.contains(['+', '#', '/']);
        for filter in [
            "u/a/b",
            "u/a/x",
            "u/+/x",
            "u/#",
            "u/a/#",
            "c/a/b",
            "c/+",
            "c/#",
            "+/own/x",
            "a/own/x",
            "$SYS/own/x",
            "$SYS/own",
            "$/own",
            "#",
            "+/+/+",
            "dev-+/x",
            "dev-a/b",
            "dev-a/#",
        ] {
            let is_its_own =
                is_plain && filter.contains(&format!("/{name}")) && !filter.contains(['+', '#']);
            assert!(
                !policy.may_subscribe(&both, filter) || is_its_own,
                "{name:?} got {filter}"
            );
            if !filter.contains(['+', '#']) {
                assert!(!policy.may_publish(&both, filter), "{name:?} sent {filter}");
            }
        }
        // A `$` behind the first level is a character like any other.
        assert_eq!(
            policy.may_publish(&both, &format!("c/{name}")),
            is_plain,
            "{name:?}"
        );
    }
}

#[test]
fn a_name_with_wildcards_does_not_get_around_a_deny() {
    let policy = policy(&[allow("#"), deny("secret/%u"), deny("c/%c/#")]);
    for name in INJECTIONS {
        let both = subject(Some(name), name);
        assert!(!policy.may_subscribe(&both, "secret/+"), "{name:?}");
        assert!(!policy.may_subscribe(&both, "secret/#"), "{name:?}");
        assert!(!policy.may_subscribe(&both, "c/+/x"), "{name:?}");
        assert!(!policy.may_subscribe(&both, "#"), "{name:?}");
        assert!(policy.may_publish(&both, "secret/other"), "{name:?}");
    }
}

#[test]
fn what_cannot_be_a_name_cannot_be_set() {
    for who in ["user:", "client:", "user:a\0b", "somebody", "user", ""] {
        assert!(who.parse::<Who>().is_err(), "{who:?}");
    }
    for pattern in ["", "a#", "a/#/b", "+a", "$share/g/a", "a\0"] {
        assert!(Pattern::try_from(pattern).is_err(), "{pattern:?}");
    }
    assert!(Pattern::try_from("a/".repeat(128)).is_err());
    assert!(Pattern::try_from("a".repeat(5000)).is_err());
}

/// Levels of topics: `z` stands for all that no pattern names.
const LEVELS: [&str; 5] = ["a", "b", "", "$s", "z"];

/// Every topic of up to four levels of [`LEVELS`].
fn universe() -> Vec<TopicName> {
    let mut topics: Vec<String> = Vec::new();
    let mut longest: Vec<String> = LEVELS.iter().map(|level| (*level).to_owned()).collect();
    for _ in 0..4 {
        topics.extend(longest.iter().cloned());
        longest = longest
            .iter()
            .flat_map(|topic| LEVELS.iter().map(move |level| format!("{topic}/{level}")))
            .collect();
    }
    topics
        .into_iter()
        .filter_map(|topic| topic.try_into().ok())
        .collect()
}

/// The pattern as a plain filter for a subject with harmless names; `None`: it matches nothing.
fn filled(pattern: &str, subject: &Subject) -> Option<TopicFilter> {
    let mut text = pattern.replace("%c", &subject.client_id);
    if text.contains("%u") {
        text = text.replace("%u", subject.username.as_ref()?);
    }
    Some(TopicFilter::try_from(text).unwrap())
}

/// What the rules say, by trying every topic.
fn naive(
    rules: &[Rule],
    own: Option<&[Rule]>,
    subject: &Subject,
    action: Action,
    filter: &str,
    topics: &[TopicName],
) -> bool {
    let asked = TopicFilter::try_from(filter).unwrap();
    let asked: Vec<_> = topics.iter().filter(|topic| asked.matches(topic)).collect();
    let says = |effect: Effect| {
        let all = rules.iter().chain(own.unwrap_or_default());
        all.filter(|rule| rule.effect == effect)
            .filter(|rule| rule.action == Action::All || rule.action == action)
            .filter(|rule| match &rule.who {
                Who::Everybody => true,
                Who::Anonymous => subject.username.is_none(),
                Who::User(name) => subject.username.as_deref() == Some(name.as_str()),
                Who::Client(id) => subject.client_id.as_str() == id,
            })
            .filter_map(|rule| filled(rule.pattern.as_str(), subject))
            .any(|pattern| match effect {
                Effect::Allow => asked.iter().all(|topic| pattern.matches(topic)),
                Effect::Deny => asked.iter().any(|topic| pattern.matches(topic)),
            })
    };
    if says(Effect::Deny) {
        return false;
    }
    says(Effect::Allow) || (rules.is_empty() && own.is_none())
}

fn filter_of(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let level = prop::sample::select(levels);
    (
        prop::collection::vec(level, 1..4),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(levels, with_rest)| {
            let mut text = levels.join("/");
            if with_rest {
                text.push_str("/#");
            }
            match text.as_str() {
                "" | "/#" => String::from("#"),
                _ => text,
            }
        })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let one = (
        prop::bool::weighted(0.35),
        0..3_usize,
        prop::sample::select(
            &[
                "everybody",
                "everybody",
                "anonymous",
                "user:a",
                "user:b",
                "client:b",
            ][..],
        ),
        filter_of(&["a", "b", "+", "+", "$s", "", "%u", "%c", "%c"]),
    )
        .prop_map(|(is_deny, action, who, pattern)| {
            let effect = if is_deny { Effect::Deny } else { Effect::Allow };
            let action = [Action::Publish, Action::Subscribe, Action::All][action];
            rule(effect, action, who, &pattern)
        });
    prop::collection::vec(one, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn the_policy_decides_as_trying_every_topic_would(
        rules in rules(),
        own in prop::option::weighted(0.3, rules()),
        username in prop::sample::select(&[None, Some("a"), Some("b")][..]),
        client_id in prop::sample::select(&["a", "b"][..]),
        filter in filter_of(&["a", "b", "+", "$s", "", "z"]),
    ) {
        let policy = policy(&rules);
        let topics = universe();
        let mut asking = subject(username, client_id);
        asking.own_rules = own.clone().map(Arc::from);
        let expected = |action| naive(&rules, own.as_deref(), &asking, action, &filter, &topics);
        prop_assert_eq!(
            policy.may_subscribe(&asking, &filter),
            expected(Action::Subscribe),
            "subscribe"
        );
        if !filter.contains(['+', '#']) {
            prop_assert_eq!(policy.may_publish(&asking, &filter), expected(Action::Publish), "publish");
            prop_assert_eq!(policy.may_read(&asking, &filter), expected(Action::Subscribe), "read");
        }
    }

    /// Whatever is allowed whole is allowed in each part, also for names that no honest client has.
    #[test]
    fn a_subscription_reads_nothing_that_may_not_be_read(
        rules in rules(),
        username in prop::sample::select(&INJECTIONS[..]),
        client_id in prop::sample::select(&INJECTIONS[..]),
        filter in filter_of(&["a", "b", "+", "$s", "", "z"]),
    ) {
        let policy = policy(&rules);
        let asking = subject(Some(username), client_id);
        if policy.may_subscribe(&asking, &filter) {
            let filter = TopicFilter::try_from(filter).unwrap();
            for topic in universe().iter().filter(|topic| filter.matches(topic)) {
                prop_assert!(policy.may_read(&asking, topic.as_str()), "{}", topic);
            }
        }
    }
}
