//! `magpie start`: one node in the foreground.

mod audit_log;
mod fail_stop;
mod file_limit;
mod logging;
mod reload;
mod stop;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use magpie_admin::{Metrics, Server};
use magpie_audit::Audit;
use magpie_broker::Node;
use magpie_cluster::{Cluster, Fatal, Readiness, StartError};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::config::{ConfigArgs, NodeConfig};
use reload::Reloads;
use stop::{Asked, Stops};

/// A bug or a broken disk made the node stop itself.
const EXIT_BROKEN: u8 = 70;
/// This data directory must not be started again.
const EXIT_DATA_DIR: u8 = 71;

/// How long leaderships may take to find other nodes. Together with [`CLIENTS_DEADLINE`] and the clients' last packets it stays below
/// the ten seconds after which container runtimes kill.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(3);
/// The longest time over which clients are closed when the node stops.
const CLIENTS_DEADLINE: Duration = Duration::from_secs(4);
/// How long a node that stops waits until the sessions of its clients are where the next node finds them.
const DETACH_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node that cannot go on takes leave.
const FATAL_DEADLINE: Duration = Duration::from_secs(2);
/// How long the cluster's part may take to stop in order.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last lines of the audit log may take.
const AUDIT_DEADLINE: Duration = Duration::from_secs(1);
/// Up to which speed clients are closed: the others must take them in.
const CLIENTS_PER_SECOND: f64 = 2000.0;

/// Flags of the settings, and how the node is kept.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Stop, without draining, when standard input closes: so that no child outlives `magpie dev`
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Why a node does not start or goes on no more, and with which code it says so.
enum End {
    /// Stopped as asked.
    Asked,
    /// Cannot start: one sentence.
    NotStarted(String),
    /// Cannot go on, or must never start again.
    Fatal(Fatal),
}

impl StartArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let config = NodeConfig::load(&self.config.layers())?;
        logging::install(config.log_format, &config.log_level)?;
        fail_stop::install(EXIT_BROKEN);
        file_limit::raise();
        let metrics = Metrics::install()?;
        let node_name = &config.cluster.node_name;
        let audit = Audit::start(node_name, config.audit_log.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let end = runtime.block_on(async {
            let stops = Stops::new(self.stop_with_stdin)?;
            let reloads = Reloads::new()?;
            let ended = serve(config, metrics, audit.clone(), stops, reloads).await;
            anyhow::Ok(ended)
        })?;
        audit.flush(AUDIT_DEADLINE);
        // What still runs would only be in the way: everything that must last is on disk.
        runtime.shutdown_background();
        Ok(end.report())
    }
}

impl End {
    fn report(self) -> ExitCode {
        let (why, code) = match self {
            Self::Asked => {
                info!("stopped");
                return ExitCode::SUCCESS;
            }
            Self::NotStarted(why) => (why, 1),
            Self::Fatal(Fatal::Down(_)) => (begin_anew(), EXIT_BROKEN),
            Self::Fatal(Fatal::Disk(why)) => (why, EXIT_BROKEN),
            Self::Fatal(Fatal::Fenced(why)) => (why, EXIT_DATA_DIR),
        };
        eprintln!("magpie: {why}");
        ExitCode::from(code)
    }
}

/// Becomes a new life of this node: the same process, with nothing of what the cluster has declared down. A node that was cut off thus
/// heals without anybody's help. Returns only if the system refuses, with the reason.
fn begin_anew() -> String {
    info!("the node begins a new life");
    let mut arguments = std::env::args_os();
    let own_name = arguments.next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(program) => {
            let error = Command::new(&program).arg0(own_name).args(arguments).exec();
            format!("{} cannot be started again: {error}", program.display())
        }
        Err(error) => format!("this program does not find itself to start again: {error}"),
    }
}

/// From the configuration to the end of the process.
async fn serve(
    config: NodeConfig,
    metrics: Metrics,
    audit: Audit,
    mut stops: Stops,
    reloads: Reloads,
) -> End {
    tokio::spawn(audit_log::reopen_on_hangup(audit.clone()));
    // The first that answers: health checks see a node that starts.
    let server = match Server::bind(config.http, metrics, audit.clone()).await {
        Ok(server) => server,
        Err(error) => return End::NotStarted(error.to_string()),
    };
    let listeners = config.broker.listener.addresses().into_iter();
    if let Some(why) = listeners
        .filter_map(|(_, address)| address)
        .find_map(refusal_to_bind)
    {
        return End::NotStarted(why);
    }
    let seeds = config.cluster.seeds.len();
    let addresses = Addresses::of(&config.cluster, &server);
    let (cluster, events) = tokio::select! {
        started = Cluster::start(config.cluster) => match started {
            Ok(started) => started,
            Err(StartError::Config(why)) => return End::NotStarted(why),
            Err(StartError::DataDir(why)) => return End::Fatal(Fatal::Fenced(why)),
        },
        _ = stops.next() => return End::Asked,
    };
    addresses.log(&cluster);
    if seeds == 2 {
        warn!(
            "a cluster of two needs both: while one is away, the other serves nobody; use one or three nodes"
        );
    }
    server.attach_cluster(cluster.clone());
    tokio::spawn(report(cluster.readiness()));
    let joined = tokio::select! {
        () = cluster.formed() => Ok(()),
        fatal = cluster.fatal() => Err(End::Fatal(fatal)),
        _ = stops.next() => Err(End::Asked),
    };
    let end = match joined {
        Ok(()) => match Node::start(config.broker, cluster.clone(), events, audit) {
            Ok(node) => {
                server.attach_node(node.clone());
                tokio::spawn(reloads.run(node.clone(), cluster.clone()));
                run(&node, &cluster, &server, &mut stops).await
            }
            Err(error) => End::NotStarted(error.to_string()),
        },
        Err(end) => end,
    };
    server.stop();
    // A broken disk may keep what is asked of it waiting for ever.
    let deadline = if matches!(end, End::Fatal(_)) {
        FATAL_DEADLINE
    } else {
        STOP_DEADLINE
    };
    tokio::select! {
        _ = tokio::time::timeout(deadline, cluster.stop()) => {}
        _ = stops.next() => {}
    }
    end
}

