//! `ctl sessions`: what clients left behind, and what waits for them.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::paged::Paged;
use super::table::Table;
use crate::node_http::{NodeHttp, segment};

/// Session Expiry Interval of a session that never expires.
const NEVER: u32 = u32::MAX;

/// What about sessions.
#[derive(Args, Debug)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the cluster's sessions by client id
    List {
        /// At most so many
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        /// Only ids after this one
        #[arg(long, value_name = "CLIENT")]
        after: Option<String>,
    },
    /// Show a session: its subscriptions, how far it has got, what waits
    Show {
        /// Client Identifier
        #[arg(value_name = "CLIENT")]
        client: String,
    },
    /// End a session, and its connection, if there is one
    Delete {
        /// Client Identifier
        #[arg(value_name = "CLIENT")]
        client: String,
    },
}

#[derive(Deserialize, Serialize)]
struct Session {
    client: String,
    node: Option<String>,
    epoch: Option<u64>,
    incarnation: u64,
    expiry_s: u32,
    subscriptions: usize,
}

#[derive(Deserialize)]
struct Details {
    client: String,
    node: Option<String>,
    expiry_s: u32,
    subscriptions: Vec<Subscription>,
    cursors: Vec<Cursor>,
    inflight: Vec<Inflight>,
    waiting_messages: u64,
    waiting_bytes: u64,
    waiting_complete: bool,
    lost_messages: u64,
}

#[derive(Deserialize)]
struct Subscription {
    filter: String,
    qos: u8,
    id: Option<u32>,
}

#[derive(Deserialize)]
struct Cursor {
    partition: u16,
    floor: String,
    done: usize,
}

#[derive(Deserialize)]
struct Inflight {
    packet_id: u16,
    partition: u16,
    position: String,
    qos: u8,
    stage: String,
}

impl SessionsArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        match &self.command {
            Command::List { limit, after } => list(node, *limit, after.as_deref(), json),
            Command::Show { client } => show(node, client, json),
            Command::Delete { client } => delete(node, client, json),
        }
    }
}

fn list(node: &NodeHttp, limit: usize, after: Option<&str>, json: bool) -> anyhow::Result<()> {
    let sessions = Paged::<Session>::read(node, ("/sessions?", "sessions"), 1000, limit, after)?;
    sessions.print(json, |sessions| {
        let mut table = Table::new(&["CLIENT", "CONNECTED TO", "EXPIRES AFTER", "SUBSCRIPTIONS"]);
        for session in sessions {
            table.row([
                &session.client,
                &session.node.as_deref().unwrap_or("-"),
                &expiry(session.expiry_s),
                &session.subscriptions,
            ]);
        }
        table
    });
    Ok(())
}

fn show(node: &NodeHttp, client: &str, json: bool) -> anyhow::Result<()> {
    let path = format!("/sessions/{}", segment(client));
    if json {
        println!("{:#}", node.get::<serde_json::Value>(&path)?);
        return Ok(());
    }
    let session: Details = node.get(&path)?;
    let mut table = Table::new(&[
        "CLIENT",
        "CONNECTED TO",
        "EXPIRES AFTER",
        "WAITING",
        "BYTES",
        "LOST",
    ]);
    let or_more = if session.waiting_complete { "" } else { "+" };
    table.row([
        &session.client,
        &session.node.as_deref().unwrap_or("-"),
        &expiry(session.expiry_s),
        &format!("{}{or_more}", session.waiting_messages),
        &format!("{}{or_more}", session.waiting_bytes),
        &session.lost_messages,
    ]);
    println!("{table}");
    let mut table = Table::new(&["FILTER", "QOS", "ID"]);
    for it in &session.subscriptions {
        let id = it.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        table.row([&it.filter, &it.qos, &id]);
    }
    println!("{table}");
    let mut table = Table::new(&["PARTITION", "DONE UP TO", "DONE ABOVE"]);
    for cursor in &session.cursors {
        table.row([&cursor.partition, &cursor.floor, &cursor.done]);
    }
    println!("{table}");
    if !session.inflight.is_empty() {
        let mut table = Table::new(&["PACKET ID", "QOS", "STAGE", "PARTITION", "POSITION"]);
        for it in &session.inflight {
            table.row([
                &it.packet_id,
                &it.qos,
                &it.stage,
                &it.partition,
                &it.position,
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

fn delete(node: &NodeHttp, client: &str, json: bool) -> anyhow::Result<()> {
    if !node.delete(&format!("/sessions/{}", segment(client)))? {
        bail!("client \"{client}\" has no session");
    }
    if json {
        println!("{:#}", json!({ "deleted": client }));
    } else {
        println!("the session of client {client} is ended");
    }
    Ok(())
}

fn expiry(seconds: u32) -> String {
    match seconds {
        0 => "disconnect".to_owned(),
        NEVER => "never".to_owned(),
        seconds => format!("{seconds} s"),
    }
}
