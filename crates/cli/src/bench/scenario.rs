//! The loads by name: who publishes to whom.

use std::path::PathBuf;

use clap::Args;

use super::floor::{Beside, Floor};
use super::load::{Listener, Load, LoadArgs};
use super::report::LoadReport;
use super::target::{Target, TargetArgs};

/// Pairs of a publisher and a subscriber.
#[derive(Args, Debug)]
pub(crate) struct PubsubArgs {
    /// Pairs of one publisher and one subscriber
    #[arg(long, default_value_t = 50, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// Each message to all subscribers.
#[derive(Args, Debug)]
pub(crate) struct FanoutArgs {
    /// Subscribers to every message
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    /// Publishers, all to the same topic
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// Many topics to few subscribers.
#[derive(Args, Debug)]
pub(crate) struct FaninArgs {
    /// Publishers, each with a topic
    #[arg(long, default_value_t = 500, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Subscribers to all topics, by a wildcard
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    subscribers: u32,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// Pairs at a steady rate.
#[derive(Args, Debug)]
pub(crate) struct LatencyArgs {
    /// Pairs of one publisher and one subscriber
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Measure fdatasync in this directory, best on the servers' disk, and round trips over loopback, before the load and beside it: what
    /// an acknowledgement cannot be faster than
    #[arg(long, value_name = "DIR")]
    beside: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// A scenario with its options.
pub(super) struct Plan {
    pub(super) target: TargetArgs,
    args: LoadArgs,
    beside: Option<PathBuf>,
    shape: Shape,
}

enum Shape {
    Pairs {
        scenario: &'static str,
        pairs: usize,
    },
    /// One topic.
    Fanout {
        publishers: usize,
        subscribers: usize,
    },
    /// A topic for each publisher.
    Fanin {
        publishers: usize,
        subscribers: usize,
    },
}

impl PubsubArgs {
    pub(super) fn plan(self) -> Plan {
        let shape = Shape::Pairs {
            scenario: "pubsub",
            pairs: self.pairs as usize,
        };
        Plan {
            target: self.target,
            args: self.load,
            beside: None,
            shape,
        }
    }
}

impl FanoutArgs {
    pub(super) fn plan(self) -> Plan {
        let (publishers, subscribers) = (self.publishers as usize, self.subscribers as usize);
        Plan {
            target: self.target,
            args: self.load,
            beside: None,
            shape: Shape::Fanout {
                publishers,
                subscribers,
            },
        }
    }
}

impl FaninArgs {
    pub(super) fn plan(self) -> Plan {
        let (publishers, subscribers) = (self.publishers as usize, self.subscribers as usize);
        Plan {
            target: self.target,
            args: self.load,
            beside: None,
            shape: Shape::Fanin {
                publishers,
                subscribers,
            },
        }
    }
}

impl LatencyArgs {
    pub(super) fn plan(mut self) -> Plan {
        self.load.rate.get_or_insert(1000.0);
        let shape = Shape::Pairs {
            scenario: "latency",
            pairs: self.pairs as usize,
        };
        Plan {
            target: self.target,
            args: self.load,
            beside: self.beside,
            shape,
        }
    }
}

impl Plan {
    /// Runs the scenario.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(super) async fn run(&self) -> anyhow::Result<LoadReport> {
        let before = self.beside.as_deref().map(Floor::measure).transpose()?;
        let target = Target::new(&self.target).await?;
        let beside = self.beside.as_deref().map(Beside::start).transpose()?;
        let report = self
            .shape
            .load(&target)
            .run(&target, &self.args, &self.target)
            .await;
        // Also after a failure: its file goes with it.
        let beside = beside.map(Beside::stop).transpose()?;
        Ok(report?.with_floors(before, beside))
    }
}

impl Shape {
    fn load(&self, target: &Target) -> Load {
        match *self {
            Self::Pairs { scenario, pairs } => Load {
                scenario,
                publishers: (0..pairs)
                    .map(|pair| (target.topic(&pair.to_string()), target.publisher_host(pair)))
                    .collect(),
                subscribers: (0..pairs)
                    .map(|pair| Listener {
                        filter: target.topic(&pair.to_string()),
                        host: target.subscriber_host(pair, pair),
                        hears: pair..pair + 1,
                    })
                    .collect(),
            },
            Self::Fanout {
                publishers,
                subscribers,
            } => Load {
                scenario: "fanout",
                publishers: (0..publishers)
                    .map(|publisher| (target.topic("all"), target.publisher_host(publisher)))
                    .collect(),
                subscribers: listeners(target, &target.topic("all"), publishers, subscribers),
            },
            Self::Fanin {
                publishers,
                subscribers,
            } => Load {
                scenario: "fanin",
                publishers: (0..publishers)
                    .map(|publisher| {
                        (
                            target.topic(&publisher.to_string()),
                            target.publisher_host(publisher),
                        )
                    })
                    .collect(),
                subscribers: listeners(target, &target.topic("+"), publishers, subscribers),
            },
        }
    }
}

/// Subscribers that hear all publishers.
fn listeners(
    target: &Target,
    filter: &str,
    publishers: usize,
    subscribers: usize,
) -> Vec<Listener> {
    (0..subscribers)
        .map(|subscriber| Listener {
            filter: filter.to_owned(),
            host: target.subscriber_host(subscriber % publishers, subscriber),
            hears: 0..publishers,
        })
        .collect()
}
