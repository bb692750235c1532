//! `ctl ban`: who may not come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::paged::Paged;
use super::table::Table;
use crate::node_http::{Method, NodeHttp, segment};

/// What about bans.
#[derive(Args, Debug)]
pub(super) struct BanArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Ban somebody, and end the connections that are hit
    Add {
        /// client:ID, user:NAME, address:IP or network:IP/BITS
        #[arg(value_name = "TARGET")]
        target: String,
        /// For how long, as in 30m, 1h or 7d; for ever if left out
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        period: Option<Duration>,
        /// Why; for operators, clients do not see it
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        reason: String,
    },
    /// Take a ban away
    Remove {
        /// As it was banned
        #[arg(value_name = "TARGET")]
        target: String,
    },
    /// List the bans
    List {
        /// At most so many
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// Only targets after this one
        #[arg(long, value_name = "TARGET")]
        after: Option<String>,
    },
}

#[derive(Deserialize, Serialize)]
struct Ban {
    target: String,
    reason: String,
    until_ms: Option<u64>,
}

impl BanArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        match &self.command {
            Command::Add {
                target,
                period,
                reason,
            } => {
                let for_s = period.map(|period| period.as_secs().max(1));
                let body = json!({ "reason": reason, "for_s": for_s });
                let path = format!("/bans/{}", segment(target));
                let added = node.send(Method::Put, &path, &body)?;
                match json {
                    true => println!("{added:#}"),
                    false => println!("{target} is banned"),
                }
                Ok(())
            }
            Command::Remove { target } => {
                if !node.delete(&format!("/bans/{}", segment(target)))? {
                    bail!("there is no ban of \"{target}\"");
                }
                match json {
                    true => println!("{:#}", json!({ "removed": target })),
                    false => println!("{target} is not banned any more"),
                }
                Ok(())
            }
            Command::List { limit, after } => list(node, *limit, after.as_deref(), json),
        }
    }
}

fn list(node: &NodeHttp, limit: usize, after: Option<&str>, json: bool) -> anyhow::Result<()> {
    let bans = Paged::<Ban>::read(node, ("/bans?", "bans"), 10_000, limit, after)?;
    bans.print(json, |bans| {
        let mut table = Table::new(&["TARGET", "LEFT", "REASON"]);
        for ban in bans {
            let left = ban.until_ms.map_or_else(|| String::from("for ever"), left);
            table.row([&ban.target, &left, &ban.reason]);
        }
        table
    });
    Ok(())
}

/// How long until then, by this machine's clock.
fn left(until_ms: u64) -> String {
    let until = UNIX_EPOCH + Duration::from_millis(until_ms);
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(left.as_secs())).to_string()
}
