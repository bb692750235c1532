//! `magpie dev`: a cluster on this machine, to try and to develop against. Each node is a process of its own, started as
//! `magpie start` would be by hand.

mod child;
mod guide;
mod home;
mod paint;
mod plan;
mod ports;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use child::{Child, Ended};
use home::Home;
use paint::{Paint, say};
use plan::{NodePlan, Plan};

use crate::node_http::NodeHttp;

/// How often a node that starts is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// After so long, the user is told what the nodes wait for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many nodes, and where.
#[derive(Args, Debug)]
pub(crate) struct DevArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20), value_name = "N")]
    nodes: u16,
    /// Keep the data here, for the next time; a temporary directory if left out
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// MQTT port of the first node; the next ones follow
    #[arg(long, default_value_t = 1883, value_name = "PORT")]
    mqtt_port: u16,
    /// HTTP port of the first node
    #[arg(long, default_value_t = 9883, value_name = "PORT")]
    http_port: u16,
    /// Port between nodes of the first node
    #[arg(long, default_value_t = 7883, value_name = "PORT")]
    cluster_port: u16,
    /// Further flags of `magpie start`, for every node
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

impl DevArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let home = Home::open(self.data_dir.as_deref())?;
        let plan = Plan::new(&self, &home)?;
        ports::check(&plan)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(run(&plan, &home, started))
    }
}

/// From the first child to the end of the last.
async fn run(plan: &Plan, home: &Home, started: Instant) -> anyhow::Result<ExitCode> {
    let paint = Paint::of_stdout();
    let mut stops = Stops::new()?;
    let (sender, mut ended) = mpsc::channel(plan.nodes.len());
    say(&guide::beginning(plan, home, paint));
    let mut children = Vec::new();
    for (number, node) in plan.nodes.iter().enumerate() {
        let width = plan.name_width();
        let prefix = paint.node(number, &format!("{:width$} |", node.name));
        children.push(Child::start(node, prefix, paint, sender.clone())?);
    }

    let mut running = children.len();
    let victim = children.last().and_then(|child| child.pid);
    let code = tokio::select! {
        code = watch(plan, victim, started, paint, &mut ended, &mut running) => code,
        () = stops.next() => ExitCode::SUCCESS,
    };
    if running > 0 {
        say(&guide::stopping(paint));
    }
    drop(children);
    tokio::select! {
        () = all_ended(&mut ended, running) => {}
        // Once more means at once: what still runs is killed with the runtime.
        () = stops.next() => {}
    }
    say(&guide::end(home, paint));
    Ok(code)
}

/// Tells what happens, until nothing runs any more or a node did not even start.
async fn watch(
    plan: &Plan,
    victim: Option<u32>,
    started: Instant,
    paint: Paint,
    ended: &mut mpsc::Receiver<Ended>,
    running: &mut usize,
) -> ExitCode {
    let readiness = all_ready(&plan.nodes);
    let impatience = tokio::time::sleep(PATIENCE);
    tokio::pin!(readiness, impatience);
    let (mut is_ready, mut is_patient) = (false, true);
    loop {
        tokio::select! {
            () = &mut readiness, if !is_ready => {
                is_ready = true;
                say(&guide::ready(plan, victim, started.elapsed(), paint));
            }
            () = &mut impatience, if !is_ready && is_patient => {
                is_patient = false;
                say(&guide::waiting(&not_ready(&plan.nodes).await, paint));
            }
            Some(gone) = ended.recv() => {
                *running -= 1;
                say(&guide::gone(&gone, plan, *running, paint));
                // A node that does not even start has told why; the others would wait for it for ever.
                if !is_ready || *running == 0 {
                    return ExitCode::from(1);
                }
            }
        }
    }
}

async fn all_ended(ended: &mut mpsc::Receiver<Ended>, mut running: usize) {
    while running > 0 && ended.recv().await.is_some() {
        running -= 1;
    }
}

/// The signals that end everything.
struct Stops([Signal; 3]);

impl Stops {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            // The terminal was closed.
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Resolves when every node answered that it is ready.
async fn all_ready(nodes: &[NodePlan]) {
    for node in nodes {
        while readiness(node).await.is_err() {
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// The names of those that are not, and why.
async fn not_ready(nodes: &[NodePlan]) -> Vec<(String, String)> {
    let mut waiting = Vec::new();
    for node in nodes {
        if let Err(why) = readiness(node).await {
            waiting.push((node.name.clone(), why));
        }
    }
    waiting
}

async fn readiness(node: &NodePlan) -> Result<(), String> {
    let http = NodeHttp::new(&node.http, None, Duration::from_secs(1));
    let asked = tokio::task::spawn_blocking(move || http.readiness()).await;
    match asked {
        Ok(Ok((true, _))) => Ok(()),
        Ok(Ok((false, why))) => Err(why),
        Ok(Err(_)) | Err(_) => Err("it does not answer".to_owned()),
    }
}
