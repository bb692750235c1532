//! Defaults, file, environment, flags: each layer covers the one before, key by key.

use std::path::PathBuf;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::Value;

use super::problem::{Origin, Problem};
use super::{Settings, keys, toml_file};

/// Variables that begin like ours and are no keys: read elsewhere.
const OTHER_VARIABLES: [&str; 3] = ["MAGPIE_CONFIG", "MAGPIE_CLUSTER_SECRET", "MAGPIE_API_TOKEN"];

/// Where settings come from.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// The configuration file, if one was named.
    pub(crate) file: Option<PathBuf>,
    /// The environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Keys and texts from the command line.
    pub(crate) flags: Vec<(String, String)>,
}

/// One value that somebody set.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `section.name`.
    pub(crate) key: String,
    /// Readings of what was written; the first that fits counts. A text from the environment may be a number or not.
    pub(crate) candidates: Vec<Value>,
    pub(crate) origin: Origin,
}

/// The settings, and who set them.
#[derive(Debug)]
pub(crate) struct Layered {
    pub(crate) settings: Settings,
    /// The lowest layer first.
    entries: Vec<(String, Origin)>,
}

/// Puts the layers together.
///
/// # Errors
/// Every unknown key and every value that does not fit, with its place. The settings are those without them.
pub(crate) fn merge(layers: &Layers) -> (Layered, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut entries = Vec::new();
    if let Some(path) = &layers.file {
        entries.extend(toml_file::read(path, &mut problems));
    }
    entries.extend(layers.variables.iter().filter_map(variable));
    entries.extend(layers.flags.iter().map(|(key, text)| Entry {
        origin: Origin::Flag(key.replace('_', "-")),
        key: key.clone(),
        candidates: readings(text),
    }));

    let defaults = Figment::from(Serialized::defaults(Settings::default()));
    let mut merged = defaults.clone();
    let mut taken = Vec::new();
    for entry in entries {
        match fit(&defaults, &entry) {
            Ok(value) => {
                merged = merged.merge(Serialized::default(&entry.key, value));
                taken.push((entry.key, entry.origin));
            }
            Err(what) => problems.push(Problem {
                origin: entry.origin,
                key: entry.key,
                what,
            }),
        }
    }
    let settings = merged
        .extract()
        .expect("each value was tried, and no two depend on each other");
    (
        Layered {
            settings,
            entries: taken,
        },
        problems,
    )
}

impl Layered {
    /// Adds to a problem with a value where the value was set.
    pub(crate) fn locate(&self, key: &str, what: impl Into<String>) -> Problem {
        let set = self.entries.iter().rev().find(|(set, _)| set == key);
        Problem {
            origin: set.map_or(Origin::Default, |(_, origin)| origin.clone()),
            key: key.to_owned(),
            what: what.into(),
        }
    }
}

/// The reading of `entry` that its key takes, tried alone, so that one mistake does not hide the next.
fn fit(defaults: &Figment, entry: &Entry) -> Result<Value, String> {
    if keys::find(&entry.key).is_none() {
        return Err(match keys::similar(&entry.key) {
            Some(similar) => format!("there is no such key; did you mean {similar}?"),
            None => "there is no such key".to_owned(),
        });
    }
    let mut refusal = None;
    for value in &entry.candidates {
        let alone = defaults
            .clone()
            .merge(Serialized::default(&entry.key, value));
        match alone.extract::<Settings>() {
            Ok(_) => return Ok(value.clone()),
            // The first reading is what it looks like.
            Err(error) => drop(refusal.get_or_insert_with(|| explain(value, &error))),
        }
    }
    Err(refusal.unwrap_or_else(|| "the number is too large".to_owned()))
}

/// An environment variable as an entry; `None` if it is not ours.
fn variable((name, text): &(String, String)) -> Option<Entry> {
    let path = name.strip_prefix("MAGPIE_")?;
    if OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(path) {
        return None;
    }
    let known = keys::known().find(|key| key.variable() == *name);
    Some(Entry {
        key: known.map_or_else(|| path.to_lowercase().replace("__", "."), |key| key.path()),
        candidates: readings(text),
        origin: Origin::Variable(name.clone()),
    })
}

/// Kubernetes and Docker tell every container about a service called "magpie" in variables like `MAGPIE_SERVICE_HOST` and
/// `MAGPIE_PORT_1883_TCP_ADDR`. They are no typing mistakes.
fn is_service_link(path: &str) -> bool {
    path == "PORT"
        || path.starts_with("SERVICE_")
        || path
            .strip_prefix("PORT_")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        || path.contains("_SERVICE_")
        || path.contains("_PORT_")
}

/// A text without a type of its own: first as what it looks like, then as it is.
fn readings(text: &str) -> Vec<Value> {
    let looks_like: Value = text.parse().unwrap_or_else(|never| match never {});
    vec![looks_like, Value::from(text)]
}

/// A refusal in words for people: what was written, and what it should be.
fn explain(written: &Value, error: &figment::Error) -> String {
    use figment::error::Kind;
    let expected = match &error.kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => in_words(expected),
        Kind::UnknownVariant(_, known) => format!("expected one of {}", known.join(", ")),
        Kind::Message(message) if message.contains("socket address") => {
            "expected an address and a port like \"127.0.0.1:1883\" or \"[::]:1883\"".to_owned()
        }
        other => other.to_string(),
    };
    match (written.as_str(), serde_json::to_string(written)) {
        (Some(text), _) => format!("\"{text}\": {expected}"),
        (None, Ok(text)) => format!("{text}: {expected}"),
        (None, Err(_)) => expected,
    }
}

/// What the deserializers call their types, for people.
fn in_words(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "path string" => "a path",
        "a duration" => "a duration like \"10s\" or \"250ms\"",
        "parsable string" => "a size like \"64KiB\" or \"1MiB\"",
        "socket address" => "an address and a port like \"127.0.0.1:1883\" or \"[::]:1883\"",
        other => other,
    };
    format!("expected {words}")
}

#[cfg(test)]
mod tests;
