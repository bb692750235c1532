//! Where the log goes: standard error, as text or JSON.

use std::io::IsTerminal;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What libraries tell many times a second when another node is away, or when this one stops, we tell once, in our own words. What the
/// operator sets comes after it and beats it.
const QUIET: &str = "openraft=error,openraft::core::heartbeat=off,h2=error";

/// Becomes the process's log.
///
/// # Errors
/// If there is one already, or `level` is no filter.
pub(super) fn install(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}")).context("log_level")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(is_coloured()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))
}

/// On a terminal, unless the user wants none; `magpie dev` forces it for its children when it is on one itself.
fn is_coloured() -> bool {
    let is_set =
        |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    !is_set("NO_COLOR") && (is_set("CLICOLOR_FORCE") || std::io::stderr().is_terminal())
}
