#![expect(clippy::unwrap_used, reason = "tests")]

use core::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{Action, Effect, PasswordHash, Pattern, Policy};

/// A hash without the cost of one.
fn hash(text: &str) -> PasswordHash {
    let salt = "c29tZXNhbHRzb21lc2FsdA";
    let text = format!("$argon2id$v=19$m=8,t=1,p=1${salt}${text}");
    PasswordHash::try_from(text).unwrap()
}

fn user(text: &str) -> User {
    User {
        password: hash(text),
        scram: None,
        is_superuser: false,
    }
}

fn add(name: &str, user: User) -> Change {
    Change::SetUser {
        name: name.to_owned(),
        user,
        expect: UserIs::New,
    }
}

fn add_rule(pattern: &str) -> Change {
    Change::AddRule {
        rule: Rule {
            effect: Effect::Allow,
            action: Action::All,
            who: "everybody".parse().unwrap(),
            pattern: Pattern::try_from(pattern).unwrap(),
        },
    }
}

fn ban(target: &str, until_ms: Option<u64>, now_ms: u64) -> Change {
    Change::AddBan {
        target: target.parse().unwrap(),
        ban: Ban {
            reason: String::from("why not"),
            until_ms,
        },
        now_ms,
    }
}

fn apply(tables: &mut Tables, change: Change) -> Result<Changed, Error> {
    tables.apply(change, &mut Vec::new())
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbA";

#[test]
fn a_repeat_changes_nothing_and_another_of_the_name_is_refused() {
    let mut tables = Tables::default();
    assert_eq!(apply(&mut tables, add("anna", user(A))), Ok(Changed::Done));
    let revision = tables.revision();
    assert_eq!(apply(&mut tables, add("anna", user(A))), Ok(Changed::Done));
    assert_eq!(
        apply(&mut tables, add("anna", user(B))),
        Err(Error::UserExists)
    );
    assert_eq!(tables.revision(), revision);
    assert_eq!(tables.snapshot().user("anna"), Some(&user(A)));
}

#[test]
fn a_new_password_leaves_the_rest_as_it_is() {
    let mut tables = Tables::default();
    let mut anna = user(A);
    anna.is_superuser = true;
    apply(&mut tables, add("anna", anna)).unwrap();
    let set = |name: &str| Change::SetPassword {
        name: name.to_owned(),
        password: hash(B),
        scram: None,
    };
    assert_eq!(apply(&mut tables, set("anna")), Ok(Changed::Done));
    assert_eq!(apply(&mut tables, set("bert")), Ok(Changed::Absent));
    let known = tables.snapshot();
    let known = known.user("anna").unwrap();
    assert!(known.is_superuser);
    assert_eq!(known.password, hash(B));
}

#[test]
fn numbers_of_rules_are_never_used_again() {
    let mut tables = Tables::default();
    let first = apply(&mut tables, add_rule("a"));
    assert_eq!(first, Ok(Changed::Rule(RuleId(1))));
    assert_eq!(apply(&mut tables, add_rule("a")), first);
    let remove = |id| Change::RemoveRule { id: RuleId(id) };
    assert_eq!(apply(&mut tables, remove(1)), Ok(Changed::Done));
    assert_eq!(
        apply(&mut tables, remove(1)),
        Ok(Changed::Done),
        "once more"
    );
    for never in [0, 2] {
        assert_eq!(apply(&mut tables, remove(never)), Ok(Changed::Absent));
    }
    assert_eq!(
        apply(&mut tables, add_rule("a")),
        Ok(Changed::Rule(RuleId(2)))
    );
}

#[test]
fn the_table_of_rules_has_a_limit() {
    let mut tables = Tables::default();
    let rules = Arc::make_mut(&mut tables.now.rules);
    let Change::AddRule { rule } = add_rule("a") else {
        unreachable!();
    };
    rules.extend((0..RULES_MAX as u64).map(|id| (RuleId(id), rule.clone())));
    assert_eq!(
        apply(&mut tables, add_rule("b")),
        Err(Error::Full(RULES_MAX, "rules"))
    );
}

#[test]
fn bans_find_whom_they_mean_while_they_hold() {
    let mut tables = Tables::default();
    for target in [
        "client:c1",
        "user:bert",
        "address:10.0.0.7",
        "network:192.168.0.0/16",
        "network:2001:db8::/32",
        "network:::ffff:203.0.113.0/120",
    ] {
        apply(&mut tables, ban(target, Some(1000), 0)).unwrap();
    }
    let policy = Policy::new(&tables);
    let is_banned = |client: &str, user: Option<&str>, address: &str, now_ms| {
        let address: IpAddr = address.parse().unwrap();
        policy.ban_of(client, user, address, now_ms).is_some()
    };
    assert!(is_banned("c1", None, "1.2.3.4", 0));
    assert!(is_banned("c2", None, "203.0.113.9", 0));
    assert!(!is_banned("c1", None, "1.2.3.4", 1000));
    assert!(is_banned("c2", Some("bert"), "1.2.3.4", 0));
    assert!(!is_banned("bert", Some("c1"), "1.2.3.4", 0));
    assert!(is_banned("c2", None, "10.0.0.7", 0));
    assert!(is_banned("c2", None, "::ffff:10.0.0.7", 0));
    assert!(is_banned("c2", None, "192.168.200.1", 0));
    assert!(is_banned("c2", None, "::ffff:192.168.200.1", 0));
    assert!(!is_banned("c2", None, "192.169.0.1", 0));
    assert!(is_banned("c2", None, "2001:db8::1", 0));
    assert!(!is_banned("c2", None, "2001:db9::1", 0));
    assert!(policy.address_ban("10.0.0.7".parse().unwrap(), 0).is_some());
}

#[test]
fn bans_that_are_over_are_taken_away_with_the_next_change() {
    let mut tables = Tables::default();
    apply(&mut tables, ban("network:10.0.0.0/8", Some(100), 0)).unwrap();
    apply(&mut tables, ban("client:a", None, 0)).unwrap();
    apply(&mut tables, ban("client:b", Some(200), 0)).unwrap();
    let mut touched = Vec::new();
    tables
        .apply(ban("client:c", None, 150), &mut touched)
        .unwrap();
    assert!(touched.contains(&Key::Ban("network:10.0.0.0/8".parse().unwrap())));
    let now = tables.snapshot();
    assert!(now.networks.is_empty());
    let left: Vec<String> = now
        .bans_after(None, 10)
        .into_iter()
        .map(|(target, _)| target.to_string())
        .collect();
    assert_eq!(left, ["client:a", "client:b", "client:c"]);
    // One that is changed ends when the change says.
    apply(&mut tables, ban("client:b", None, 150)).unwrap();
    apply(&mut tables, ban("client:d", None, 250)).unwrap();
    assert_eq!(tables.snapshot().ban_count(), 4);
}

#[test]
fn a_ban_that_is_over_before_it_begins_is_none() {
    let mut tables = Tables::default();
    let mut touched = Vec::new();
    let over = tables.apply(ban("client:a", Some(5), 5), &mut touched);
    assert_eq!((over, touched.len()), (Ok(Changed::Done), 0));
    // It takes the place of one that holds.
    apply(&mut tables, ban("client:a", None, 0)).unwrap();
    apply(&mut tables, ban("client:a", Some(5), 5)).unwrap();
    assert_eq!(tables.snapshot().ban_count(), 0);
}

#[test]
fn a_snapshot_does_not_change_and_pages_are_in_order() {
    let mut tables = Tables::default();
    for number in 0..100 {
        apply(&mut tables, add(&format!("user{number:03}"), user(A))).unwrap();
    }
    let then = tables.snapshot();
    let remove = |name: &str| Change::RemoveUser {
        name: name.to_owned(),
    };
    apply(&mut tables, remove("user007")).unwrap();
    assert_eq!(apply(&mut tables, remove("user007")), Ok(Changed::Absent));
    assert!(then.user("user007").is_some());
    let now = tables.snapshot();
    assert!(now.user("user007").is_none());
    assert_eq!((then.user_count(), now.user_count()), (100, 99));
    let page: Vec<_> = now.users_after(Some("user005"), 3);
    let names: Vec<_> = page.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["user006", "user008", "user009"]);
}

