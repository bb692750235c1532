//! A flag for each key of the top, made from the settings: name, help and default cannot differ from them.

use std::path::PathBuf;

use clap::builder::{Arg, ArgAction};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use super::keys::{self, Key};
use super::layers::Layers;

/// `--config` and the flags of the settings.
#[derive(Debug, Default)]
pub(crate) struct ConfigArgs {
    file: Option<PathBuf>,
    set: Vec<(String, String)>,
}

impl ConfigArgs {
    /// These flags above this process's environment.
    pub(crate) fn layers(self) -> Layers {
        Layers {
            file: self.file,
            // A variable that is not Unicode cannot be one of ours.
            variables: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            flags: self.set,
        }
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("MAGPIE_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (TOML); flags and environment variables beat it");
        command
            .arg(file)
            .args(keys::known().filter_map(flag))
            .after_help("Every flag is also a key of the configuration file and an environment variable: --mqtt-listen is mqtt_listen and\n\
                         MAGPIE_MQTT_LISTEN. docs/configuration.md has them all, and those that have no flag.")
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let set = keys::known().filter_map(|key| {
            key.flag()?;
            Some((key.path(), matches.get_one::<String>(key.name)?.clone()))
        });
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            set: set.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(key: Key) -> Option<Arg> {
    let default = key.default();
    let shown = match &default {
        Some(Value::String(text)) => format!(" [default: {text}]"),
        Some(Value::Number(number)) => format!(" [default: {number}]"),
        _ => String::new(),
    };
    let arg = Arg::new(key.name)
        .long(key.flag()?)
        .action(ArgAction::Set)
        .help(format!("{}{shown}", first_sentence(key.documentation())))
        .long_help(format!("{}{shown}", key.documentation()));
    Some(if is_switch(key, default.as_ref()) {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
    } else {
        arg.value_name(value_name(key.name))
    })
}

/// The one that is decided elsewhere when it is left out has no default that would tell.
fn is_switch(key: Key, default: Option<&Value>) -> bool {
    matches!(default, Some(Value::Bool(_))) || key.name == "allow_anonymous"
}

fn value_name(key: &str) -> &'static str {
    match key.rsplit('_').next() {
        Some("listen") => "ADDR:PORT",
        Some("advertise") => "HOST:PORT",
        Some("seeds") => "HOST:PORT,...",
        Some("filters") => "FILTER,...",
        Some("file" | "log") => "FILE",
        Some("dir") => "DIR",
        Some("name") => "NAME",
        Some("format") => "text|json",
        Some("level") => "LEVEL",
        _ => "N",
    }
}

fn first_sentence(documentation: &str) -> &str {
    let end = [". ", "; ", ": "]
        .into_iter()
        .filter_map(|stop| documentation.find(stop))
        .min();
    documentation[..end.unwrap_or(documentation.len())].trim_end_matches('.')
}
