//! `magpie pub`: publish messages from the command line, a file or standard input.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args};
use magpie_codec::QoS;

use crate::connect_args::{ConnectArgs, parse_qos, parse_seconds};

/// What to publish; named as in `mosquitto_pub`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
#[group(id = "payload", required = true, multiple = false)]
pub(crate) struct PubArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Topic to publish to
    #[arg(short = 't', long, required = true)]
    topic: String,
    /// The payload
    #[arg(short = 'm', long, group = "payload", allow_hyphen_values = true)]
    message: Option<String>,
    /// Send the content of a file as one message
    #[arg(short = 'f', long, group = "payload")]
    file: Option<PathBuf>,
    /// Send a message for each line of standard input
    #[arg(short = 'l', long, group = "payload")]
    stdin_line: bool,
    /// Send all of standard input as one message
    #[arg(short = 's', long, group = "payload")]
    stdin_file: bool,
    /// Send an empty message
    #[arg(short = 'n', long, group = "payload")]
    null_message: bool,
    /// QoS of the messages
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    qos: QoS,
    /// Retain the message
    #[arg(short = 'r', long)]
    retain: bool,
    /// Publish the same message this many times
    #[arg(
        long,
        default_value_t = 1,
        conflicts_with = "stdin_line",
        value_name = "COUNT"
    )]
    repeat: u64,
    /// Seconds between repeated messages
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = parse_seconds)]
    repeat_delay: Duration,
    /// The most messages of QoS 1 and 2 on their way at a time
    #[arg(short = 'M', long, default_value_t = 20, value_name = "COUNT")]
    max_inflight: u16,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl PubArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("publishing is not there yet")
    }
}