#[test]
fn the_tables_can_be_built_again_from_their_rows() {
    let mut tables = Tables::default();
    apply(&mut tables, add("anna", user(A))).unwrap();
    apply(&mut tables, add_rule("a/%u/#")).unwrap();
    apply(&mut tables, add_rule("b")).unwrap();
    apply(&mut tables, Change::RemoveRule { id: RuleId(2) }).unwrap();
    apply(&mut tables, ban("network:10.0.0.0/8", Some(100), 0)).unwrap();
    apply(&mut tables, ban("client:x", None, 0)).unwrap();
    let mut copy = Tables::default();
    for key in tables.keys() {
        let value = tables.value(&key).unwrap();
        let key = Key::decode(&key.encode()).unwrap();
        copy.load(key, &value).unwrap();
    }
    let sorted = |tables: &Tables| {
        let mut rows: Vec<_> = tables
            .keys()
            .map(|key| (key.encode(), tables.value(&key)))
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(sorted(&copy), sorted(&tables));
    // What is derived is there, too: ends, networks, the last number.
    for tables in [&mut tables, &mut copy] {
        assert_eq!(apply(tables, add_rule("c")), Ok(Changed::Rule(RuleId(3))));
        apply(tables, ban("client:y", None, 500)).unwrap();
        assert_eq!(tables.snapshot().ban_count(), 2);
        assert!(tables.snapshot().networks.is_empty());
    }
    assert_eq!(sorted(&copy), sorted(&tables));
    assert!(Key::decode(b"").is_err() && Key::decode(b"rxx").is_err());
    assert!(copy.load(Key::Counters, b"nonsense").is_err());
}

#[test]
fn texts_of_targets_are_read_back() {
    for text in [
        "client:a:b",
        "user:x/y",
        "address:10.0.0.1",
        "address:2001:db8::1",
        "network:10.0.0.0/8",
        "network:0.0.0.0/0",
        "network:::/0",
    ] {
        let target: BanTarget = text.parse().unwrap();
        assert_eq!(target.to_string(), text);
    }
    let host_bits: BanTarget = "network:10.1.2.3/8".parse().unwrap();
    assert_eq!(host_bits.to_string(), "network:10.0.0.0/8");
    for text in [
        "",
        "client:",
        "address:x",
        "network:10.0.0.0",
        "network:10.0.0.0/33",
        "network:::/129",
        "network:10.0.0.0/-1",
        "somebody",
    ] {
        assert!(text.parse::<BanTarget>().is_err(), "{text:?}");
    }
}

#[test]
fn changes_are_bounded() {
    let mut tables = Tables::default();
    assert!(apply(&mut tables, add("", user(A))).is_err());
    assert!(apply(&mut tables, add(&"x".repeat(1025), user(A))).is_err());
    assert!(apply(&mut tables, add("a\0b", user(A))).is_err());
    let long = Change::AddBan {
        target: BanTarget::User(String::from("x")),
        ban: Ban {
            reason: "x".repeat(257),
            until_ms: None,
        },
        now_ms: 0,
    };
    assert_eq!(apply(&mut tables, long), Err(Error::Reason));
    assert_eq!(tables.revision(), 0);
}

/// Few names and times, so that changes meet.
fn any_change() -> impl Strategy<Value = Change> {
    let name = || prop::sample::select(&["anna", "bert", "carl"][..]).prop_map(str::to_owned);
    let hash = prop::sample::select(&[A, B][..]).prop_map(hash);
    let expect = prop::sample::select(&[UserIs::New, UserIs::NewOrKnown][..]);
    let target = prop::sample::select(
        &[
            "client:a",
            "user:b",
            "address:10.0.0.1",
            "network:10.0.0.0/8",
            "network:::/16",
        ][..],
    );
    let target = target.prop_map(|text| text.parse::<BanTarget>().unwrap());
    let pattern = prop::sample::select(&["a", "b/#", "%u/+"][..]);
    prop_oneof![
        (name(), hash.clone(), any::<bool>(), expect).prop_map(
            |(name, password, is_superuser, expect)| Change::SetUser {
                name,
                user: User {
                    password,
                    scram: None,
                    is_superuser,
                },
                expect,
            }
        ),
        (name(), hash).prop_map(|(name, password)| Change::SetPassword {
            name,
            password,
            scram: None,
        }),
        (name(), any::<bool>())
            .prop_map(|(name, is_superuser)| Change::SetSuperuser { name, is_superuser }),
        name().prop_map(|name| Change::RemoveUser { name }),
        pattern.prop_map(add_rule),
        (0..6_u64).prop_map(|id| Change::RemoveRule { id: RuleId(id) }),
        (target.clone(), prop::option::of(0..20_u64), 0..20_u64).prop_map(
            |(target, until_ms, now_ms)| Change::AddBan {
                target,
                ban: Ban {
                    reason: String::new(),
                    until_ms,
                },
                now_ms,
            }
        ),
        (target, 0..20_u64).prop_map(|(target, now_ms)| Change::RemoveBan { target, now_ms }),
    ]
}

proptest! {
    /// What a checkpoint is told of the changes is all that it needs.
    #[test]
    fn the_touched_rows_are_those_that_differ(changes in prop::collection::vec(any_change(), 0..60)) {
        let mut tables = Tables::default();
        let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for change in changes {
            let (before, revision) = (stored.clone(), tables.revision());
            let mut touched = Vec::new();
            let changed = tables.apply(change.clone(), &mut touched);
            for key in &touched {
                match tables.value(key) {
                    Some(value) => drop(stored.insert(key.encode(), value)),
                    None => drop(stored.remove(&key.encode())),
                }
            }
            let whole: BTreeMap<_, _> = tables
                .keys()
                .map(|key| (key.encode(), tables.value(&key).unwrap()))
                .collect();
            prop_assert_eq!(&stored, &whole);
            // The revision tells whether anything differs.
            prop_assert_eq!(before == stored, revision == tables.revision());
            // Repeating it does no harm: at most what was answered is another.
            let mut again = Vec::new();
            let repeated = tables.apply(change, &mut again);
            prop_assert!(again.is_empty(), "{:?} then {:?}", changed, repeated);
            let now = tables.snapshot();
            prop_assert_eq!(now.ban_count(), now.bans_after(None, 100).len());
            prop_assert_eq!(now.user_count(), now.users_after(None, 100).len());
        }
        // The tables that are built of the rows are the same, also in what is derived.
        let mut copy = Tables::default();
        for (key, value) in &stored {
            copy.load(Key::decode(key).unwrap(), value).unwrap();
        }
        prop_assert_eq!(&copy.ban_ends, &tables.ban_ends);
        prop_assert_eq!(&copy.now.networks, &tables.now.networks);
        prop_assert_eq!(copy.last_rule, tables.last_rule);
    }
}
