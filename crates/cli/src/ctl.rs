//! `magpie ctl`: operator commands over the HTTP API of a node. Each shows tables to people and, with `--json`, what the API said.

mod acl;
mod ban;
mod clients;
mod drain;
mod nodes;
mod paged;
mod retained;
mod sessions;
mod status;
mod table;
mod user;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::node_http::HttpArgs;

/// Which node, and what of it.
#[derive(Args, Debug)]
pub(crate) struct CtlArgs {
    #[command(flatten)]
    http: HttpArgs,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the node and the cluster as it sees it
    Status,
    /// List the nodes of the cluster
    Nodes,
    /// Remove a node that is down from the cluster, for good
    Remove(nodes::RemoveArgs),
    /// Empty the node, so that stopping it interrupts nobody
    Drain(drain::DrainArgs),
    /// List connected clients
    Clients(clients::ClientsArgs),
    /// Close a client's connection, whichever node it is on
    Kick(clients::KickArgs),
    /// List, show or end sessions, connected or not
    Sessions(sessions::SessionsArgs),
    /// List, show or remove retained messages
    Retained(retained::RetainedArgs),
    /// Add, change, remove or list users
    User(user::UserArgs),
    /// Add, remove or list access rules
    Acl(acl::AclArgs),
    /// Ban, unban or list who may not connect
    Ban(ban::BanArgs),
}

impl CtlArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let node = self.http.node()?;
        match self.command {
            Command::Status => status::status(&node, self.json),
            Command::Nodes => nodes::nodes(&node, self.json),
            Command::Remove(args) => args.run(&node, self.json),
            Command::Drain(args) => args.run(&node, self.json),
            Command::Clients(args) => args.run(&node, self.json),
            Command::Kick(args) => args.run(&node, self.json),
            Command::Sessions(args) => args.run(&node, self.json),
            Command::Retained(args) => args.run(&node, self.json),
            Command::User(args) => args.run(&node, self.json),
            Command::Acl(args) => args.run(&node, self.json),
            Command::Ban(args) => args.run(&node, self.json),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}
