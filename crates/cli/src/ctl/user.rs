//! `ctl user`: who may connect with a password. Passwords are typed or read from a file, never part of a command line.

mod password;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::paged::Paged;
use super::table::Table;
use crate::node_http::{Method, NodeHttp, segment};

/// What about users.
#[derive(Args, Debug)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Add a user
    Add {
        /// User name
        #[arg(value_name = "NAME")]
        name: String,
        /// Access rules do not apply to this user
        #[arg(long)]
        superuser: bool,
        /// Let the user authenticate with SCRAM-SHA-256 as well
        #[arg(long)]
        scram: bool,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Set a user's password
    Passwd {
        /// User name
        #[arg(value_name = "NAME")]
        name: String,
        /// Whether the user can authenticate with SCRAM-SHA-256; as before if left out
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
        scram: Option<bool>,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Set whether access rules apply to a user
    Superuser {
        /// User name
        #[arg(value_name = "NAME")]
        name: String,
        /// `true`: they do not
        #[arg(value_name = "BOOL", action = clap::ArgAction::Set)]
        superuser: bool,
    },
    /// Remove a user, and end its connections
    Remove {
        /// User name
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the users
    List {
        /// At most so many
        #[arg(long, default_value_t = 1000, value_name = "N")]
        limit: usize,
        /// Only names after this one
        #[arg(long, value_name = "NAME")]
        after: Option<String>,
    },
}

/// Where the password comes from.
#[derive(Args, Debug)]
struct PasswordArgs {
    /// File whose first line is the password; without it, it is asked for, or read from standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Deserialize, Serialize)]
struct User {
    name: String,
    superuser: bool,
    scram: bool,
}

impl UserArgs {
    pub(super) fn run(&self, node: &NodeHttp, json: bool) -> anyhow::Result<()> {
        match &self.command {
            Command::Add {
                name,
                superuser,
                scram,
                password,
            } => {
                let password = password::read(password.password_file.as_deref())?;
                let body = json!({ "password": password, "superuser": superuser, "scram": scram });
                node.send(Method::Post, &path(name), &body)?;
                tell(
                    json,
                    json!({ "added": name }),
                    &format!("user {name} is added"),
                );
                Ok(())
            }
            Command::Passwd {
                name,
                scram,
                password,
            } => {
                let password = password::read(password.password_file.as_deref())?;
                let body = json!({ "password": password, "scram": scram });
                node.send(Method::Put, &format!("{}/password", path(name)), &body)?;
                let text = format!("the password of {name} is set; its connections are ended");
                tell(json, json!({ "changed": name }), &text);
                Ok(())
            }
            Command::Superuser { name, superuser } => {
                let body = json!({ "superuser": superuser });
                node.send(Method::Put, &format!("{}/superuser", path(name)), &body)?;
                let not = if *superuser { " do not" } else { "" };
                let text = format!("access rules{not} apply to {name}; its connections are ended");
                tell(json, json!({ "changed": name }), &text);
                Ok(())
            }
            Command::Remove { name } => {
                if !node.delete(&path(name))? {
                    bail!("there is no user \"{name}\"");
                }
                let text = format!("user {name} is removed; its connections are ended");
                tell(json, json!({ "removed": name }), &text);
                Ok(())
            }
            Command::List { limit, after } => list(node, *limit, after.as_deref(), json),
        }
    }
}

fn path(name: &str) -> String {
    format!("/users/{}", segment(name))
}

fn tell(json: bool, as_json: serde_json::Value, text: &str) {
    if json {
        println!("{as_json:#}");
    } else {
        println!("{text}");
    }
}

fn list(node: &NodeHttp, limit: usize, after: Option<&str>, json: bool) -> anyhow::Result<()> {
    let users = Paged::<User>::read(node, ("/users?", "users"), 10_000, limit, after)?;
    users.print(json, |users| {
        let mut table = Table::new(&["NAME", "SUPERUSER", "SCRAM"]);
        let yes = |is: bool| if is { "yes" } else { "-" };
        for user in users {
            table.row([&user.name, &yes(user.superuser), &yes(user.scram)]);
        }
        table
    });
    Ok(())
}
