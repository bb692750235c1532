//! What comes before MQTT on a new connection: the header of a balancer, the handshake of TLS, the upgrade to WebSocket.

mod waiting;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use magpie_auth::CertificateNames;
use magpie_framing::client_hello::{self, HELLO_BYTES_MAX};
use magpie_framing::proxy_header::{self, ProxyHeader};
use magpie_framing::upgrade::{self, HEAD_BYTES_MAX, Refusal, Rules};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use bytesize::ByteSize;

use crate::config::Problem;
use crate::node::Shared;
use crate::peer::{Peer, Transport};
use crate::stream::Stream;
use crate::tls;
use crate::websocket::WebSocket;

/// What TLS may keep of our bytes until the socket takes them; beyond it, they stay with the connection.
const TLS_BYTES_MAX: usize = 32 * 1024;

/// What a usual request for an upgrade needs.
const REQUEST_BYTES: usize = 512;

/// Of a PROXY header, what is looked at in one go.
const PEEK_BYTES: usize = 512;

/// WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// Path of the requests that are upgraded, as in `ws://HOST:PORT/mqtt`. Default "/mqtt".
    pub path: String,
    /// Origins of web pages that may connect, as in `["https://app.example.com"]`; empty: all, and on a listener that only this machine can
    /// reach, pages of this machine. Browsers say from which page a connection comes, and other clients say nothing and are not asked.
    /// Default none.
    pub origins: Vec<String>,
    /// The longest WebSocket frame of a client; a longer one ends the connection with 1009. It costs no memory: MQTT is read as it comes, and
    /// its packets have their own limit. Default 16MiB.
    pub max_frame_size: ByteSize,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
            max_frame_size: ByteSize::mib(16),
        }
    }
}

impl WebSocketConfig {
    /// What requests for an upgrade are held to.
    fn rules(&self, is_loopback: bool) -> Rules<'_> {
        Rules {
            path: &self.path,
            origins: &self.origins,
            is_loopback,
        }
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut check = |key: &str, holds: bool, what: &str| {
            if !holds {
                problems.push(Problem::new(format!("websocket.{key}"), what));
            }
        };
        let is_path = |c: char| c.is_ascii_graphic() && c != '?' && c != '#';
        check(
            "path",
            self.path.starts_with('/') && self.path.chars().all(is_path),
            "must begin with / and have neither blanks nor a query",
        );
        for origin in &self.origins {
            let host = origin.split_once("://").map(|(_, host)| host);
            check(
                "origins",
                host.is_some_and(|host| !host.is_empty() && !host.contains('/')),
                "must be like https://app.example.com, without a path",
            );
        }
        check(
            "max_frame_size",
            self.max_frame_size.as_u64() >= 1024,
            "must be at least 1KiB",
        );
    }
}

/// Why a connection did not get as far as MQTT.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the first bytes are no PROXY header")]
    ProxyHeader,
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Upgrade(Refusal),
    #[error("it was closed")]
    Ended,
}

/// Reads the header of a balancer, and not a byte more. Gives the client's address, unless the balancer speaks for itself (a health check).
pub(crate) async fn proxy_header(socket: &mut TcpStream) -> Result<Option<SocketAddr>, Error> {
    let mut header = Vec::new();
    loop {
        let taken = header.len();
        header.resize(taken + PEEK_BYTES, 0);
        let count = socket.peek(&mut header[taken..]).await.unwrap_or(0);
        if count == 0 {
            return Err(Error::Ended);
        }
        header.truncate(taken + count);
        let complete = proxy_header::parse(&header).map_err(|_| Error::ProxyHeader)?;
        // While it is incomplete, all that came belongs to it.
        let end = complete.map_or(header.len(), |it| it.length);
        let of_header = &mut header[taken..end];
        socket
            .read_exact(of_header)
            .await
            .map_err(|_| Error::Ended)?;
        if let Some(ProxyHeader { client, .. }) = complete {
            return Ok(client);
        }
    }
}

