//! `magpie bench connect`: how fast clients are let in, and what an idle connection costs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::flow::histogram;
use super::load::show_progress;
use super::pace::Pace;
use super::parse_duration;
use super::process::{Usage, usage_of_all};
use super::report::{Latencies, mib};
use super::target::{DISCONNECT, Established, Lifetime, Target, TargetArgs};

/// Connect clients, and hold them or let them go.
#[derive(Args, Debug)]
pub(crate) struct ConnectBenchArgs {
    /// Connections to make
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    clients: usize,
    /// Connections per second; when left out, as many as the server takes
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<u32>,
    /// Connections in the making at a time
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Keep all connections open for this long at the end; when left out, each is closed as soon as it is accepted
    #[arg(long, value_parser = parse_duration)]
    hold: Option<Duration>,
    #[command(flatten)]
    pub(super) target: TargetArgs,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct ConnectReport {
    scenario: &'static str,
    clients: usize,
    connected: usize,
    failed: usize,
    /// Of the connections held, those that the server closed.
    lost: usize,
    connected_per_s: f64,
    latency: Latencies,
    servers_cpu_us_per_connection: Option<f64>,
    /// While all are held.
    servers_resident_bytes_per_connection: Option<f64>,
    servers_resident_bytes: Option<u64>,
    first_failure: Option<String>,
}

impl ConnectBenchArgs {
    /// Runs the bench.
    ///
    /// # Errors
    /// When the servers' processes cannot be read; connections that fail are counted.
    pub(super) async fn bench(&self) -> anyhow::Result<ConnectReport> {
        let target = Arc::new(Target::new(&self.target).await?);
        let usage = || {
            (!self.target.pids.is_empty())
                .then(|| usage_of_all(&self.target.pids))
                .transpose()
        };
        let before = usage()?;
        let started = Instant::now();
        let mut made = self.connect_all(&target).await?;
        let took = started.elapsed();
        if self.hold.is_some() {
            // What the server does after the last CONNACK belongs to the connections.
            tokio::time::sleep(SETTLE).await;
        }
        let after = usage()?;
        let lost = match self.hold {
            Some(time) => hold(std::mem::take(&mut made.held), time).await,
            None => 0,
        };
        Ok(self.report(&made, lost, took, before, after))
    }

    async fn connect_all(&self, target: &Arc<Target>) -> anyhow::Result<Made> {
        let mut made = Made {
            held: Vec::new(),
            connected: 0,
            failed: 0,
            first_failure: None,
            latencies: histogram()?,
        };
        let start = tokio::time::Instant::now();
        let pace = self
            .rate
            .map(|rate| Pace::new(f64::from(rate.max(1)), 1, 0, 0));
        let hold = self.hold.is_some();
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            if let Some(pace) = pace {
                sleep_until(start + Duration::from_nanos(pace.due_ns(number as u64))).await;
            }
            while tasks.len() >= usize::from(self.window) {
                made.take(
                    tasks
                        .join_next()
                        .await
                        .context("a connection is in the making")??,
                );
            }
            let target = Arc::clone(target);
            tasks.spawn(async move { connect_one(&target, number, hold).await });
            if number % 256 == 0 {
                show_progress(&format!("{number} of {} connections", self.clients));
            }
        }
        while let Some(one) = tasks.join_next().await {
            made.take(one?);
        }
        show_progress("");
        Ok(made)
    }

    fn report(
        &self,
        made: &Made,
        lost: usize,
        took: Duration,
        before: Option<Usage>,
        after: Option<Usage>,
    ) -> ConnectReport {
        let connections = made.connected.max(1) as f64;
        let both = before.zip(after);
        let grown = |(before, after): (Usage, Usage)| {
            after.resident_bytes.saturating_sub(before.resident_bytes) as f64 / connections
        };
        ConnectReport {
            scenario: "connect",
            clients: self.clients,
            connected: made.connected,
            failed: made.failed,
            lost,
            connected_per_s: made.connected as f64 / took.as_secs_f64(),
            latency: Latencies::new(&made.latencies),
            servers_cpu_us_per_connection: both.map(|(before, after)| {
                after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / connections
            }),
            servers_resident_bytes_per_connection: both.filter(|_| self.hold.is_some()).map(grown),
            servers_resident_bytes: after.map(|after| after.resident_bytes),
            first_failure: made.first_failure.clone(),
        }
    }
}

impl ConnectReport {
    /// Whether every connection was made and kept.
    pub(super) const fn kept_promises(&self) -> bool {
        self.failed == 0 && self.lost == 0
    }
}

const SETTLE: Duration = Duration::from_secs(1);

/// Connections so far.
struct Made {
    held: Vec<Established>,
    connected: usize,
    failed: usize,
    first_failure: Option<String>,
    latencies: Histogram<u64>,
}

impl Made {
    fn take(&mut self, one: anyhow::Result<(Option<Established>, Duration)>) {
        match one {
            Ok((held, took)) => {
                self.connected += 1;
                self.held.extend(held);
                self.latencies
                    .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure
                    .get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

async fn connect_one(
    target: &Target,
    number: usize,
    hold: bool,
) -> anyhow::Result<(Option<Established>, Duration)> {
    let started = Instant::now();
    let mut established = target
        .connect(
            target.any_host(number),
            &number.to_string(),
            Lifetime::Connection,
        )
        .await?;
    let took = started.elapsed();
    if hold {
        return Ok((Some(established), took));
    }
    established.stream.write_all(&DISCONNECT).await?;
    Ok((None, took))
}

/// Keeps connections open; how many the server closed.
async fn hold(connections: Vec<Established>, time: Duration) -> usize {
    let end = tokio::time::Instant::now() + time;
    let mut tasks = JoinSet::new();
    for mut established in connections {
        tasks.spawn(async move {
            let closed = async {
                let mut byte = [0; 1];
                // PINGRESP or a message would be read and forgotten.
                while let Ok(1..) = established.stream.read(&mut byte).await {}
            };
            tokio::time::timeout_at(end, closed).await.is_ok()
        });
    }
    let mut lost = 0;
    while let Some(closed) = tasks.join_next().await {
        lost += usize::from(closed.unwrap_or(true));
    }
    lost
}

impl fmt::Display for ConnectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "connect: {} of {} connections, {:.0} /s, {} failed, {} lost while held",
            self.connected, self.clients, self.connected_per_s, self.failed, self.lost
        )?;
        if let Some(failure) = &self.first_failure {
            writeln!(f, "  first failure: {failure}")?;
        }
        write!(f, "  latency    {}", self.latency)?;
        if let (Some(cpu_us), Some(resident)) = (
            self.servers_cpu_us_per_connection,
            self.servers_resident_bytes,
        ) {
            write!(
                f,
                "\n  servers    {cpu_us:.1} us CPU per connection, {:.1} MiB resident",
                mib(resident)
            )?;
        }
        if let Some(bytes) = self.servers_resident_bytes_per_connection {
            write!(f, ", {bytes:.0} B per idle connection")?;
        }
        Ok(())
    }
}
