//! The server side: one listener for all services of the node.

use std::time::Duration;

use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// HTTP/2 flow control window of one stream.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2 flow control window of one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often an HTTP/2 connection is probed, and how soon the probe must be answered.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
pub(super) const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(4);
/// Streams under way on one connection at once.
const STREAMS_MAX: u32 = 4096;
/// The largest message that a service should decode; raise tonic's own limit to it with `max_decoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Serves all services of this node until `stop` resolves, then tells callers to go elsewhere and waits for calls under way: those
/// who serve streams end them (a group does so when it is stopped).
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    services: Routes,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(services)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await
}