/// Brings a connection as far as MQTT.
pub(crate) async fn open(
    node: &Shared,
    socket: TcpStream,
    remote: SocketAddr,
    transport: Transport,
    is_loopback: bool,
) -> Result<(Stream, Peer), Error> {
    // Until the client has said what begins it, the connection costs no more than its socket.
    begun(&socket, transport, &node.config.websocket, is_loopback).await?;
    let mut peer = Peer {
        remote,
        transport,
        certificate: None,
    };
    let is_websocket = matches!(transport, Transport::Ws | Transport::Wss);
    let mut stream = match transport {
        Transport::Tcp | Transport::Ws => Stream::Tcp(socket),
        Transport::Tls | Transport::Wss => {
            // Boxed, so that who says nothing does not have the room for it.
            let stream = Box::pin(handshake(node, socket, is_websocket)).await?;
            peer.certificate = certificate(&stream).map(Arc::new);
            Stream::Tls(Box::new(stream))
        }
    };
    if is_websocket {
        let config = &node.config.websocket;
        Box::pin(upgrade(&mut stream, config, is_loopback)).await?;
        let web_socket = WebSocket::new(stream, config.max_frame_size.as_u64());
        stream = Stream::Ws(Box::new(web_socket));
    }
    Ok((stream, peer))
}

/// Waits for all of a ClientHello, or of the request for an upgrade.
async fn begun(
    socket: &TcpStream,
    transport: Transport,
    config: &WebSocketConfig,
    is_loopback: bool,
) -> Result<(), Error> {
    match transport {
        Transport::Tcp => Ok(()),
        Transport::Tls | Transport::Wss => {
            let is_enough = |bytes: &[u8]| {
                let complete = client_hello::is_complete(bytes);
                complete.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            };
            let waiting = waiting::wait_for::<HELLO_BYTES_MAX>(socket, is_enough);
            waiting.await.map_err(Error::Tls)
        }
        Transport::Ws => {
            let rules = config.rules(is_loopback);
            let is_enough = |bytes: &[u8]| Ok(upgrade::answer(bytes, rules).is_some());
            let waiting = waiting::wait_for::<HEAD_BYTES_MAX>(socket, is_enough);
            waiting.await.map_err(|_| Error::Ended)
        }
    }
}

async fn handshake(
    node: &Shared,
    socket: TcpStream,
    is_websocket: bool,
) -> Result<TlsStream<TcpStream>, Error> {
    // A listener with TLS is opened with its certificate only.
    let tls = node.tls().ok_or(Error::Ended)?;
    TlsAcceptor::from(tls.config(is_websocket))
        .accept_with(socket, |session| {
            session.set_buffer_limit(Some(TLS_BYTES_MAX));
        })
        .await
        .map_err(Error::Tls)
}

/// Of a certificate that the handshake has verified.
fn certificate(stream: &TlsStream<TcpStream>) -> Option<CertificateNames> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    Some(tls::names(certificate))
}

async fn upgrade(
    stream: &mut Stream,
    config: &WebSocketConfig,
    is_loopback: bool,
) -> Result<(), Error> {
    let rules = config.rules(is_loopback);
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    let verdict = loop {
        if let Some(verdict) = upgrade::answer(&request, rules) {
            break verdict;
        }
        // No more than twice what came: nobody gets the room of a long request for a short one.
        if request.len() == request.capacity() {
            let most = HEAD_BYTES_MAX - request.len();
            request.reserve_exact(request.len().max(REQUEST_BYTES).min(most));
        }
        let room = request.capacity() - request.len();
        let mut more = (&mut *stream).take(room as u64);
        match more.read_buf(&mut request).await {
            Ok(0) | Err(_) => return Err(Error::Ended),
            Ok(_) => {}
        }
    };
    // RFC 6455, 4.1: the client waits for the answer before it sends more.
    let is_impatient = request.len() > verdict.length;
    let response = verdict.response.as_bytes();
    let answer = async {
        stream.write_all(response).await?;
        stream.flush().await
    };
    answer.await.map_err(|_| Error::Ended)?;
    match verdict.upgraded {
        Ok(()) if is_impatient => Err(Error::Upgrade(Refusal::Malformed)),
        Ok(()) => Ok(()),
        Err(refusal) => {
            // It is told; how the socket closes is its affair.
            let _ = stream.shutdown().await;
            Err(Error::Upgrade(refusal))
        }
    }
}
