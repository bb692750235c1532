//! `ctl status`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::nodes::Node;
use super::table::Table;
use crate::node_http::NodeHttp;

/// The part of `/status` that is shown or waited for.
#[derive(Deserialize)]
pub(super) struct Status {
    version: String,
    uptime_s: u64,
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) clients: usize,
    connections: usize,
    subscriptions: usize,
    cluster_id: Option<String>,
    node_id: String,
    pub(super) node_name: String,
    not_ready: String,
    members: Vec<Node>,
    pub(super) groups: Vec<Group>,
    routes: usize,
}

#[derive(Deserialize)]
pub(super) struct Group {
    group: String,
    term: u64,
    leader: Option<String>,
    pub(super) leading: bool,
    voters: Vec<String>,
    last_log: u64,
    committed: u64,
    applied: u64,
    tail: Option<u64>,
}

pub(super) fn status(node: &NodeHttp, json: bool) -> anyhow::Result<()> {
    let value: Value = node.get("/status")?;
    if json {
        println!("{value:#}");
    } else {
        print!("{}", serde_json::from_value::<Status>(value)?.show());
    }
    Ok(())
}

impl Status {
    fn show(&self) -> String {
        let state = match (self.ready, self.draining) {
            (_, true) => "draining".to_owned(),
            (true, _) => "ready".to_owned(),
            (false, _) => format!("not ready: {}", self.not_ready),
        };
        let up = self
            .members
            .iter()
            .filter(|member| member.state == "up")
            .count();
        let away = match self.members.len() - up {
            0 => String::new(),
            away => format!(", {away} away"),
        };
        let cluster = self.cluster_id.as_deref().unwrap_or("not formed yet");
        let mut text = format!(
            "node     {} ({}), magpie {}, up {}\nstate    {state}\ncluster  {cluster}: {} nodes up{away}\n\
             clients  {} ({} connections, {} subscriptions), {} routes in the cluster\n",
            self.node_name,
            self.node_id,
            self.version,
            duration(self.uptime_s),
            up,
            self.clients,
            self.connections,
            self.subscriptions,
            self.routes,
        );
        if self.groups.is_empty() {
            return text;
        }
        let names: BTreeMap<&str, &str> = self
            .members
            .iter()
            .map(|member| (member.id.as_str(), member.name.as_str()))
            .collect();
        let name = |id: &String| (*names.get(id.as_str()).unwrap_or(&id.as_str())).to_owned();
        let mut table = Table::new(&[
            "GROUP",
            "LEADER",
            "TERM",
            "COMMITTED",
            "TO-COMMIT",
            "TO-APPLY",
            "TO-SERVE",
            "VOTERS",
        ]);
        for group in &self.groups {
            let leader = group
                .leader
                .as_ref()
                .map_or_else(|| "none".to_owned(), name);
            let to_serve = group.tail.map_or_else(
                || "-".to_owned(),
                |tail| group.applied.saturating_sub(tail).to_string(),
            );
            let mut voters: Vec<String> = group.voters.iter().map(name).collect();
            voters.sort();
            table.row([
                &group.group,
                &leader,
                &group.term,
                &group.committed,
                &group.last_log.saturating_sub(group.committed),
                &group.committed.saturating_sub(group.applied),
                &to_serve,
                &voters.join(","),
            ]);
        }
        text += &format!("\n{table}");
        text
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
