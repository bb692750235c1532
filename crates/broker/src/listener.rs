//! Listening sockets: from a TCP connection to a connection task.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::authenticate::Authentication;
use crate::config::Problem;
use crate::connection::Opened;
use crate::node::{Error, Shared};
use crate::peer::Peer;
use crate::stream::Stream;
use crate::{connection, proxy_protocol, task};

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// Address and port for MQTT over TCP. Default 127.0.0.1:1883.
    pub mqtt_listen: Option<SocketAddr>,
    /// A second one, which never expects the PROXY protocol: for clients inside the network while a balancer uses the first. Default
    /// off.
    pub mqtt_plain_listen: Option<SocketAddr>,
    /// Expect a PROXY protocol header, version 1 or 2, on `mqtt_listen`: set it exactly when a balancer in front sends one. Default
    /// false.
    pub proxy_protocol: bool,
    /// Whether clients without credentials are let in. Must be decided for a listener that other machines can reach. Default: yes
    /// on loopback.
    pub allow_anonymous: Option<bool>,
    /// Open client connections of this node; one more is closed at once. Must stay below the process's limit of file descriptors.
    /// Default 1000000.
    pub max_connections: usize,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            mqtt_listen: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            mqtt_plain_listen: None,
            proxy_protocol: false,
            allow_anonymous: None,
            max_connections: 1_000_000,
        }
    }
}

impl ListenerConfig {
    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let addresses = [
            ("mqtt_listen", self.mqtt_listen),
            ("mqtt_plain_listen", self.mqtt_plain_listen),
        ];
        for (key, address) in addresses {
            if let (Some(address), None) = (address, self.allow_anonymous)
                && !address.ip().is_loopback()
            {
                let what = format!(
                    "{address} can be reached from other machines and there are no users: set allow_anonymous = true if everybody may \
                     connect, or listen on 127.0.0.1"
                );
                problems.push(Problem::new(key, what));
            }
        }
        if self.mqtt_listen.is_some() && self.mqtt_listen == self.mqtt_plain_listen {
            problems.push(Problem::new(
                "mqtt_plain_listen",
                "is the same address as mqtt_listen",
            ));
        }
        if self.max_connections == 0 {
            problems.push(Problem::new("max_connections", "must be at least 1"));
        }
    }

    fn authentication(&self, address: SocketAddr) -> Authentication {
        match self.allow_anonymous {
            Some(true) => Authentication::Anonymous,
            None if address.ip().is_loopback() => Authentication::Anonymous,
            None | Some(false) => Authentication::Refuse,
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
}

/// A bound socket that accepts nobody yet.
pub(crate) struct Listener {
    socket: TcpListener,
    kind: Kind,
}

/// How connections of one listener begin.
#[derive(Debug, Clone, Copy)]
struct Kind {
    has_proxy_header: bool,
    authentication: Authentication,
}

/// Binds all configured listeners, or none.
///
/// # Errors
/// In one sentence for the operator.
pub(crate) fn bind(config: &ListenerConfig) -> Result<(Vec<Listener>, Listening), Error> {
    let mut listeners = Vec::new();
    let mut listening = Listening::default();
    let both = [
        (
            config.mqtt_listen,
            config.proxy_protocol,
            &mut listening.mqtt,
        ),
        (config.mqtt_plain_listen, false, &mut listening.plain),
    ];
    for (address, has_proxy_header, bound) in both {
        let Some(address) = address else { continue };
        let socket = open(address).map_err(|error| Error::Bind(address, explain(&error)))?;
        *bound = socket.local_addr().ok();
        let kind = Kind {
            has_proxy_header,
            authentication: config.authentication(address),
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

// [MQTT-4.2.0-1], [MQTT-7.1.1-1 v3.1.1]: TCP. There is nothing that a client needs to know beyond MQTT
// [MQTT-7.0.0-2 v3.1.1].
fn accept(socket: TcpStream, remote: SocketAddr, kind: Kind, node: &Arc<Shared>) {
    let Some(seat) = node.take_seat() else {
        node.metrics.refused_connection_limit.increment(1);
        debug!(%remote, "connection limit reached");
        return;
    };
    node.metrics.connects.increment(1);
    // Without it, small packets would wait for acknowledgements of earlier ones. Where it fails, the socket is broken already.
    let _ = socket.set_nodelay(true);
    let node = Arc::clone(node);
    task::spawn(async move {
        let _seat = seat;
        let mut socket = socket;
        let mut remote = remote;
        let mut first_bytes = BytesMut::new();
        if kind.has_proxy_header {
            match proxy_protocol::read(&mut socket).await {
                Ok((told, rest)) => {
                    remote = told.unwrap_or(remote);
                    first_bytes = rest;
                }
                Err(error) => {
                    node.metrics.refused_proxy_header.increment(1);
                    debug!(%remote, %error, "connection refused");
                    return;
                }
            }
        }
        let opened = Opened {
            stream: Stream::Tcp(socket),
            peer: Peer::tcp(remote),
            first_bytes,
            authentication: kind.authentication,
        };
        connection::run(node, opened).await;
    });
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
