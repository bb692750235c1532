//! The node: what ties listeners, connections, tails and events together, and what the operator asks it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use magpie_audit::Audit;
use magpie_auth::Authenticator;
use magpie_cluster::{Cluster, Events, Load};
use magpie_session::{Eviction, Limits};
use magpie_state::{ClientId, PartitionId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::access::{self, Access};
use crate::admission::{self, Rates};
use crate::handle::ClientInfo;
use crate::listener::{self, Listening};
use crate::metrics::Metrics;
use crate::progress::Durables;
use crate::registry::Registry;
use crate::shares::Shares;
use crate::subscribers::Subscribers;
use crate::tls::{self, Loaded, Tls};
use crate::{Config, Problem, events, progress, sys_topics, tail, task};

/// How often the gauges are brought up to date.
const OBSERVE_EVERY: Duration = Duration::from_secs(5);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be opened.
    #[error("cannot listen for MQTT on {0}: {1}")]
    Bind(SocketAddr, String),
    /// The certificate, or what belongs to it, cannot be used.
    #[error("{0}")]
    Tls(Problem),
    /// Clients cannot be authenticated as it is configured.
    #[error(transparent)]
    Auth(#[from] magpie_auth::Error),
}

/// The broker of this node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// What tasks of the node share. Each part guards itself.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) limits: Arc<Limits>,
    pub(crate) decoder_limits: magpie_codec::Limits,
    pub(crate) cluster: Cluster,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) durables: Arc<Durables>,
    pub(crate) shares: Arc<Shares>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rates: Rates,
    /// Set when the listeners are opened, if one of them speaks TLS.
    tls: OnceLock<Tls>,
    pub(crate) access: Access,
    connections: AtomicUsize,
    half_open: AtomicUsize,
    half_open_by_address: Mutex<HashMap<IpAddr, usize>>,
    numbers: AtomicU64,
    is_draining: AtomicBool,
    has_ignored_retain: AtomicBool,
    listening: Mutex<Listening>,
    stop_listening: CancellationToken,
    pub(crate) stop: CancellationToken,
}

/// Counts of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Open client connections, those included that have not said CONNECT.
    pub connections: usize,
    /// Those that have not said CONNECT.
    pub half_open: usize,
    /// Attached clients.
    pub clients: usize,
    /// Their subscriptions.
    pub subscriptions: usize,
    /// Different topic filters of those.
    pub filters: usize,
}

