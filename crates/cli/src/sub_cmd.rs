//! `magpie sub`: subscribe and print what arrives.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use clap::{ArgAction, Args};
use magpie_client::{Acknowledge, Client, Error, Incoming, Options, reason_in_words};
use magpie_codec::{PacketId, QoS, ReasonCode, SubAck, SubscriptionOptions, TopicFilter};

use crate::connect_args::{ConnectArgs, parse_qos, parse_seconds};
use crate::property::Properties;

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
    /// %U Unix time, %% a percent sign, \n \t \\
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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.subscribe())
    }

    async fn subscribe(&self) -> anyhow::Result<ExitCode> {
        let Some(timeout) = self.timeout else {
            return self.receive_all().await;
        };
        match tokio::time::timeout(timeout, self.receive_all()).await {
            Ok(exit_code) => exit_code,
            Err(_) => {
                if !self.connect.quiet {
                    eprintln!("magpie sub: timed out");
                }
                Ok(ExitCode::from(TIMED_OUT))
            }
        }
    }

    /// Receives until it has what it wants. A lost connection is made again; one that never was is an error.
    async fn receive_all(&self) -> anyhow::Result<ExitCode> {
        let properties = Properties::parse(&self.connect.properties)?;
        let mut options = self.connect.options("magpie-sub", &properties)?;
        options.acknowledge = Acknowledge::ByHand;
        let mut printer = Printer::new(self)?;
        let filters = self.parse_filters(&self.filters)?;
        let mut was_connected = false;
        loop {
            let ended = self
                .receive(
                    options.clone(),
                    &filters,
                    &properties,
                    &mut printer,
                    &mut was_connected,
                )
                .await;
            let error = match ended {
                Ok(()) => return Ok(ExitCode::SUCCESS),
                // As a reader that has seen enough: `magpie sub | head`.
                Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                Err(Failure::Output(error)) => {
                    return Err(error).context("cannot write to standard output");
                }
                Err(Failure::Client(error)) => error,
            };
            if !was_connected || !is_worth_another_try(&error) {
                return Ok(self.connect.fail("sub", &error));
            }
            if !self.connect.quiet {
                eprintln!("magpie sub: {error}; connecting again");
            }
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
    }

    async fn receive(
        &self,
        options: Options,
        filters: &[TopicFilter],
        properties: &Properties,
        printer: &mut Printer<'_>,
        was_connected: &mut bool,
    ) -> Result<(), Failure> {
        let mut client = Client::connect(options).await?;
        *was_connected = true;
        self.debug(|| {
            format!(
                "connected, session present: {}",
                client.connack().session_present
            )
        });
        if !self.unsubscribe.is_empty() {
            let unsubscribe = self.parse_filters(&self.unsubscribe).unwrap_or_default();
            client.unsubscribe(unsubscribe).await?;
        }
        if !filters.is_empty() {
            let options = SubscriptionOptions {
                qos: self.qos,
                ..SubscriptionOptions::default()
            };
            let wanted = filters
                .iter()
                .map(|filter| (filter.clone(), options))
                .collect();
            let suback = client
                .subscribe_all(wanted, properties.subscription_id)
                .await?;
            self.check_suback(&suback)?;
        }
        if !self.exit_when_subscribed && !filters.is_empty() {
            while !printer.is_done() {
                let incoming = client.next().await?;
                printer.take(&incoming).map_err(Failure::Output)?;
                // What was not printed stays with the server, for a session that is kept.
                client.acknowledge(&incoming).await?;
            }
        }
        client
            .disconnect_with(properties.disconnect.clone())
            .await?;
        Ok(())
    }

    /// Refused filters are told; when all are, there is nothing to wait for.
    fn check_suback(&self, suback: &SubAck) -> Result<(), Failure> {
        let mut refusal = None;
        for (filter, reason) in self.filters.iter().zip(&suback.reasons) {
            if reason.is_error() {
                if !self.connect.quiet {
                    eprintln!(
                        "magpie sub: the server refuses {filter}: {}",
                        reason_in_words(*reason)
                    );
                }
                refusal = Some(*reason);
            } else {
                self.debug(|| format!("subscribed to {filter}, {}", reason_in_words(*reason)));
            }
        }
        match refusal {
            Some(reason) if suback.reasons.iter().all(|reason| reason.is_error()) => {
                Err(Error::Rejected {
                    packet: "SUBSCRIBE",
                    reason,
                    detail: None,
                }
                .into())
            }
            _ => Ok(()),
        }
    }

    fn parse_filters(&self, filters: &[String]) -> anyhow::Result<Vec<TopicFilter>> {
        let parse = |filter: &String| {
            TopicFilter::try_from(filter.as_str())
                .with_context(|| format!("the topic filter {filter:?}"))
        };
        filters.iter().map(parse).collect()
    }

    fn debug(&self, text: impl FnOnce() -> String) {
        if self.connect.debug {
            eprintln!("magpie sub: {}", text());
        }
    }
}

