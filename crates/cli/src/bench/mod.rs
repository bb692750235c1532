//! `magpie bench`: puts load on a broker and measures what comes out and what it costs.
//!
//! ```text
//! scenario ──> load ──> publisher ──(broker)──> subscriber ──> flow (windows) ──> publisher
//!                                                    └──> sequence, latencies ──> report
//! ```
//! The generator shares the machine with what it measures, so it must be cheap: packets are patched and read in place.

mod connect;
mod floor;
mod flow;
mod frame;
mod load;
mod offline;
mod pace;
mod process;
mod publisher;
mod read_buf;
mod report;
mod scenario;
mod sequence;
mod stamp;
mod subscriber;
mod target;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Put load on a broker and measure it.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Debug)]
enum Scenario {
    /// Publishers and subscribers in pairs, a topic for each pair
    Pubsub(scenario::PubsubArgs),
    /// Each message to many subscribers
    Fanout(scenario::FanoutArgs),
    /// Many publishers, each with a topic, and few subscribers to all of them
    Fanin(scenario::FaninArgs),
    /// Connections: how fast they are accepted and what an idle one costs
    Connect(connect::ConnectBenchArgs),
    /// Sessions that are away while messages come for them, and that all come back at once
    Offline(offline::OfflineArgs),
    /// Pairs at a steady rate, to see how long a message takes
    Latency(scenario::LatencyArgs),
}

impl BenchArgs {
    /// Exit code 0 when all went as the QoS promises, 1 when messages or connections were lost.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        raise_open_files();
        match self.scenario {
            Scenario::Pubsub(args) => load(args.plan()),
            Scenario::Fanout(args) => load(args.plan()),
            Scenario::Fanin(args) => load(args.plan()),
            Scenario::Latency(args) => load(args.plan()),
            Scenario::Offline(args) => {
                let report = runtime(args.target.threads)?.block_on(args.bench())?;
                print(&report, args.target.json, report.kept_promises())
            }
            Scenario::Connect(args) => {
                let report = runtime(args.target.threads)?.block_on(args.bench())?;
                print(&report, args.target.json, report.kept_promises())
            }
        }
    }
}

fn load(plan: scenario::Plan) -> anyhow::Result<ExitCode> {
    let report = runtime(plan.target.threads)?.block_on(plan.run())?;
    print(&report, plan.target.json, report.kept_promises())
}

fn print(
    report: &(impl Display + Serialize),
    json: bool,
    kept_promises: bool,
) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{report}");
    }
    Ok(if kept_promises {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    // One thread needs no queues between threads, which would cost more than the messages.
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .build()
        .context("cannot start the load generator")
}

/// As many connections as the system allows; where it does not, connecting fails with its message.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// A time such as `10s`, `500ms`, `2m` or `1h`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("the units are ms, s, m and h".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| "not a time".to_owned())?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1.5", 1500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in ["", "s", "-1s", "5 s", "5d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
