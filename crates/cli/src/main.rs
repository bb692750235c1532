//! The `magpie` binary: reads the command line and hands over. Each command is a file of its own.

mod bench;
mod connect_args;
mod property;
mod pub_cmd;
mod sub_cmd;

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
    /// Publish messages.
    Pub(Box<pub_cmd::PubArgs>),
    /// Subscribe to topics and print what arrives.
    Sub(Box<sub_cmd::SubArgs>),
    /// Put load on a broker and measure it.
    Bench(Box<bench::BenchArgs>),
}

/// Every `run` answers the exit code of a command that did its work; an error is one sentence and exit code 1.
fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Pub(args) => args.run(),
        Command::Sub(args) => args.run(),
        Command::Bench(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("magpie: {error:#}");
        ExitCode::from(1)
    })
}
