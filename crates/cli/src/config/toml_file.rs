//! The configuration file, with the line of each key.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::layers::Entry;
use super::problem::{Origin, Problem};

/// Reads the keys of a file, in its order. Problems of its syntax go to `problems`, each with its line; nothing is
/// read then.
pub(crate) fn read(path: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path, problems),
        Err(error) => {
            problems.push(Problem {
                origin: Origin::File(path.to_owned(), 0),
                key: String::new(),
                what: format!("cannot be read: {error}"),
            });
            Vec::new()
        }
    }
}

fn parse(text: &str, path: &Path, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let origin = |at: usize| {
        let line = text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Origin::File(path.to_owned(), line + 1)
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(|error| Problem {
        origin: origin(error.span().map_or(0, |span| span.start)),
        key: String::new(),
        what: error.message().to_owned(),
    }));
    let mut entries = Vec::new();
    if !errors.is_empty() {
        // What a parser guesses behind a mistake is nobody's wish.
        return entries;
    }
    collect("", table.get_ref(), &origin, &mut entries);
    entries
}

/// Flattens tables into dotted keys.
fn collect(
    prefix: &str,
    table: &DeTable<'_>,
    origin: &impl Fn(usize) -> Origin,
    entries: &mut Vec<Entry>,
) {
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let path = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            // A section that does not exist is one mistake, not one per key.
            DeValue::Table(section) if is_section(&path) => {
                collect(&format!("{path}."), section, origin, entries);
            }
            _ => entries.push(Entry {
                key: path,
                candidates: to_figment(value).into_iter().collect(),
                origin: origin(key.span().start),
            }),
        }
    }
}

fn is_section(path: &str) -> bool {
    super::keys::known().any(|key| key.section == path)
}

/// `None` for a number that no setting can hold.
fn to_figment(value: &Spanned<DeValue<'_>>) -> Option<figment::value::Value> {
    use figment::value::Value;
    Some(match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
            match u64::try_from(number) {
                Ok(number) => Value::from(number),
                Err(_) => Value::from(i64::try_from(number).ok()?),
            }
        }
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(value) => Value::from(value.to_string()),
        DeValue::Array(elements) => Value::from(
            elements
                .iter()
                .map(to_figment)
                .collect::<Option<Vec<_>>>()?,
        ),
        DeValue::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| Some((key.get_ref().to_string(), to_figment(value)?)));
            Value::from(entries.collect::<Option<figment::value::Dict>>()?)
        }
    })
}
