//! Listening sockets: from a TCP connection to a connection task.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use magpie_codec::ReasonCode;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::admission::Exceeded;
use crate::authenticate::Anonymity;
use crate::config::Problem;
use crate::connection::Opened;
use crate::node::{Error, HalfOpen, Shared};
use crate::opening;
use crate::peer::{Peer, Transport};
use crate::stream::Stream;
use crate::tls::{self, ClientCertificate};
use crate::{clock, connection, task};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// Address and port for MQTT over TCP. Default 127.0.0.1:1883.
    pub mqtt_listen: Option<SocketAddr>,
    /// A second one, which never expects the PROXY protocol: for clients inside the network while a balancer uses the first. Default
    /// off.
    pub mqtt_plain_listen: Option<SocketAddr>,
    /// For MQTT over TLS, usually on port 8883; needs `tls_cert` and `tls_key`. Default off.
    pub mqtts_listen: Option<SocketAddr>,
    /// For MQTT over WebSocket, usually on port 8083: `ws://HOST:PORT/mqtt`. Default off.
    pub ws_listen: Option<SocketAddr>,
    /// For MQTT over WebSocket over TLS, usually on port 8084: `wss://HOST:PORT/mqtt`; needs `tls_cert` and `tls_key`. Default off.
    pub wss_listen: Option<SocketAddr>,
    /// PEM file with the certificate of this node, followed by those of the authorities between it and one that clients know. Read again
    /// on SIGHUP. Default off.
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate, without a passphrase. Read again on SIGHUP. Default off.
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities that sign certificates of clients; with it, clients are asked for one. Read again on SIGHUP. Default
    /// off.
    pub tls_client_ca: Option<PathBuf>,
    /// With `tls_client_ca`: `required`, or `optional` to let in clients without a certificate, too. Default required.
    pub tls_client_cert: ClientCertificate,
    /// Expect a PROXY protocol header, version 1 or 2, on all listeners but `mqtt_plain_listen`: set it exactly when a balancer in front
    /// sends one. Default false.
    pub proxy_protocol: bool,
    /// Whether clients without credentials are let in. When left out: only on loopback, and only while there are no users, no rules and
    /// nothing else that could tell who they are. Default: yes on loopback.
    pub allow_anonymous: Option<bool>,
    /// Open client connections of this node; one more is closed at once. Must stay below the process's limit of file descriptors.
    /// Default 1000000.
    pub max_connections: usize,
    /// Connections whose CONNECT has not come; one more is closed at once. Each may take `session.connect_timeout`, handshakes included.
    /// Default 10000.
    pub max_half_open: usize,
    /// The same of each address of clients, so that no one takes all; IPv6 addresses count by their first 64 bits. Default 2500.
    pub max_half_open_per_address: usize,
    /// New connections per second of this node, after a burst of as many. One more is closed; if it came over plain TCP and speaks MQTT 5.0, it is
    /// told 0x9F before. 0 is no bound. Default 0.
    pub max_connect_rate: u32,
    /// The same of each address of clients; IPv6 addresses count by their first 64 bits. Leave it off behind a balancer that does not send the
    /// PROXY protocol. 0 is no bound. Default 0.
    pub max_connect_rate_per_address: u32,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            mqtt_listen: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            mqtt_plain_listen: None,
            mqtts_listen: None,
            ws_listen: None,
            wss_listen: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_cert: ClientCertificate::Required,
            proxy_protocol: false,
            allow_anonymous: None,
            max_connections: 1_000_000,
            max_half_open: 10_000,
            max_half_open_per_address: 2500,
            max_connect_rate: 0,
            max_connect_rate_per_address: 0,
        }
    }
}

