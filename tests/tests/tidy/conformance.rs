//! Every numbered rule of MQTT, where it is enforced, and which test shows it: `docs/conformance.md`.
//!
//! The rules are in `tests/conformance/`; the places are found by their citations in the sources, so that nobody keeps
//! a list of them.

mod citations;
mod page;
mod rules;

use std::fs;

use self::citations::Citations;
use self::rules::{Lacks, Rulebook};
use super::tree::{fail_on, root};

/// How many rules of each version may not be met yet. To be lowered with each that is; never to be raised.
const MISSING_MAX: [(&str, usize); 2] = [("3.1.1", 2), ("5.0", 2)];

const PAGE: &str = "docs/conformance.md";

/// To be set to write the page anew.
const WRITE: &str = "MAGPIE_WRITE_DOCS";

#[test]
fn citations_name_rules_that_exist() {
    let rulebooks = Rulebook::all();
    let citations = Citations::of_tree();
    let unknown = citations
        .iter()
        .filter(|citation| {
            !rulebooks
                .iter()
                .any(|book| book.version == citation.version && book.rule(&citation.id).is_some())
        })
        .map(|citation| format!("{}:{}: {}", citation.path, citation.line, citation.id));
    let found: Vec<_> = citations.faults().iter().cloned().chain(unknown).collect();
    fail_on(&found, "no such rule");
}

#[test]
fn every_rule_for_servers_has_code_and_a_test() {
    let citations = Citations::of_tree();
    let mut found = Vec::new();
    for book in Rulebook::all() {
        for rule in &book.rules {
            if !rule.binds_server() || rule.moot.is_some() {
                continue;
            }
            let has_code = !citations.code_of(&book, rule).is_empty();
            let has_test = !citations.tests_of(&book, rule).is_empty();
            let lacks = match (has_code, has_test) {
                (false, false) => Some(Lacks::Both),
                (false, true) => Some(Lacks::Code),
                (true, false) => Some(Lacks::Test),
                (true, true) => None,
            };
            let said = book.missing(&rule.id).map(|missing| missing.lacks);
            if lacks != said && (lacks, said) != (None, Some(Lacks::Cases)) {
                let (version, id) = (book.version, &rule.id);
                found.push(format!(
                    "{version} {id}: lacks {lacks:?}, and is said to lack {said:?}"
                ));
            }
        }
    }
    fail_on(
        &found,
        "rules of MQTT (STYLE of a citation: `[MQTT-3.1.2-22]`)",
    );
}

#[test]
fn what_is_missing_becomes_less() {
    for book in Rulebook::all() {
        let (_, max) = MISSING_MAX
            .into_iter()
            .find(|(version, _)| *version == book.version)
            .expect("each version has its number");
        assert_eq!(
            book.missing.len(),
            max,
            "of {}: more are missing than before, or MISSING_MAX is to be lowered",
            book.version
        );
    }
}

/// The counts are those of the standards' appendices.
#[test]
fn no_rule_was_forgotten() {
    let counts: Vec<_> = Rulebook::all()
        .iter()
        .map(|book| (book.version, book.rules.len()))
        .collect();
    assert_eq!(counts, [("3.1.1", 141), ("5.0", 251)]);
}

#[test]
fn the_page_in_the_tree_is_the_one_that_is_made() {
    let page = page::of(&Rulebook::all(), &Citations::of_tree());
    let path = root().join(PAGE);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == page,
        "run: {WRITE}=1 cargo test -p magpie-tests --test tidy conformance"
    );
}
