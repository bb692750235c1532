//! What the standards ask, from `tests/conformance/`.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;

use super::super::tree::root;

/// The rules of one version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rulebook {
    #[serde(skip)]
    pub(super) version: &'static str,
    /// In the standard's order.
    pub(super) rules: Vec<Rule>,
    pub(super) missing: Vec<Missing>,
}

/// A numbered rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// As `3.1.2-22`.
    pub(super) id: String,
    pub(super) binds: Binds,
    pub(super) meaning: String,
    /// Of a rule for clients: why the server has nothing to do, or what it does to who breaks it.
    pub(super) why: Option<String>,
    /// Of a rule for servers: why it cannot arise.
    pub(super) moot: Option<String>,
}

/// Whom a rule binds.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Binds {
    Server,
    Client,
    Both,
}

/// A rule for servers that this one does not meet yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Missing {
    pub(super) id: String,
    pub(super) lacks: Lacks,
    pub(super) reason: String,
}

/// What a rule lacks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Lacks {
    Code,
    Test,
    Both,
    /// There are both, but there are cases in which it is broken.
    Cases,
}

impl Rulebook {
    /// Older versions first.
    pub(super) fn all() -> Vec<Self> {
        ["3.1.1", "5.0"].map(Self::of).into()
    }

    fn of(version: &'static str) -> Self {
        let path = root().join(format!("tests/conformance/mqtt-{version}.toml"));
        let text = fs::read_to_string(path).expect("the rules are in the tree");
        let mut book: Self = toml::from_str(&text).expect("the rules are as this file says");
        book.version = version;
        book.check();
        book
    }

    fn check(&self) {
        let ids: BTreeSet<_> = self.rules.iter().map(|rule| &rule.id).collect();
        assert_eq!(ids.len(), self.rules.len(), "an id is there twice");
        for rule in &self.rules {
            assert_eq!(rule.why.is_some(), !rule.binds_server(), "{}: why", rule.id);
            assert!(rule.moot.is_none() || rule.binds_server(), "{}", rule.id);
        }
        for missing in &self.missing {
            let rule = self.rule(&missing.id).expect("what is missing is a rule");
            assert!(rule.binds_server() && rule.moot.is_none(), "{}", rule.id);
        }
    }

    pub(super) fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    pub(super) fn missing(&self, id: &str) -> Option<&Missing> {
        self.missing.iter().find(|missing| missing.id == id)
    }
}

impl Rule {
    pub(super) fn binds_server(&self) -> bool {
        self.binds != Binds::Client
    }
}
