//! The `magpie` binary: reads the command line and hands over. Each command is a file of its own.

mod bench;
mod check_config;
mod config;
mod config_reference;
mod connect_args;
mod ctl;
mod dev;
mod health;
mod node_http;
mod property;
mod pub_cmd;
mod start;
mod sub_cmd;
mod tls_args;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A clustered MQTT broker, and the tools around it.
#[derive(Parser)]
#[command(name = "magpie", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one node in the foreground.
    Start(start::StartArgs),
    /// Run a cluster on this machine, to try and to develop against.
    Dev(dev::DevArgs),
    /// Publish messages.
    Pub(Box<pub_cmd::PubArgs>),
    /// Subscribe to topics and print what arrives.
    Sub(Box<sub_cmd::SubArgs>),
    /// Put load on a broker and measure it.
    Bench(Box<bench::BenchArgs>),
    /// Operate a node and its cluster.
    Ctl(ctl::CtlArgs),
    /// Tell whether a node is ready, for health checks.
    Health(health::HealthArgs),
    /// Tell everything that is wrong with a configuration.
    CheckConfig(check_config::CheckConfigArgs),
    /// Print docs/configuration.md.
    #[command(hide = true)]
    ConfigReference(config_reference::ConfigReferenceArgs),
}

/// Every `run` answers the exit code of a command that did its work; an error is one sentence and exit code 1.
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Pub(args) => args.run(),
        Command::Sub(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Start(args) => args.run(),
        Command::Dev(args) => args.run(),
        Command::Ctl(args) => args.run(),
        Command::Health(args) => args.run(),
        Command::CheckConfig(args) => args.run(),
        Command::ConfigReference(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("magpie: {error:#}");
        ExitCode::from(1)
    })
}