impl ListenerConfig {
    /// The addresses, with their keys.
    #[must_use]
    pub const fn addresses(&self) -> [(&'static str, Option<SocketAddr>); 5] {
        [
            ("mqtt_listen", self.mqtt_listen),
            ("mqtt_plain_listen", self.mqtt_plain_listen),
            ("mqtts_listen", self.mqtts_listen),
            ("ws_listen", self.ws_listen),
            ("wss_listen", self.wss_listen),
        ]
    }

    /// Whether a listener speaks TLS.
    pub(crate) const fn has_tls(&self) -> bool {
        self.mqtts_listen.is_some() || self.wss_listen.is_some()
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        if self.mqtt_listen.is_some() && self.mqtt_listen == self.mqtt_plain_listen {
            problems.push(Problem::new(
                "mqtt_plain_listen",
                "is the same address as mqtt_listen",
            ));
        }
        for (key, limit) in [
            ("max_connections", self.max_connections),
            ("max_half_open", self.max_half_open),
            ("max_half_open_per_address", self.max_half_open_per_address),
        ] {
            if limit == 0 {
                problems.push(Problem::new(key, "must be at least 1"));
            }
        }
        if self.has_tls()
            && let Err(found) = tls::load(self)
        {
            problems.extend(found);
        }
    }

    const fn anonymity(&self, address: SocketAddr, has_proxy_header: bool) -> Anonymity {
        Anonymity {
            allowed: self.allow_anonymous,
            // A balancer in front makes it reachable for others.
            is_loopback: address.ip().is_loopback() && !has_proxy_header,
        }
    }
}

/// The addresses that a node listens on, as bound: a configured port 0 has become a real one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listening {
    /// Of `mqtt_listen`.
    pub mqtt: Option<SocketAddr>,
    /// Of `mqtt_plain_listen`.
    pub plain: Option<SocketAddr>,
    /// Of `mqtts_listen`.
    pub mqtts: Option<SocketAddr>,
    /// Of `ws_listen`.
    pub ws: Option<SocketAddr>,
    /// Of `wss_listen`.
    pub wss: Option<SocketAddr>,
}

/// A bound socket that accepts nobody yet.
pub(crate) struct Listener {
    socket: TcpListener,
    kind: Kind,
}

/// How connections of one listener begin.
#[derive(Debug, Clone, Copy)]
struct Kind {
    transport: Transport,
    has_proxy_header: bool,
    anonymity: Anonymity,
}

/// Binds all configured listeners, or none.
///
/// # Errors
/// In one sentence for the operator.
pub(crate) fn bind(config: &ListenerConfig) -> Result<(Vec<Listener>, Listening), Error> {
    let mut listeners = Vec::new();
    let mut listening = Listening::default();
    let transports = [
        (Transport::Tcp, config.proxy_protocol, &mut listening.mqtt),
        (Transport::Tcp, false, &mut listening.plain),
        (Transport::Tls, config.proxy_protocol, &mut listening.mqtts),
        (Transport::Ws, config.proxy_protocol, &mut listening.ws),
        (Transport::Wss, config.proxy_protocol, &mut listening.wss),
    ];
    for ((_, address), (transport, has_proxy_header, bound)) in
        config.addresses().into_iter().zip(transports)
    {
        let Some(address) = address else { continue };
        let socket = open(address).map_err(|error| Error::Bind(address, explain(&error)))?;
        *bound = socket.local_addr().ok();
        let kind = Kind {
            transport,
            has_proxy_header,
            anonymity: config.anonymity(address, has_proxy_header),
        };
        listeners.push(Listener { socket, kind });
    }
    Ok((listeners, listening))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted node listens again at once, although connections of its former life are still in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there already".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this user may not open that port (below 1024 it takes a privilege)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// Accepts until `stop`.
pub(crate) async fn run(listener: Listener, node: Arc<Shared>, stop: CancellationToken) {
    let mut pause = Pause::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((socket, remote)) => {
                pause = Pause::default();
                accept(socket, remote, listener.kind, &node);
            }
            Err(error) => {
                node.metrics.accept_errors.increment(1);
                pause.after(&error).await;
            }
        }
    }
}

// [MQTT-4.2.0-1], [MQTT-7.1.1-1 v3.1.1]: TCP, TLS and WebSocket. There is nothing that a client needs to know beyond MQTT
// [MQTT-7.0.0-2 v3.1.1].
fn accept(socket: TcpStream, remote: SocketAddr, kind: Kind, node: &Arc<Shared>) {
    let opened_at = Instant::now();
    let metrics = &node.metrics;
    let Some(seat) = node.take_seat() else {
        metrics.refused_connection_limit.increment(1);
        debug!(%remote, "connection limit reached");
        return;
    };
    let Some(half_open) = node.take_half_open() else {
        metrics.refused_half_open_limit.increment(1);
        debug!(%remote, "limit of half-open connections reached");
        return;
    };
    metrics.connects.increment(1);
    // Without it, small packets would wait for acknowledgements of earlier ones. Where it fails, the socket is broken already.
    let _ = socket.set_nodelay(true);
    let incoming = Incoming {
        socket,
        remote,
        kind,
        half_open,
        opened_at,
    };
    let node = Arc::clone(node);
    task::spawn(async move {
        let _seat = seat;
        // Boxed, since only the beginning of the connection needs it.
        let opened = Box::pin(open_in_time(&node, incoming)).await;
        if let Some(opened) = opened {
            connection::run(node, opened).await;
        }
    });
}

