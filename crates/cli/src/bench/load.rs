//! A run of publishers against subscribers: connect, warm up, measure, drain, report.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use magpie_codec::{QoS, TopicName};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::flow::{Board, Flow};
use super::frame::PublishFrames;
use super::pace::Pace;
use super::parse_duration;
use super::process::{Usage, usage, usage_of_all};
use super::publisher::Publisher;
use super::read_buf::ReadBuf;
use super::report::{Counts, LoadReport};
use super::stamp::Stamp;
use super::subscriber::{Seen, Subscriber};
use super::target::{Established, Lifetime, Target, TargetArgs};
use crate::connect_args::parse_qos;

/// How much of what, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// QoS of messages and subscriptions
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    pub(super) qos: QoS,
    /// Payload in bytes, at least 20
    #[arg(long, default_value_t = 64, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(20..))]
    pub(super) size: u32,
    /// Messages of one publisher on their way at a time: not acknowledged and, without --rate, not delivered
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) window: u16,
    /// Messages per second of all publishers together; when left out, as many as the windows let through
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(super) duration: Duration,
    /// Subscribers with sessions that outlive their connections; they are ended after the run
    #[arg(long)]
    pub(super) durable: bool,
    /// How long to run before
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(super) warmup: Duration,
}

impl LoadArgs {
    const fn lifetime(&self) -> Lifetime {
        if self.durable {
            Lifetime::Durable
        } else {
            Lifetime::Connection
        }
    }
}

/// Who publishes where and who listens.
pub(super) struct Load {
    pub(super) scenario: &'static str,
    /// Topic and host of each publisher.
    pub(super) publishers: Vec<(String, usize)>,
    pub(super) subscribers: Vec<Listener>,
}

/// A subscriber to be.
pub(super) struct Listener {
    pub(super) filter: String,
    pub(super) host: usize,
    /// The publishers that match the filter.
    pub(super) hears: Range<usize>,
}

/// How long messages may be on their way after the last was published.
const DRAIN: Duration = Duration::from_secs(10);

impl Load {
    /// Runs the load.
    ///
    /// # Errors
    /// When a connection cannot be made or is lost, or the servers' processes cannot be read.
    pub(super) async fn run(
        self,
        target: &Target,
        args: &LoadArgs,
        target_args: &TargetArgs,
    ) -> anyhow::Result<LoadReport> {
        let mut run = Run::start(&self, target, args, target_args).await?;
        run.watch(args.warmup, "warming up").await?;
        let before = run.sample(&target_args.pids)?;
        run.board.set_measuring(true);
        run.watch(args.duration, "measuring").await?;
        run.board.set_measuring(false);
        let after = run.sample(&target_args.pids)?;
        run.stop();
        run.drain().await?;
        let deliveries = run.board.deliveries.all()?;
        let acknowledgements = run.board.acknowledgements.all()?;
        let counts = run.finish().await?;
        if args.durable {
            for (id, listener) in self.subscribers.iter().enumerate() {
                target.forget(listener.host, &format!("sub-{id}")).await?;
            }
        }
        let (publishers, subscribers) = (self.publishers.len(), self.subscribers.len());
        Ok(LoadReport::new(
            self.scenario,
            publishers,
            subscribers,
            args,
            &before,
            &after,
            counts,
            &deliveries,
            &acknowledgements,
        ))
    }

    fn hearers(&self, publisher: usize) -> u64 {
        self.subscribers
            .iter()
            .filter(|listener| listener.hears.contains(&publisher))
            .count() as u64
    }
}

/// Counters at one moment.
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) delivered_bytes: u64,
    /// Of the servers' processes; `None` when none were named.
    pub(super) servers: Option<Usage>,
    pub(super) generator_cpu: Duration,
}

/// A load that runs.
struct Run {
    board: Arc<Board>,
    flows: Arc<[Arc<Flow>]>,
    hearers: Vec<u64>,
    qos: QoS,
    publishers: JoinSet<anyhow::Result<Infallible>>,
    subscribers: JoinSet<anyhow::Result<Seen>>,
    done: CancellationToken,
}