impl Node {
    /// Starts to deliver what the partitions commit and to do what the cluster asks. Clients can connect after
    /// [`listen`](Self::listen).
    ///
    /// # Errors
    /// One sentence for the operator: how clients are authenticated cannot be as it is configured.
    ///
    /// # Panics
    /// If the tails of the cluster were taken before, or outside a tokio runtime.
    pub fn start(
        config: Config,
        cluster: Cluster,
        events: Events,
        audit: Audit,
    ) -> Result<Self, Error> {
        let access = Access::new(Authenticator::new(&config.auth)?, audit, &cluster);
        let policy = cluster.policy();
        let metrics = Arc::new(Metrics::register());
        let subscribers = Arc::new(Subscribers::new(cluster.partitions()));
        let registry = Arc::new(Registry::new());
        let durables = Arc::new(Durables::new(cluster.partitions()));
        let shares = Shares::start(&cluster, &subscribers);
        for partition in 0..cluster.partitions() {
            let tail = cluster.take_tail(PartitionId(partition));
            task::spawn(tail::run(
                tail,
                Arc::clone(&subscribers),
                Arc::clone(&registry),
                Arc::clone(&metrics),
            ));
        }
        task::spawn(events::run(
            events,
            Arc::clone(&registry),
            Arc::clone(&subscribers),
            Arc::clone(&metrics),
        ));
        let listener = &config.listener;
        let rates = Rates::new(
            listener.max_connect_rate,
            listener.max_connect_rate_per_address,
        );
        let shared = Arc::new(Shared {
            limits: Arc::new(config.session.limits()),
            decoder_limits: config.session.decoder_limits(),
            config,
            cluster,
            subscribers,
            registry,
            durables,
            shares,
            metrics,
            rates,
            tls: OnceLock::new(),
            access,
            connections: AtomicUsize::new(0),
            half_open: AtomicUsize::new(0),
            half_open_by_address: Mutex::default(),
            numbers: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            has_ignored_retain: AtomicBool::new(false),
            listening: Mutex::default(),
            stop_listening: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        task::spawn(observe(Arc::clone(&shared)));
        task::spawn(access::run(Arc::clone(&shared), policy));
        task::spawn(sys_topics::run(Arc::clone(&shared)));
        task::spawn(progress::run(
            shared.cluster.clone(),
            Arc::clone(&shared.durables),
            Arc::clone(&shared.subscribers),
            shared.stop.clone(),
        ));
        Ok(Self { shared })
    }

    /// Opens the listeners and accepts clients. Called once, when the node may serve.
    ///
    /// # Errors
    /// One sentence for the operator; then no listener is open.
    pub fn listen(&self) -> Result<Listening, Error> {
        let config = &self.shared.config.listener;
        if config.has_tls() {
            let loaded = tls::load(config).map_err(|problems| {
                let first = problems.into_iter().next();
                Error::Tls(first.expect("what fails has a problem"))
            })?;
            self.shared.note_certificate(&loaded);
            let _ = self.shared.tls.set(Tls::new(loaded));
        }
        let (listeners, listening) = listener::bind(config)?;
        for listener in listeners {
            let stop = self.shared.stop_listening.clone();
            task::spawn(listener::run(listener, Arc::clone(&self.shared), stop));
        }
        *self
            .shared
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = listening;
        self.warn_of_closed_doors();
        info!(
            mqtt = ?listening.mqtt, plain = ?listening.plain, mqtts = ?listening.mqtts, ws = ?listening.ws, wss = ?listening.wss,
            "listening"
        );
        Ok(listening)
    }

    /// Reads the certificate of the listeners again, with what belongs to it. Connections that are there stay as they are; new ones use what
    /// was read. Logs what is wrong; then everything stays as it was. Reads files: not for a worker thread that serves clients.
    pub fn reload_tls(&self) {
        let Some(tls) = self.shared.tls.get() else {
            return;
        };
        let metrics = &self.shared.metrics;
        match tls::load(&self.shared.config.listener) {
            Ok(loaded) => {
                self.shared.note_certificate(&loaded);
                tls.replace(loaded);
                metrics.tls_reloads.increment(1);
                info!("the certificate was read again");
            }
            Err(problems) => {
                metrics.failed_tls_reloads.increment(1);
                for problem in problems {
                    error!(
                        key = problem.key,
                        "{}; the certificate from before stays", problem.what
                    );
                }
            }
        }
    }

    /// Tells operators who wonder why nobody can connect.
    fn warn_of_closed_doors(&self) {
        let config = &self.shared.config;
        let addresses = config.listener.addresses();
        let is_public = |(_, address): &(_, Option<SocketAddr>)| {
            address.is_some_and(|address| !address.ip().is_loopback())
        };
        if config.listener.allow_anonymous.is_none()
            && addresses.iter().any(is_public)
            && !config.auth.has_authenticators()
            && !self.shared.access.policy().has_users()
        {
            warn!(
                "there are no users yet: nobody can connect from elsewhere until there is one (magpie ctl user add), or allow_anonymous is set"
            );
        }
    }

    /// The addresses that clients can connect to; none before [`listen`](Self::listen).
    #[must_use]
    pub fn listening(&self) -> Listening {
        *self
            .shared
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`shutdown`](Self::shutdown) has begun: for readiness.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Relaxed)
    }

    /// Accepts nobody any more and closes all clients, spread over `drain` so that they do not all reconnect at once. Returns when they
    /// are gone, or somewhat after `drain`.
    pub async fn shutdown(&self, drain: Duration) {
        self.shared.is_draining.store(true, Ordering::Relaxed);
        self.shared.stop_listening.cancel();
        let handles = self.shared.registry.handles();
        let started = Instant::now();
        let count = u32::try_from(handles.len()).unwrap_or(u32::MAX).max(1);
        for (closed, handle) in (0u32..).zip(&handles) {
            let due = started + drain.mul_f64(f64::from(closed) / f64::from(count));
            // Timers have milliseconds; many are closed per tick.
            if due > Instant::now() + Duration::from_millis(1) {
                tokio::time::sleep_until(due).await;
            }
            handle.mailbox.evict(Eviction::ShuttingDown);
        }
        self.await_no_clients().await;
        self.shared.stop.cancel();
    }

    async fn await_no_clients(&self) {
        let patience = self.shared.config.connection.close_timeout * 2;
        let deadline = Instant::now() + patience;
        loop {
            // Those that connected meanwhile are closed too.
            let handles = self.shared.registry.handles();
            if handles.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                warn!(clients = handles.len(), "clients did not close in time");
                return;
            }
            handles
                .iter()
                .for_each(|handle| handle.mailbox.evict(Eviction::ShuttingDown));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Attached clients, in no particular order.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        let handles = self.shared.registry.handles();
        let info = |handle: &Arc<crate::handle::Handle>| {
            handle.info(self.shared.subscribers.count_of(handle))
        };
        handles.iter().filter_map(info).collect()
    }