/// `mosquitto_sub` gives this for `-W`.
const TIMED_OUT: u8 = 27;
const RECONNECT_WAIT: Duration = Duration::from_secs(1);

/// Whether the server may take the client back: not after a takeover, nor when it refuses what the client is.
fn is_worth_another_try(error: &Error) -> bool {
    match error {
        Error::Disconnected { reason, .. } => *reason != ReasonCode::SessionTakenOver,
        Error::Refused { reason, .. } => matches!(
            reason,
            ReasonCode::ServerUnavailable | ReasonCode::ServerBusy | ReasonCode::ServerShuttingDown
        ),
        Error::Connect { .. }
        | Error::ConnectTimeout { .. }
        | Error::Closed
        | Error::Io(_)
        | Error::KeepAliveTimeout => true,
        _ => false,
    }
}

/// What ends a connection's use early.
enum Failure {
    Client(Error),
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// Chooses, prints and counts messages.
struct Printer<'a> {
    args: &'a SubArgs,
    filtered_out: Vec<TopicFilter>,
    left: Option<u64>,
    line: Vec<u8>,
    /// A message without RETAIN came where only retained ones are wanted.
    saw_live: bool,
}

impl<'a> Printer<'a> {
    fn new(args: &'a SubArgs) -> anyhow::Result<Self> {
        let filtered_out = args.parse_filters(&args.filter_out)?;
        args.parse_filters(&args.unsubscribe)?;
        Ok(Self {
            args,
            filtered_out,
            left: args.count,
            line: Vec::new(),
            saw_live: false,
        })
    }

    fn is_done(&self) -> bool {
        self.left == Some(0) || self.saw_live
    }

    fn take(&mut self, incoming: &Incoming) -> std::io::Result<()> {
        let args = self.args;
        if args.retained_only && !incoming.retain {
            self.saw_live = true;
            return Ok(());
        }
        let unwanted = args.no_retain && incoming.retain;
        if unwanted
            || self
                .filtered_out
                .iter()
                .any(|filter| filter.matches(&incoming.topic))
        {
            return Ok(());
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.line.clear();
        match &args.format {
            Some(format) => write_format(format, incoming, &mut self.line),
            None => {
                if args.verbose {
                    self.line
                        .extend_from_slice(incoming.topic.as_str().as_bytes());
                    self.line.push(b' ');
                }
                self.line.extend_from_slice(&incoming.payload);
            }
        }
        if !args.no_newline {
            self.line.push(b'\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&self.line)?;
        stdout.flush()
    }
}

/// Fills in a format of `-F`. What is not known is printed as it is.
fn write_format(format: &str, incoming: &Incoming, line: &mut Vec<u8>) {
    let mut letters = format.chars();
    let mut utf8 = [0; 4];
    while let Some(letter) = letters.next() {
        match (letter, letters.clone().next()) {
            ('%', Some(field)) if write_field(field, incoming, line) => drop(letters.next()),
            ('\\', Some(escaped)) if write_escaped(escaped, line) => drop(letters.next()),
            _ => line.extend_from_slice(letter.encode_utf8(&mut utf8).as_bytes()),
        }
    }
}

/// Writes what a letter behind a backslash stands for; whether it stands for anything.
fn write_escaped(escaped: char, line: &mut Vec<u8>) -> bool {
    line.push(match escaped {
        'n' => b'\n',
        't' => b'\t',
        '0' => 0,
        '\\' => b'\\',
        _ => return false,
    });
    true
}

/// Writes the field of a letter; whether there is one.
fn write_field(field: char, incoming: &Incoming, line: &mut Vec<u8>) -> bool {
    let text = match field {
        'p' => {
            line.extend_from_slice(&incoming.payload);
            return true;
        }
        '%' => "%".to_owned(),
        't' => incoming.topic.as_str().to_owned(),
        'q' => u8::from(incoming.qos).to_string(),
        'r' => u8::from(incoming.retain).to_string(),
        'l' => incoming.payload.len().to_string(),
        'm' => incoming.packet_id.map_or(0, PacketId::number).to_string(),
        'x' => incoming
            .payload
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        'X' => incoming
            .payload
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect(),
        'U' => {
            let now = UNIX_EPOCH.elapsed().unwrap_or_default();
            format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
        }
        _ => return false,
    };
    line.extend_from_slice(text.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::TopicName;

    use super::*;

    #[test]
    fn a_format_is_filled_in() {
        let incoming = Incoming {
            topic: TopicName::from_static("a/b"),
            payload: "h\u{e9}".into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            packet_id: PacketId::new(7),
            subscription_ids: Vec::new(),
            properties: None,
        };
        for (format, expected) in [
            ("%t %p", "a/b h\u{e9}"),
            ("%q%r %l %m", "11 3 7"),
            ("%x %X", "68c3a9 68C3A9"),
            ("100%% \\t|\\n", "100% \t|\n"),
            ("%z %", "%z %"),
        ] {
            let mut line = Vec::new();
            write_format(format, &incoming, &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), expected, "{format}");
        }
    }
}
