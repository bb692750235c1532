//! Where the sources cite rules: `[MQTT-3.1.2-22]` is a rule of 5.0, `[MQTT-3.1.2-24 v3.1.1]` one of 3.1.1. In quotes
//! instead of brackets, it is the rule that an error of the codec names.

use super::super::tree::{File, files};
use super::rules::{Rule, Rulebook};

/// All of them, in the order of files and lines.
pub(super) struct Citations {
    citations: Vec<Citation>,
    faults: Vec<String>,
}

/// A rule, cited.
pub(super) struct Citation {
    /// Without version, as `3.1.2-22`.
    pub(super) id: String,
    pub(super) version: &'static str,
    pub(super) path: String,
    pub(super) line: usize,
    /// The function or type that it stands above or in.
    item: Option<String>,
    is_in_a_test: bool,
    /// In the code of tests: what is not in one of them is a part of several, and shows nothing.
    is_beside_tests: bool,
}

/// A place in the sources, as the page shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) item: Option<String>,
}

impl Citations {
    pub(super) fn of_tree() -> Self {
        let mut all = Self {
            citations: Vec::new(),
            faults: Vec::new(),
        };
        let mut files: Vec<_> = files()
            .into_iter()
            .filter(|file| file.path.starts_with("crates/") && file.path.ends_with(".rs"))
            .collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        for file in &files {
            all.read(file);
        }
        all
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Citation> {
        self.citations.iter()
    }

    /// What looks like a citation and is none.
    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Where a rule is enforced.
    pub(super) fn code_of(&self, book: &Rulebook, rule: &Rule) -> Vec<Place> {
        self.places(book, rule, false)
    }

    /// The tests that show it.
    pub(super) fn tests_of(&self, book: &Rulebook, rule: &Rule) -> Vec<Place> {
        self.places(book, rule, true)
    }

    fn places(&self, book: &Rulebook, rule: &Rule, is_in_test: bool) -> Vec<Place> {
        let mut places: Vec<_> = self
            .citations
            .iter()
            .filter(|citation| citation.version == book.version && citation.id == rule.id)
            .filter(|citation| citation.is_beside_tests == is_in_test)
            .filter(|citation| citation.is_in_a_test || !is_in_test)
            // What our client does shows nothing of the server.
            .filter(|citation| !rule.binds_server() || !citation.is_of_a_client())
            .map(|citation| Place {
                path: citation.path.clone(),
                item: citation.item.clone(),
            })
            .collect();
        places.sort();
        places.dedup();
        places
    }

    fn read(&mut self, file: &File) {
        let lines: Vec<&str> = file.text.lines().collect();
        // By convention tests come last in a file.
        let tests_from = if is_test_file(&file.path) {
            0
        } else {
            let module = lines.windows(3).position(|window| {
                window[0].starts_with("#[cfg(test)]")
                    && window[1..]
                        .iter()
                        .any(|line| line.starts_with("mod ") && line.ends_with('{'))
            });
            module.unwrap_or(lines.len())
        };
        for (at, line) in lines.iter().enumerate() {
            let place = format!("{}:{}", file.path, at + 1);
            if line.contains("] to [MQTT-") {
                self.faults.push(format!("{place}: name each rule"));
            }
            for start in line.match_indices("MQTT-").map(|(start, _)| start) {
                let is_in_test = at >= tests_from;
                let (id, version) = match parse(line, start) {
                    Ok(Some(found)) => found,
                    Ok(None) => continue,
                    Err(()) => {
                        self.faults
                            .push(format!("{place}: not as `[MQTT-3.1.2-22]`"));
                        continue;
                    }
                };
                let item = item_of(&lines, at);
                self.citations.push(Citation {
                    id,
                    version,
                    path: file.path.clone(),
                    line: at + 1,
                    is_in_a_test: item.as_ref().is_some_and(|item| item.is_test),
                    is_beside_tests: is_in_test,
                    item: item.map(|item| item.name),
                });
            }
        }
    }
}

impl Citation {
    fn is_of_a_client(&self) -> bool {
        ["crates/client/", "crates/cli/"]
            .iter()
            .any(|krate| self.path.starts_with(krate))
    }
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs") || path.contains("/benches/")
}

/// The citation at `start`, where the line has `MQTT-`; `None` if no number follows.
fn parse(line: &str, start: usize) -> Result<Option<(String, &'static str)>, ()> {
    let behind = &line[start + "MQTT-".len()..];
    if !behind.starts_with(|first: char| first.is_ascii_digit()) {
        return Ok(None);
    }
    let end = match line[..start].chars().next_back() {
        Some('[') => ']',
        Some('"') => '"',
        _ => return Err(()),
    };
    let (cited, _) = behind.split_once(end).ok_or(())?;
    let (id, version) = match cited.split_once(' ') {
        None => (cited, "5.0"),
        Some((id, "v3.1.1")) => (id, "3.1.1"),
        Some(_) => return Err(()),
    };
    let is_id = id
        .chars()
        .all(|each| each.is_ascii_digit() || ['.', '-'].contains(&each));
    if is_id {
        Ok(Some((id.to_owned(), version)))
    } else {
        Err(())
    }
}

struct Item {
    name: String,
    is_test: bool,
}

/// What the line is about: the item right below it, if only comments and attributes are between, else the one around it.
fn item_of(lines: &[&str], at: usize) -> Option<Item> {
    let is_beside = |line: &str| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[")
    };
    if is_beside(lines[at]) {
        let below = (at..lines.len()).find(|below| !is_beside(lines[*below]))?;
        if let Some(name) = item_name(lines[below]) {
            return Some(item(lines, below, name));
        }
    }
    let indent = |line: &str| line.len() - line.trim_start().len();
    (0..at).rev().find_map(|above| {
        let has_lines = !lines[above].ends_with(';');
        let is_around = has_lines && indent(lines[above]) < indent(lines[at]);
        let name = item_name(lines[above]).filter(|_| is_around)?;
        Some(item(lines, above, name))
    })
}

fn item(lines: &[&str], at: usize, name: String) -> Item {
    let attributes = lines[..at].iter().rev().take_while(|line| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[")
    });
    let is_test = attributes
        .map(|line| line.trim_start())
        .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    Item { name, is_test }
}

/// The name of the function or type that this line begins.
fn item_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        match word {
            "pub" | "const" | "async" | "unsafe"
                if words.peek().is_some_and(|next| !next.ends_with(':')) => {}
            // `pub(in super::super)` has a space.
            _ if word.starts_with("pub(") || word.ends_with(')') => {}
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" => {
                let name = words.next()?;
                let end = name.find(|each: char| !each.is_alphanumeric() && each != '_');
                return Some(name[..end.unwrap_or(name.len())].to_owned());
            }
            _ => return None,
        }
    }
    None
}