    /// Closes the connection of a client (v5: 0x98). False if it has none on this node.
    #[must_use]
    pub fn kick(&self, client: &ClientId) -> bool {
        self.shared.registry.evict(client, Eviction::Kicked)
    }

    /// Counts of now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.totals(&self.shared.registry.handles())
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }
}

impl Shared {
    /// A number that no other connection in this life of the node has.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The node has stopped.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Room for one more connection, unless the limit is reached.
    pub(crate) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(self));
        (before < self.config.listener.max_connections).then_some(seat)
    }

    /// Room for one more connection without CONNECT, unless the limit is reached.
    pub(crate) fn take_half_open(self: &Arc<Self>) -> Option<HalfOpen> {
        let before = self.half_open.fetch_add(1, Ordering::Relaxed);
        let half_open = HalfOpen {
            node: Arc::clone(self),
            holder: None,
        };
        (before < self.config.listener.max_half_open).then_some(half_open)
    }

    /// Connections without CONNECT.
    pub(crate) fn half_open(&self) -> usize {
        self.half_open.load(Ordering::Relaxed)
    }

    /// For listeners with TLS, once they are open.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.get()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge needs no more than 52 bits"
    )]
    fn note_certificate(&self, loaded: &Loaded) {
        for warning in &loaded.warnings {
            warn!(key = warning.key, "{}", warning.what);
        }
        let ends_at = loaded.ends_at.unwrap_or(SystemTime::UNIX_EPOCH);
        let since = ends_at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.metrics.certificate_ends.set(seconds as f64);
    }

    /// Counts a RETAIN flag that was ignored; the first one is logged.
    pub(crate) fn note_retain_ignored(&self) {
        self.metrics.retain_ignored.increment(1);
        if !self.has_ignored_retain.swap(true, Ordering::Relaxed) {
            warn!(
                "a client before version 5 publishes with RETAIN, which is not available: the flag is ignored"
            );
        }
    }

    fn totals(&self, handles: &[Arc<crate::handle::Handle>]) -> Totals {
        let attached = handles.iter().filter(|handle| handle.epoch().is_some());
        Totals {
            connections: self.connections.load(Ordering::Relaxed),
            half_open: self.half_open(),
            clients: attached.count(),
            subscriptions: handles
                .iter()
                .map(|handle| self.subscribers.count_of(handle))
                .sum(),
            filters: self.subscribers.filters(),
        }
    }
}

/// A connection's place among those that the node admits.
pub(crate) struct Seat(Arc<Shared>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among those whose CONNECT has not come.
pub(crate) struct HalfOpen {
    node: Arc<Shared>,
    holder: Option<IpAddr>,
}

impl HalfOpen {
    /// Notes whose it is. False if that address has too many, so that no one takes the places of all.
    pub(crate) fn is_admitted(&mut self, address: IpAddr) -> bool {
        let holder = admission::holder(address);
        let mut by_address = lock(&self.node.half_open_by_address);
        let count = by_address.entry(holder).or_insert(0);
        if *count >= self.node.config.listener.max_half_open_per_address {
            return false;
        }
        *count += 1;
        self.holder = Some(holder);
        true
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.node.half_open.fetch_sub(1, Ordering::Relaxed);
        let Some(holder) = self.holder else { return };
        let mut by_address = lock(&self.node.half_open_by_address);
        if let Some(count) = by_address.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&holder);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge needs no more than 52 bits"
)]
async fn observe(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(OBSERVE_EVERY);
    while shared
        .stop
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        let handles = shared.registry.handles();
        let totals = shared.totals(&handles);
        let metrics = &shared.metrics;
        shared.cluster.tell_load(load(&totals, metrics));
        metrics.connections.set(totals.connections as f64);
        metrics.half_open.set(shared.half_open() as f64);
        metrics.subscriptions.set(totals.subscriptions as f64);
        metrics.filters.set(totals.filters as f64);
        let mut held = crate::mailbox::Weight::default();
        for handle in &handles {
            held += handle.mailbox.held();
        }
        metrics.mailbox_messages.set(held.messages as f64);
        metrics.mailbox_bytes.set(held.bytes as f64);
    }
}

fn load(totals: &Totals, metrics: &Metrics) -> Load {
    let (messages_received, bytes_received) = metrics.received.in_all();
    let (messages_sent, bytes_sent) = metrics.sent.in_all();
    Load {
        clients: totals.clients as u64,
        subscriptions: totals.subscriptions as u64,
        messages_received,
        bytes_received,
        messages_sent,
        bytes_sent,
        messages_dropped: metrics.dropped.in_all(),
        ..Load::default()
    }
}
