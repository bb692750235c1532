//! The page for readers.

use std::fmt::Write;

use super::citations::{Citations, Place};
use super::rules::{Binds, Lacks, Rule, Rulebook};

const INTRO: &str = "\
<!-- Made by the test `tidy` from tests/conformance and the citations in the sources: do not edit. -->

# Conformance

The standards number what they demand: 141 rules in MQTT 3.1.1 and 251 in MQTT 5.0, apart from each other (the same rule
often has another number). Here is what becomes of each: what it means, in our words; where the code enforces it; and
which test shows it. Code and tests are found by the numbers that they cite, `[MQTT-3.1.2-22]` for 5.0 and
`[MQTT-3.1.2-24 v3.1.1]` for 3.1.1; a rule for servers without both fails the build, unless it is listed as not met yet.
MQTT 3.1 has no numbered rules; it is served as 3.1.1, but for what the sources say.

A rule that binds only clients leaves the server nothing to enforce, or something to do to who breaks it: the table says
which.
";

/// What the parts of the standards are about.
const PARTS: [(&str, &str); 25] = [
    ("1", "Data representation"),
    ("2", "Packet format"),
    ("3.1", "CONNECT"),
    ("3.2", "CONNACK"),
    ("3.3", "PUBLISH"),
    ("3.4", "PUBACK"),
    ("3.5", "PUBREC"),
    ("3.6", "PUBREL"),
    ("3.7", "PUBCOMP"),
    ("3.8", "SUBSCRIBE"),
    ("3.9", "SUBACK"),
    ("3.10", "UNSUBSCRIBE"),
    ("3.11", "UNSUBACK"),
    ("3.12", "PINGREQ"),
    ("3.14", "DISCONNECT"),
    ("3.15", "AUTH"),
    ("4.1", "Session"),
    ("4.2", "Network connection"),
    ("4.3", "Quality of service"),
    ("4.4", "Sending again"),
    ("4.5", "Receipt"),
    ("4.6", "Order"),
    ("4.7", "Topics and filters"),
    ("6", "WebSocket"),
    ("7", "Conformance"),
];

/// Where the versions differ.
const PARTS_3_1_1: [(&str, &str); 1] = [("4.8", "Errors")];
const PARTS_5_0: [(&str, &str); 4] = [
    ("4.8", "Shared subscriptions"),
    ("4.9", "Flow control"),
    ("4.12", "Enhanced authentication"),
    ("4.13", "Errors"),
];

/// The whole page.
pub(super) fn of(books: &[Rulebook], citations: &Citations) -> String {
    let mut page = String::from(INTRO);
    page.push_str("\n| | Rules | Bind the server | Met, with a test | Cannot arise | Not met yet | Bind clients only |\n");
    page.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    for book in books {
        let bind = book.rules.iter().filter(|rule| rule.binds_server()).count();
        let moot = book.rules.iter().filter(|rule| rule.moot.is_some()).count();
        let missing = book.missing.len();
        put(
            &mut page,
            format_args!(
                "| MQTT {} | {} | {bind} | {} | {moot} | {missing} | {} |\n",
                book.version,
                book.rules.len(),
                bind - moot - missing,
                book.rules.len() - bind,
            ),
        );
    }
    for book in books {
        put_missing(&mut page, book);
    }
    for book in books {
        put(&mut page, format_args!("\n## MQTT {}\n", book.version));
        let mut part = "";
        for rule in &book.rules {
            let own = part_of(rule);
            if own != part {
                part = own;
                put_head(&mut page, book, part);
            }
            put_rule(&mut page, book, rule, citations);
        }
    }
    page
}

fn put_missing(page: &mut String, book: &Rulebook) {
    if book.missing.is_empty() {
        return;
    }
    put(
        page,
        format_args!("\n## Not met yet of MQTT {}\n\n", book.version),
    );
    for missing in &book.missing {
        put(
            page,
            format_args!("- **{}** {}\n", missing.id, missing.reason),
        );
    }
}

fn put_head(page: &mut String, book: &Rulebook, part: &str) {
    let own = if book.version == "5.0" {
        &PARTS_5_0[..]
    } else {
        &PARTS_3_1_1
    };
    let (_, name) = PARTS
        .iter()
        .chain(own)
        .find(|(number, _)| *number == part)
        .unwrap_or_else(|| panic!("part {part} has a name"));
    put(page, format_args!("\n### {part} {name}\n\n"));
    page.push_str("| Rule | Meaning | Enforced at | Shown by |\n| --- | --- | --- | --- |\n");
}

fn put_rule(page: &mut String, book: &Rulebook, rule: &Rule, citations: &Citations) {
    let code = places(&citations.code_of(book, rule));
    let tests = places(&citations.tests_of(book, rule));
    let aside = match (&rule.why, &rule.moot, book.missing(&rule.id)) {
        (Some(why), _, _) => Some(format!("*binds clients*: {why}")),
        (_, Some(moot), _) => Some(format!("*cannot arise*: {moot}")),
        (_, _, Some(missing)) if missing.lacks == Lacks::Cases => {
            Some("**not met in all cases yet**".to_owned())
        }
        (_, _, Some(_)) => Some("**not met yet**".to_owned()),
        (None, None, None) => None,
    };
    let code = [aside.unwrap_or_default(), code]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("<br>");
    let whom = if rule.binds == Binds::Both {
        " (both ends)"
    } else {
        ""
    };
    put(
        page,
        format_args!(
            "| {} | {}{whom} | {code} | {tests} |\n",
            rule.id, rule.meaning
        ),
    );
}

/// Each file once, with what is in it.
fn places(places: &[Place]) -> String {
    let mut text = String::new();
    let mut path = "";
    for place in places {
        if place.path != path {
            path = &place.path;
            let name = path.trim_start_matches("crates/").replacen("/src/", "/", 1);
            if !text.is_empty() {
                text.push_str("<br>");
            }
            put(&mut text, format_args!("[{name}](../{path})"));
        }
        if let Some(item) = &place.item {
            put(&mut text, format_args!(" `{item}`"));
        }
    }
    text
}

/// The number before the second dot, and of chapters with few rules before the first.
fn part_of(rule: &Rule) -> &str {
    let mut dots = rule.id.match_indices('.').map(|(at, _)| at);
    let first = dots.next().expect("a rule has a section");
    let is_whole = ["1", "2", "6", "7"].contains(&&rule.id[..first]);
    let end = if is_whole { Some(first) } else { dots.next() };
    &rule.id[..end.expect("a section has three numbers")]
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes everything");
}