impl Run {
    async fn start(
        load: &Load,
        target: &Target,
        args: &LoadArgs,
        target_args: &TargetArgs,
    ) -> anyhow::Result<Self> {
        let board = Arc::new(Board::new(target_args.threads)?);
        let flows: Arc<[Arc<Flow>]> = load.publishers.iter().map(|_| Arc::default()).collect();
        let done = CancellationToken::new();
        let mut subscribers = JoinSet::new();
        for (id, listener) in load.subscribers.iter().enumerate() {
            let lifetime = args.lifetime();
            let mut established = target
                .connect(listener.host, &format!("sub-{id}"), lifetime)
                .await?;
            target
                .subscribe(&mut established, &listener.filter, args.qos)
                .await?;
            let subscriber = Subscriber {
                id,
                read: ReadBuf::new(&established.read),
                stream: established.stream,
                version: target.version(),
                hears: listener.hears.clone(),
                flows: Arc::clone(&flows),
                board: Arc::clone(&board),
            };
            subscribers.spawn(subscriber.run(done.clone()));
        }
        let mut connected = Vec::new();
        for (id, (_, host)) in load.publishers.iter().enumerate() {
            let name = format!("pub-{id}");
            connected.push(target.connect(*host, &name, Lifetime::Connection).await?);
        }
        let start_ns = board.now_ns();
        let hearers: Vec<_> = (0..load.publishers.len())
            .map(|id| load.hearers(id))
            .collect();
        let mut publishers = JoinSet::new();
        for (
            id,
            Established {
                stream,
                read,
                receive_maximum,
                ..
            },
        ) in connected.into_iter().enumerate()
        {
            let window = args.window.min(if args.qos == QoS::AtMostOnce {
                u16::MAX
            } else {
                receive_maximum
            });
            let topic = TopicName::try_from(load.publishers[id].0.as_str())?;
            let payload_bytes = (args.size as usize).max(Stamp::BYTES);
            let version = target.version();
            let publisher = Publisher {
                id: u32::try_from(id)?,
                stream,
                read: ReadBuf::new(&read),
                version,
                qos: args.qos,
                frames: PublishFrames::new(version, topic, args.qos, payload_bytes, window.into())?,
                window: window.into(),
                pace: args
                    .rate
                    .map(|rate| Pace::new(rate, load.publishers.len(), id, start_ns)),
                subscribers: hearers[id],
                flow: Arc::clone(&flows[id]),
                board: Arc::clone(&board),
            };
            publishers.spawn(publisher.run());
        }
        Ok(Self {
            board,
            flows,
            hearers,
            qos: args.qos,
            publishers,
            subscribers,
            done,
        })
    }

    /// Lets the load run, and says on a terminal how it goes.
    async fn watch(&mut self, time: Duration, what: &str) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut delivered = self.board.delivered.load(Ordering::Relaxed);
        while let left = end.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            let started = Instant::now();
            self.rest(left.min(Duration::from_secs(1))).await?;
            let now = self.board.delivered.load(Ordering::Relaxed);
            let rate = (now - delivered) as f64 / started.elapsed().as_secs_f64();
            delivered = now;
            show_progress(&format!(
                "{what}, {:.0} s left, {rate:.0} messages/s",
                (left.as_secs_f64() - 1.0).max(0.0)
            ));
        }
        show_progress("");
        Ok(())
    }

    /// Waits; ends early when a task fails.
    async fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            Some(publisher) = self.publishers.join_next() => match publisher.context("a publisher broke")? {
                Err(error) => Err(error.context("a publisher lost its connection")),
            },
            Some(subscriber) = self.subscribers.join_next() => match subscriber.context("a subscriber broke")? {
                Err(error) => Err(error.context("a subscriber lost its connection")),
                Ok(_) => bail!("a subscriber ended early"),
            },
        }
    }

    fn sample(&self, pids: &[u32]) -> anyhow::Result<Sample> {
        Ok(Sample {
            at: Instant::now(),
            sent: self
                .flows
                .iter()
                .map(|flow| flow.sent.load(Ordering::Relaxed))
                .sum(),
            delivered: self.board.delivered.load(Ordering::Relaxed),
            delivered_bytes: self.board.delivered_bytes.load(Ordering::Relaxed),
            servers: (!pids.is_empty()).then(|| usage_of_all(pids)).transpose()?,
            generator_cpu: usage(std::process::id())?.cpu,
        })
    }

    fn stop(&self) {
        self.board.stop();
        for flow in &*self.flows {
            flow.wake.notify_one();
        }
    }

    /// Waits until everything arrived and is acknowledged, or nothing more comes.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + DRAIN;
        let mut last = (u64::MAX, Instant::now());
        while Instant::now() < end && !self.is_drained() {
            self.rest(Duration::from_millis(50)).await?;
            let delivered = self.board.delivered.load(Ordering::Relaxed);
            if delivered != last.0 {
                last = (delivered, Instant::now());
            } else if self.qos == QoS::AtMostOnce && last.1.elapsed() > DRAIN / 5 {
                break;
            }
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        self.flows.iter().zip(&self.hearers).all(|(flow, hearers)| {
            let sent = flow.sent.load(Ordering::Relaxed);
            let acked = self.qos == QoS::AtMostOnce || flow.acked.load(Ordering::Relaxed) == sent;
            acked && flow.passed.load(Ordering::Relaxed) >= sent * hearers
        })
    }

    async fn finish(mut self) -> anyhow::Result<Counts> {
        self.publishers.shutdown().await;
        self.done.cancel();
        let mut counts = Counts::default();
        for flow in &*self.flows {
            let sent = flow.sent.load(Ordering::Relaxed);
            counts.sent += sent;
            counts.refused += flow.refused.load(Ordering::Relaxed);
            if self.qos != QoS::AtMostOnce {
                counts.unacknowledged += sent - flow.acked.load(Ordering::Relaxed);
            }
        }
        while let Some(seen) = self.subscribers.join_next().await {
            let Seen { hears, sequences } = seen.context("a subscriber broke")??;
            for (publisher, sequence) in hears.zip(sequences) {
                let flow = &self.flows[publisher];
                // What was refused is not expected.
                let expected =
                    flow.sent.load(Ordering::Relaxed) - flow.refused.load(Ordering::Relaxed);
                counts.missing += sequence.missing(expected);
                counts.duplicates += sequence.duplicates;
                counts.out_of_order += sequence.out_of_order;
            }
        }
        Ok(counts)
    }
}

/// Replaces the line of progress; an empty text clears it.
pub(super) fn show_progress(text: &str) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        // Progress that cannot be shown is no error.
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err("the rate is above 0".to_owned())
    }
}
