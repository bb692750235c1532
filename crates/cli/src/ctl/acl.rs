//! `ctl acl`: who may publish and subscribe to what.

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::table::Table;
use crate::node_http::{Method, NodeHttp};

/// What about rules.
#[derive(Args, Debug)]
pub(super) struct AclArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Add a rule
    ///
    /// As soon as there is one rule, what no rule allows is refused. A deny that matches wins over any allow; the order of rules means
    /// nothing.
    Add {
        /// What follows if it matches
        effect: Effect,
        /// What it is about
        action: Action,
        /// Topic Filter; `%u` in it stands for the user name, `%c` for the client id
        #[arg(value_name = "PATTERN")]
        pattern: String,
        #[command(flatten)]
        who: Who,
    },
    /// Remove rules
    ///
    /// A rule that was removed before counts as removed. When the last one goes, everybody may do everything again.
    Remove {
        /// Numbers of the rules
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
    /// List the rules
    List {
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Publish,
    Subscribe,
    All,
}

/// Whom it is about; everybody, if nothing is given.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Who {
    /// Only the clients of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only the client with this id, whoever it is
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// Only clients without a user name
    #[arg(long)]
    anonymous: bool,
}

#[derive(Deserialize, Serialize)]
struct Page {
    rules: Vec<Rule>,
    next: Option<u64>,
}

#[derive(Deserialize, Serialize)]
struct Rule {
    id: u64,
    effect: String,
    action: String,
    who: String,
    pattern: String,
}

impl Who {
    fn text(&self) -> Option<String> {
        match self {
            Self {
                user: Some(name), ..
            } => Some(format!("user:{name}")),
            Self {
                client: Some(id), ..
            } => Some(format!("client:{id}")),
            Self {
                anonymous: true, ..
            } => Some(String::from("anonymous")),
            _ => None,
        }
    }
}

impl AclArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        match &self.command {
            Command::Add {
                effect,
                action,
                pattern,
                who,
            } => {
                let who = who.text().unwrap_or_else(|| String::from("everybody"));
                let body =
                    json!({ "effect": effect, "action": action, "who": who, "pattern": pattern });
                let added = node.send(Method::Post, "/acl", &body)?;
                match json {
                    true => println!("{added:#}"),
                    false => println!("rule {} holds", added["id"]),
                }
                Ok(())
            }
            Command::Remove { ids } => remove(node, ids, json),
            Command::List { who } => list(node, who.text().as_deref(), json),
        }
    }
}

fn remove(node: &NodeHttp, ids: &[u64], json: bool) -> anyhow::Result<()> {
    let mut left = None;
    for id in ids {
        let Some(told) = node.delete_told(&format!("/acl/{id}"))? else {
            warn_if_open(left);
            bail!("there never was a rule {id}");
        };
        left = told["left"].as_u64();
        if !json {
            println!("rule {id} is removed");
        }
    }
    if json {
        println!("{:#}", json!({ "removed": ids, "left": left }));
    }
    warn_if_open(left);
    Ok(())
}

fn warn_if_open(left: Option<u64>) {
    if left == Some(0) {
        eprintln!(
            "warning: no rule is left: every client that may connect can now publish and subscribe to everything"
        );
    }
}

fn list(node: &NodeHttp, who: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut next = Some(0);
    while let Some(after) = next {
        let page: Page = node.get(&format!("/acl?limit=10000&after={after}"))?;
        rules.extend(page.rules);
        next = page.next;
    }
    if let Some(who) = who {
        rules.retain(|rule| rule.who == who);
    }
    if json {
        println!("{:#}", json!({ "rules": rules }));
        return Ok(());
    }
    let mut table = Table::new(&["ID", "EFFECT", "ACTION", "WHO", "PATTERN"]);
    for rule in &rules {
        table.row([
            &rule.id,
            &rule.effect,
            &rule.action,
            &rule.who,
            &rule.pattern,
        ]);
    }
    print!("{table}");
    Ok(())
}
