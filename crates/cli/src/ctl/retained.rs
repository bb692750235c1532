//! `ctl retained`: the retained messages of the cluster.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::paged::Paged;
use super::table::Table;
use crate::node_http::{NodeHttp, segment};

/// What about retained messages.
#[derive(Args, Debug)]
pub(super) struct RetainedArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the cluster's retained messages by topic
    List {
        /// Only topics that this filter matches
        #[arg(default_value = "#", value_name = "FILTER")]
        filter: String,
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        /// Only topics after this one
        #[arg(long, value_name = "TOPIC")]
        after: Option<String>,
    },
    /// Show a retained message
    Show {
        /// Topic Name
        #[arg(value_name = "TOPIC")]
        topic: String,
    },
    /// Remove a retained message
    Clear {
        /// Topic Name
        #[arg(value_name = "TOPIC")]
        topic: String,
    },
}

#[derive(Deserialize, Serialize)]
struct Message {
    topic: String,
    publisher: String,
    qos: u8,
    published_ms: u64,
    expiry_s: Option<u32>,
    payload_bytes: usize,
}

#[derive(Deserialize)]
struct Details {
    #[serde(flatten)]
    message: Message,
    payload_text: String,
}

impl RetainedArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        match &self.command {
            Command::List {
                filter,
                limit,
                after,
            } => list(node, filter, *limit, after.as_deref(), json),
            Command::Show { topic } => show(node, topic, json),
            Command::Clear { topic } => clear(node, topic, json),
        }
    }
}

fn list(
    node: &NodeHttp,
    filter: &str,
    limit: usize,
    after: Option<&str>,
    json: bool,
) -> anyhow::Result<()> {
    let path = format!("/retained?filter={}&", segment(filter));
    let messages = Paged::<Message>::read(node, (&path, "messages"), 1000, limit, after)?;
    messages.print(json, table);
    Ok(())
}

fn show(node: &NodeHttp, topic: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/retained/{}", segment(topic));
    if json {
        println!("{:#}", node.get::<serde_json::Value>(&path)?);
        return Ok(());
    }
    let details: Details = node.get(&path)?;
    println!("{}", table(std::slice::from_ref(&details.message)));
    // A payload must not command the operator's terminal.
    let is_shown = |c: char| !c.is_control() || c == '\n';
    let text = details.payload_text.replace(|c| !is_shown(c), "\u{fffd}");
    println!("{text}");
    Ok(())
}

fn clear(node: &NodeHttp, topic: &str, json: bool) -> anyhow::Result<()> {
    if !node.delete(&format!("/retained/{}", segment(topic)))? {
        bail!("there is no retained message of topic \"{topic}\"");
    }
    if json {
        println!("{:#}", json!({ "cleared": topic }));
    } else {
        println!("the retained message of {topic} is removed");
    }
    Ok(())
}

fn table(messages: &[Message]) -> Table {
    let mut table = Table::new(&["TOPIC", "PUBLISHER", "QOS", "BYTES", "EXPIRY"]);
    for message in messages {
        let expiry = message
            .expiry_s
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
        table.row([
            &message.topic,
            &message.publisher,
            &message.qos,
            &message.payload_bytes,
            &expiry,
        ]);
    }
    table
}
