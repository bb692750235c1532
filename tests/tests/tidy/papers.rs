//! The papers that go with the source.

use std::fs;

use super::tree::{fail_on, files, root};

#[test]
fn decisions_are_numbered_without_gaps() {
    let mut names: Vec<String> = files()
        .into_iter()
        .filter_map(|file| file.path.strip_prefix("docs/adr/").map(str::to_owned))
        .filter(|name| name != "README.md")
        .collect();
    names.sort();
    for (number, name) in names.iter().enumerate() {
        let expected = format!("{:04}-", number + 1);
        assert!(
            name.starts_with(&expected) && name.ends_with(".md"),
            "docs/adr/{name} should begin with {expected}"
        );
    }
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    assert!(
        text.lines()
            .any(|line| line.starts_with("## ") && line.contains("Unreleased")),
        "no section Unreleased"
    );
}

/// Links between our own pages lead somewhere.
#[test]
fn links_between_pages_lead_somewhere() {
    let mut dead = Vec::new();
    for page in files().iter().filter(|file| file.path.ends_with(".md")) {
        let directory = root().join(&page.path);
        let directory = directory.parent().expect("a page is in a directory");
        for target in page
            .text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            let is_outside = target.contains("://") || target.starts_with("mailto:");
            if !is_outside && !path.is_empty() && !directory.join(path).exists() {
                dead.push(format!("{}: {target}", page.path));
            }
        }
    }
    fail_on(&dead, "dead links");
}
