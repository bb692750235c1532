//! `ctl clients`, `ctl kick`.

use anyhow::bail;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::nodes::members;
use super::table::Table;
use crate::node_http::{NodeHttp, segment};

/// Which clients.
#[derive(Args, Debug)]
pub(super) struct ClientsArgs {
    /// Only ids that begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// At most so many of each node
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Ask the other nodes too, at the HTTP addresses that they tell
    #[arg(long)]
    all_nodes: bool,
}

#[derive(Deserialize)]
struct Page {
    clients: Vec<Client>,
    total: usize,
}

#[derive(Deserialize, Serialize)]
struct Client {
    /// Added here: where it is connected.
    #[serde(default)]
    node: String,
    id: String,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    authenticated_by: String,
    remote: String,
    version: String,
    connected_at_ms: u64,
    keep_alive_s: u16,
    epoch: u64,
    subscriptions: usize,
    messages_received: u64,
    bytes_received: u64,
    messages_sent: u64,
    bytes_sent: u64,
    waiting: usize,
}

impl ClientsArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        let mut clients = Vec::new();
        let mut total = 0;
        for (name, node) in self.nodes(node)? {
            match node.get::<Page>(&self.path()) {
                Ok(page) => {
                    total += page.total;
                    let named = |client| Client {
                        node: name.clone(),
                        ..client
                    };
                    clients.extend(page.clients.into_iter().map(named));
                }
                Err(error) if self.all_nodes => {
                    eprintln!("magpie: clients of {name} are missing: {error:#}")
                }
                Err(error) => return Err(error),
            }
        }
        if json {
            println!("{:#}", json!({ "clients": clients, "total": total }));
            return Ok(());
        }
        let mut table = Table::new(&[
            "CLIENT",
            "USER",
            "NODE",
            "REMOTE",
            "MQTT",
            "SUBSCRIPTIONS",
            "RECEIVED",
            "SENT",
            "WAITING",
        ]);
        for client in &clients {
            table.row([
                &client.id,
                &client.user.as_deref().unwrap_or("-"),
                &client.node,
                &client.remote,
                &client.version,
                &client.subscriptions,
                &client.messages_received,
                &client.messages_sent,
                &client.waiting,
            ]);
        }
        print!("{table}");
        if total > clients.len() {
            println!("{} of {total}; --limit shows more", clients.len());
        }
        if !self.all_nodes {
            eprintln!("(of this node; --all-nodes asks the others too)");
        }
        Ok(())
    }

    fn nodes(&self, node: &NodeHttp) -> anyhow::Result<Vec<(String, NodeHttp)>> {
        let members = members(node)?
            .into_iter()
            .filter(|member| member.this || (self.all_nodes && member.state == "up"));
        Ok(members
            .map(|member| {
                let at = if member.this {
                    node.clone()
                } else {
                    node.at(&member.http_addr)
                };
                (member.name, at)
            })
            .collect())
    }

    fn path(&self) -> String {
        let prefix = self
            .prefix
            .as_ref()
            .map(|prefix| format!("&prefix={}", segment(prefix)));
        format!(
            "/clients?limit={}{}",
            self.limit,
            prefix.unwrap_or_default()
        )
    }
}

/// Who goes.
#[derive(Args, Debug)]
pub(super) struct KickArgs {
    /// Client Identifier
    #[arg(value_name = "CLIENT")]
    client: String,
}

impl KickArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        let path = format!("/clients/{}", segment(&self.client));
        let mut silent = Vec::new();
        let mut kicked_on = None;
        let mut members = members(node)?;
        // The node that was asked first: it answered already.
        members.sort_by_key(|member| !member.this);
        for member in members
            .iter()
            .filter(|member| member.this || member.state == "up")
        {
            let at = if member.this {
                node.clone()
            } else {
                node.at(&member.http_addr)
            };
            match at.delete(&path) {
                Ok(true) => {
                    kicked_on = Some(&member.name);
                    break;
                }
                Ok(false) => {}
                Err(error) => silent.push(format!("{error:#}")),
            }
        }
        match kicked_on {
            Some(name) if json => println!("{:#}", json!({ "kicked": self.client, "node": name })),
            Some(name) => println!(
                "client {} is disconnected from {name}; it may come back at once",
                self.client
            ),
            None if silent.is_empty() => {
                bail!("no client \"{}\" is connected to any node", self.client)
            }
            None => bail!(
                "client \"{}\" was not found, but not all nodes could be asked: {}",
                self.client,
                silent.join("; ")
            ),
        }
        Ok(())
    }
}