/// A connection of which nothing was read.
struct Incoming {
    socket: TcpStream,
    remote: SocketAddr,
    kind: Kind,
    half_open: HalfOpen,
    opened_at: Instant,
}

/// A refused client is told why if that costs next to nothing.
fn can_be_told(transport: Transport, node: &Shared) -> bool {
    transport == Transport::Tcp && node.half_open() < node.config.listener.max_half_open / 2
}

/// Everything before MQTT, within the time that a client has for its CONNECT. `None`: the connection was refused, and counted.
async fn open_in_time(node: &Shared, incoming: Incoming) -> Option<Opened> {
    let (remote, transport) = (incoming.remote, incoming.kind.transport);
    if transport == Transport::Tcp && !incoming.kind.has_proxy_header {
        // Its CONNECT is waited for by its driver.
        return open_mqtt(node, incoming).await;
    }
    let deadline = incoming.opened_at + node.config.session.connect_timeout;
    let opening = tokio::time::timeout_at(deadline.into(), open_mqtt(node, incoming));
    opening.await.unwrap_or_else(|_| {
        node.metrics.refused_too_slow.increment(1);
        debug!(%remote, transport = transport.name(), "connection refused: it took too long");
        None
    })
}

async fn open_mqtt(node: &Shared, incoming: Incoming) -> Option<Opened> {
    let Incoming {
        mut socket,
        mut remote,
        kind,
        mut half_open,
        opened_at,
    } = incoming;
    let metrics = &node.metrics;
    if kind.has_proxy_header {
        match opening::proxy_header(&mut socket).await {
            Ok(told) => remote = told.unwrap_or(remote),
            Err(error) => {
                metrics.refused_proxy_header.increment(1);
                debug!(%remote, %error, "connection refused");
                return None;
            }
        }
    }
    let is_banned = {
        let policy = node.cluster.policy();
        let policy = policy.borrow();
        policy.address_ban(remote.ip(), clock::wall_ms()).is_some()
    };
    if is_banned {
        metrics.refused_banned.increment(1);
        debug!(%remote, "the address is banned");
        return None;
    }
    if !half_open.is_admitted(remote.ip()) {
        metrics.refused_half_open_limit.increment(1);
        debug!(%remote, "limit of half-open connections of an address reached");
        return None;
    }
    // Before a handshake that costs more than the connection. The address first: one that comes too often must not use up what the node admits.
    let now = Instant::now();
    let admitted = node.rates.admit_address(remote.ip(), now);
    let mut refusal = None;
    if let Err(exceeded) = admitted.and_then(|()| node.rates.admit(now)) {
        match exceeded {
            Exceeded::Node => metrics.refused_connect_rate.increment(1),
            Exceeded::Address => metrics.refused_connect_rate_per_address.increment(1),
        }
        debug!(%remote, ?exceeded, "too many connections per second");
        if !can_be_told(kind.transport, node) {
            return None;
        }
        refusal = Some(ReasonCode::ConnectionRateExceeded);
    }
    let (stream, peer) = if kind.transport == Transport::Tcp {
        (Stream::Tcp(socket), Peer::tcp(remote))
    } else {
        let is_loopback = kind.anonymity.is_loopback;
        match opening::open(node, socket, remote, kind.transport, is_loopback).await {
            Ok(opened) => opened,
            Err(error) => {
                match &error {
                    opening::Error::Tls(_) => metrics.refused_tls.increment(1),
                    opening::Error::Upgrade(_) => metrics.refused_upgrade.increment(1),
                    opening::Error::ProxyHeader | opening::Error::Ended => {}
                }
                debug!(%remote, transport = kind.transport.name(), %error, "connection refused");
                return None;
            }
        }
    };
    Some(Opened {
        stream,
        peer,
        anonymity: kind.anonymity,
        half_open,
        opened_at,
        refusal,
    })
}

/// Waits between failed accepts, so that a lack of file descriptors is not answered by spinning.
#[derive(Default)]
struct Pause {
    failures: u32,
}

impl Pause {
    async fn after(&mut self, error: &io::Error) {
        // The peer's fault, or nobody's: the next one may be fine.
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
        ) {
            return;
        }
        if self.failures == 0 {
            warn!(%error, "cannot accept connections");
        }
        self.failures = (self.failures + 1).min(5);
        tokio::time::sleep(Duration::from_millis(25) * (1 << self.failures)).await;
    }
}
