//! `magpie pub`: publish messages from the command line, a file or standard input.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{ArgAction, Args};
use magpie_client::{Client, Error, Options, Pending};
use magpie_codec::{QoS, TopicName};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

use crate::connect_args::{ConnectArgs, parse_qos, parse_seconds};
use crate::property::Properties;

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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exit_code = runtime.block_on(self.publish_all())?;
        // A read of standard input cannot be cancelled, and nothing needs its end.
        runtime.shutdown_background();
        Ok(exit_code)
    }

    async fn publish_all(&self) -> anyhow::Result<ExitCode> {
        let properties = Properties::parse(&self.connect.properties)?;
        let options = self.connect.options("magpie-pub", &properties)?;
        let topic = TopicName::try_from(self.topic.as_str())
            .with_context(|| format!("the topic {:?}", self.topic))?;
        let payload = self.payload().await?;
        match self
            .connect_and_publish(options, topic, payload, properties)
            .await
        {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(Failure::Client(error)) => Ok(self.connect.fail("pub", &error)),
            Err(Failure::Input(error)) => Err(error).context("cannot read standard input"),
        }
    }

    /// The one payload; `None` when each line of standard input is one.
    async fn payload(&self) -> anyhow::Result<Option<Bytes>> {
        if self.stdin_line {
            return Ok(None);
        }
        let mut payload = Vec::new();
        if self.stdin_file {
            stdin()
                .read_to_end(&mut payload)
                .await
                .context("cannot read standard input")?;
        } else if let Some(file) = &self.file {
            payload = tokio::fs::read(file)
                .await
                .with_context(|| format!("cannot read {}", file.display()))?;
        } else if let Some(message) = &self.message {
            payload = message.clone().into();
        }
        Ok(Some(payload.into()))
    }

    async fn connect_and_publish(
        &self,
        options: Options,
        topic: TopicName,
        payload: Option<Bytes>,
        properties: Properties,
    ) -> Result<(), Failure> {
        let client = Client::connect(options).await?;
        self.debug(|| {
            format!(
                "connected, session present: {}",
                client.connack().session_present
            )
        });
        let mut queue = Queue {
            inflight_max: self.max_inflight.into(),
            pending: VecDeque::new(),
        };
        let mut repeats = 0..self.repeat;
        let mut lines = BufReader::new(stdin());
        loop {
            let payload = match &payload {
                Some(payload) => match repeats.next() {
                    Some(_) => payload.clone(),
                    None => break,
                },
                None => match next_line(&mut lines).await? {
                    Some(line) => line,
                    None => break,
                },
            };
            self.debug(|| {
                format!(
                    "publishing {} bytes to {topic:?} at QoS {}",
                    payload.len(),
                    u8::from(self.qos)
                )
            });
            let queued = client.publish_queued(
                topic.clone(),
                payload,
                self.qos,
                self.retain,
                properties.publish.clone(),
            );
            queue.push(queued.await?).await?;
            if !self.repeat_delay.is_zero() && !repeats.is_empty() {
                tokio::time::sleep(self.repeat_delay).await;
            }
        }
        queue.finish().await?;
        client.disconnect_with(properties.disconnect).await?;
        Ok(())
    }

    fn debug(&self, text: impl FnOnce() -> String) {
        if self.connect.debug {
            eprintln!("magpie pub: {}", text());
        }
    }
}

/// Messages that are not acknowledged yet, so that many can be on their way.
struct Queue {
    inflight_max: usize,
    pending: VecDeque<Pending>,
}

impl Queue {
    async fn push(&mut self, pending: Pending) -> Result<(), Error> {
        self.pending.push_back(pending);
        while self.pending.len() >= self.inflight_max.max(1) {
            self.take_first().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), Error> {
        while !self.pending.is_empty() {
            self.take_first().await?;
        }
        Ok(())
    }

    async fn take_first(&mut self) -> Result<(), Error> {
        match self.pending.pop_front() {
            Some(first) => first.outcome().await.map(drop),
            None => Ok(()),
        }
    }
}

/// What ends the command early.
#[derive(Debug)]
enum Failure {
    Client(Error),
    Input(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Input(error)
    }
}

/// A line without its line feed; `None` at the end.
async fn next_line(lines: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Bytes>> {
    let mut line = Vec::new();
    if lines.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Some(line.into()))
}
