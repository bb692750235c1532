//! The server side: one listener for all services of the node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

use super::socket::Socket;
use super::tls::NodeTls;

/// HTTP/2 flow control window of one stream.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2 flow control window of one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often an HTTP/2 connection is probed, and how soon the probe must be answered.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
pub(super) const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(4);
/// TLS handshakes under way at once.
const HANDSHAKES_MAX: usize = 64;
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Streams under way on one connection at once.
const STREAMS_MAX: u32 = 4096;
/// The largest message that a service should decode; raise tonic's own limit to it with `max_decoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Serves all services of this node, in TLS if that is configured, until `stop` resolves, then tells callers to go elsewhere and waits for calls under way: those
/// who serve streams end them (a group does so when it is stopped).
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<NodeTls>>,
    services: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(services);
    let Some(tls) = tls else {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        return server.serve_with_incoming_shutdown(incoming, stop).await;
    };
    let (sender, incoming) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(accept(listener, tls, sender));
    server
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop)
        .await
}

/// Accepts and does the handshakes, several at once, until nobody takes the connections any more.
async fn accept(
    listener: TcpListener,
    tls: Arc<NodeTls>,
    sender: mpsc::Sender<io::Result<Socket>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, remote)) = accepted else {
            // For lack of file descriptors, mostly.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (tls, sender) = (Arc::clone(&tls), sender.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            match tls.accept(stream).await {
                Ok(socket) => drop(sender.send(Ok(socket)).await),
                Err(error) => warn!(%remote, %error, "a connection of another node was refused"),
            }
        });
    }
}
