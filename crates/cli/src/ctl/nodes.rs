//! `ctl nodes`, `ctl remove`.

use anyhow::bail;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::table::Table;
use crate::node_http::{NodeHttp, segment};

/// The part of a member that is shown.
#[derive(Deserialize)]
pub(super) struct Node {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) state: String,
    cluster_addr: String,
    mqtt_addr: String,
    pub(super) http_addr: String,
    voter: bool,
    pub(super) this: bool,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

/// The members, by name.
pub(super) fn members(node: &NodeHttp) -> anyhow::Result<Vec<Node>> {
    let mut nodes = node.get::<Nodes>("/nodes")?.nodes;
    nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(nodes)
}

pub(super) fn nodes(node: &NodeHttp, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{:#}", node.get::<Value>("/nodes")?);
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "STATE", "VOTER", "MQTT", "HTTP", "CLUSTER", "ID"]);
    for member in members(node)? {
        let name = if member.this {
            format!("{} *", member.name)
        } else {
            member.name
        };
        let voter = if member.voter { "yes" } else { "no" };
        table.row([
            &name,
            &member.state,
            &voter,
            &member.mqtt_addr,
            &member.http_addr,
            &member.cluster_addr,
            &member.id,
        ]);
    }
    print!("{table}");
    Ok(())
}

/// Which node goes.
#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// Its id, or its name if no other has it
    #[arg(value_name = "NODE")]
    node: String,
}

impl RemoveArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        if !node.delete(&format!("/nodes/{}", segment(&self.node)))? {
            bail!(
                "the cluster has no node \"{}\"; magpie ctl nodes lists them",
                self.node
            );
        }
        if json {
            println!("{:#}", json!({ "removed": self.node }));
        } else {
            println!(
                "node {} is removed; with its old data directory it cannot come back",
                self.node
            );
        }
        Ok(())
    }
}
