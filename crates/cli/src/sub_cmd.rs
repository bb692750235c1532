//! `magpie sub`: subscribe and print what arrives.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args};
use magpie_codec::QoS;

use crate::connect_args::{ConnectArgs, parse_qos, parse_seconds};

/// What to subscribe to and how to print it; named as in `mosquitto_sub`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct SubArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Topic filter to subscribe to; may be repeated
    #[arg(
        short = 't',
        long = "topic",
        required_unless_present = "unsubscribe",
        value_name = "FILTER"
    )]
    filters: Vec<String>,
    /// Do not print messages of topics that match; may be repeated
    #[arg(short = 'T', long, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// Topic filter to unsubscribe from; may be repeated
    #[arg(short = 'U', long, value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// The highest QoS to receive
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    qos: QoS,
    /// End after this many messages
    #[arg(short = 'C', long, value_name = "COUNT")]
    count: Option<u64>,
    /// End after this many seconds, with exit code 27
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// End as soon as the server acknowledged the subscriptions
    #[arg(short = 'E', long)]
    exit_when_subscribed: bool,
    /// Do not print messages with RETAIN set
    #[arg(short = 'R', long, conflicts_with = "retained_only")]
    no_retain: bool,
    /// Print only messages with RETAIN set, and end at the first other one
    #[arg(long)]
    retained_only: bool,
    /// Print the topic before the payload
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Print no line feed after the payload
    #[arg(short = 'N', long)]
    no_newline: bool,
    /// Output format: %t topic, %p payload, %q QoS, %r retain, %l payload bytes, %m packet id, %x payload in hex,
    /// %I date and time, %U Unix time, %% a percent sign, \n \t \\
    #[arg(
        short = 'F',
        long,
        value_name = "FORMAT",
        conflicts_with = "verbose",
        allow_hyphen_values = true
    )]
    format: Option<String>,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl SubArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("subscribing is not there yet")
    }
}