/// Serves clients, from the first readiness to the end.
async fn run(node: &Node, cluster: &Cluster, server: &Server, stops: &mut Stops) -> End {
    let end = tokio::select! {
        end = serve_clients(node, cluster, server) => end,
        fatal = cluster.fatal() => End::Fatal(fatal),
        asked = stops.next() => {
            if asked == Asked::Drain {
                info!("stopping; once more to stop at once");
                tokio::select! {
                    () = drain(node, cluster, server) => {}
                    fatal = cluster.fatal() => return End::Fatal(fatal),
                    _ = stops.next() => {}
                }
            }
            End::Asked
        }
    };
    // Whoever is still connected is told, if that is possible at once.
    let _ = tokio::time::timeout(FATAL_DEADLINE, node.shutdown(Duration::ZERO)).await;
    end
}

/// Lets clients in when the node is ready for the first time, so that a balancer that only looks at the port sees the same as one that
/// asks. Drains when the operator wishes. Ends only if that fails.
async fn serve_clients(node: &Node, cluster: &Cluster, server: &Server) -> End {
    let listen = async {
        let mut readiness = cluster.readiness();
        let is_ready = readiness
            .wait_for(|readiness| *readiness == Readiness::Ready)
            .await
            .is_ok();
        match is_ready.then(|| node.listen()) {
            Some(Err(error)) => End::NotStarted(error.to_string()),
            _ => std::future::pending().await,
        }
    };
    let drained = async {
        server.drain_asked().await;
        info!("the operator drains this node");
        drain(node, cluster, server).await;
        info!("drained");
        std::future::pending().await
    };
    tokio::select! {
        end = listen => end,
        end = drained => end,
    }
}

/// Makes the node one that nobody misses: not ready, no leader, no clients.
async fn drain(node: &Node, cluster: &Cluster, server: &Server) {
    server.begin_stop();
    cluster.hand_over(HAND_OVER_DEADLINE).await;
    let clients = u32::try_from(node.totals().clients).unwrap_or(u32::MAX);
    let paced = Duration::from_secs_f64(f64::from(clients) / CLIENTS_PER_SECOND);
    node.shutdown(paced.min(CLIENTS_DEADLINE)).await;
    if tokio::time::timeout(DETACH_DEADLINE, cluster.detached())
        .await
        .is_err()
    {
        warn!(
            "not every session was handed on in time; those go on from what was known a second before"
        );
    }
}

/// Logs each change. That a node that starts is not ready yet is no warning, and what it waits for changes many times a second.
async fn report(mut readiness: watch::Receiver<Readiness>) {
    let mut was_ready = false;
    loop {
        match &*readiness.borrow_and_update() {
            Readiness::Ready => {
                info!("ready");
                was_ready = true;
            }
            Readiness::NotReady(why) if was_ready => warn!(why, "not ready"),
            Readiness::NotReady(why) => debug!(why, "not ready yet"),
        }
        if readiness.changed().await.is_err() {
            return;
        }
    }
}

/// Clients are let in when the node is ready, but a port that is taken is told at once.
fn refusal_to_bind(address: SocketAddr) -> Option<String> {
    let error = std::net::TcpListener::bind(address).err()?;
    Some(format!("cannot listen for MQTT on {address}: {error}"))
}

/// What the one line at the start tells.
struct Addresses {
    node_name: String,
    data_dir: String,
    mqtt: String,
    http: SocketAddr,
    cluster: String,
    advertised: String,
}

impl Addresses {
    fn of(config: &magpie_cluster::Config, server: &Server) -> Self {
        Self {
            node_name: config.node_name.clone(),
            data_dir: config.data_dir.display().to_string(),
            mqtt: config.mqtt_addr.clone(),
            http: server.address(),
            cluster: config.cluster_listen.clone(),
            advertised: config.cluster_advertise.clone(),
        }
    }

    fn log(&self, cluster: &Cluster) {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node_id = %cluster.node_id(),
            node_name = self.node_name,
            mqtt = self.mqtt,
            http = %self.http,
            cluster = self.cluster,
            advertised = self.advertised,
            data_dir = self.data_dir,
            "magpie starts"
        );
    }
}
