//! Dependencies point one way, crate by crate.

use std::collections::BTreeSet;
use std::fs;

use super::tree::{fail_on, root};

/// Each crate and those of ours that it uses, lowest first. A crate may only use crates above its line.
const ARROWS: [(&str, &[&str]); 17] = [
    ("failpoint", &[]),
    ("audit", &[]),
    ("codec", &[]),
    ("framing", &[]),
    ("storage", &["failpoint"]),
    ("tls", &[]),
    ("access", &["codec"]),
    ("auth", &["access", "codec", "tls"]),
    ("router", &["codec"]),
    ("session", &["codec"]),
    ("client", &["codec", "tls"]),
    ("state", &["access", "codec", "router"]),
    (
        "cluster",
        &[
            "access",
            "codec",
            "failpoint",
            "router",
            "state",
            "storage",
            "tls",
        ],
    ),
    (
        "broker",
        &[
            "access",
            "audit",
            "auth",
            "cluster",
            "codec",
            "failpoint",
            "framing",
            "router",
            "session",
            "state",
            "tls",
        ],
    ),
    // Shows what the broker, the cluster and the state are called; drives the broker only.
    (
        "admin",
        &["access", "audit", "broker", "cluster", "codec", "state"],
    ),
    (
        "cli",
        &[
            "admin",
            "audit",
            "auth",
            "broker",
            "client",
            "cluster",
            "codec",
            "failpoint",
        ],
    ),
    ("tests", &["client", "codec"]),
];

/// The crates without clock, socket, task, lock and disk.
pub(super) const PURE: [&str; 6] = ["access", "codec", "framing", "router", "session", "state"];

/// What they may use that is not ours: data structures and derives. Whoever adds one here has read that it does no I/O.
const PURE_MAY_USE: [&str; 17] = [
    "argon2",
    "base64",
    "bytes",
    "foldhash",
    "hashbrown",
    "hmac",
    "httparse",
    "pbkdf2",
    "ppp",
    "proptest",
    "serde",
    "serde_json",
    "sha1",
    "sha2",
    "smallvec",
    "subtle",
    "thiserror",
];

#[test]
fn each_crate_uses_what_the_design_says() {
    let mut wrong = Vec::new();
    for (krate, uses) in ARROWS {
        let expected: BTreeSet<String> = uses.iter().map(|used| (*used).to_owned()).collect();
        let found = ours(&dependencies(krate, "dependencies"));
        for used in found.difference(&expected) {
            wrong.push(format!("{krate} must not use {used}"));
        }
        for used in expected.difference(&found) {
            wrong.push(format!(
                "{krate} does not use {used} any more: take the arrow away"
            ));
        }
        // Tests may look as far as the code does.
        for used in ours(&dependencies(krate, "dev-dependencies")).difference(&expected) {
            wrong.push(format!("the tests of {krate} must not use {used}"));
        }
    }
    fail_on(&wrong, "see section 9 of the design, and ARROWS here");
}

#[test]
fn arrows_point_one_way() {
    for (position, (krate, uses)) in ARROWS.iter().enumerate() {
        for used in *uses {
            let below = ARROWS[..position].iter().any(|(name, _)| name == used);
            assert!(below, "{krate} uses {used}, which is not below it");
        }
    }
}

#[test]
fn every_crate_has_its_arrows() {
    let crates = fs::read_dir(root().join("crates")).expect("the crates");
    for entry in crates {
        let name = entry
            .expect("a crate")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(
            ARROWS.iter().any(|(krate, _)| *krate == name),
            "{name} is not in ARROWS"
        );
    }
}

#[test]
fn pure_crates_use_nothing_that_does_io() {
    let mut wrong = Vec::new();
    for krate in PURE {
        for used in dependencies(krate, "dependencies") {
            let is_known = PURE_MAY_USE.contains(&used.as_str()) || used.starts_with("magpie-");
            if !is_known {
                wrong.push(format!("{krate} uses {used}"));
            }
        }
        let build_script = root().join("crates").join(krate).join("build.rs");
        assert!(!build_script.exists(), "{krate} has a build script");
    }
    fail_on(&wrong, "not on the list of what pure crates may use");
}

/// All dependencies stand in the workspace's table, so that there is one version of each.
#[test]
fn versions_stand_in_one_place() {
    let mut wrong = Vec::new();
    for (krate, _) in ARROWS {
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let manifest = manifest(krate);
            let Some(table) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, dependency) in table {
                if dependency.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    wrong.push(format!("{krate}: {name}"));
                }
            }
        }
        let inherits = |key: &str| manifest(krate).get(key)?.get("workspace")?.as_bool();
        if inherits("lints") != Some(true) {
            wrong.push(format!("{krate}: lints"));
        }
    }
    fail_on(&wrong, "not `workspace = true`");
}

fn dependencies(krate: &str, table: &str) -> BTreeSet<String> {
    let manifest = manifest(krate);
    let table = manifest.get(table).and_then(toml::Value::as_table);
    table
        .into_iter()
        .flat_map(|table| table.keys().cloned())
        .collect()
}

fn ours(dependencies: &BTreeSet<String>) -> BTreeSet<String> {
    dependencies
        .iter()
        .filter_map(|name| name.strip_prefix("magpie-"))
        .map(str::to_owned)
        .collect()
}

fn manifest(krate: &str) -> toml::Table {
    let directory = match krate {
        "tests" => root().join("tests"),
        krate => root().join("crates").join(krate),
    };
    let text = fs::read_to_string(directory.join("Cargo.toml")).expect("a manifest");
    text.parse().expect("a manifest in TOML")
}
