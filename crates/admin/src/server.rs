//! The listening socket and its connections, each bounded in what it may cost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{extract::Request, http::StatusCode, middleware::Next, response::Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use magpie_audit::Audit;
use magpie_broker::Node;
use magpie_cluster::Cluster;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use crate::access::{self, Access};
use crate::api::{self, ApiError};
use crate::audited::Caller;
use crate::config::Limits;
use crate::state::{SharedState, State};
use crate::{Config, Metrics, dashboard, health, metrics};

/// How long a failed accept, which means that descriptors or memory ran out, is not repeated.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be opened.
    #[error("cannot listen for HTTP on {0}: {1}")]
    Bind(SocketAddr, io::Error),
}

/// A running server. It serves until [`stop`](Self::stop).
pub struct Server {
    state: SharedState,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    /// Listens and answers: alive, not ready.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub async fn bind(config: Config, metrics: Metrics, audit: Audit) -> Result<Self, Error> {
        let failed = |error| Error::Bind(config.listen, error);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State::new(metrics));
        let stop = CancellationToken::new();
        let router = router(Arc::clone(&state), &config);
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            router,
            config.limits,
            audit,
        )));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(metrics::observe(Arc::clone(&state))),
        );
        Ok(Self {
            state,
            address,
            stop,
        })
    }

    /// The address as bound: port 0 has become a real one.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, tells what the cluster says of itself, formed or not.
    pub fn attach_cluster(&self, cluster: Cluster) {
        self.state.set_cluster(cluster);
    }

    /// From now on, tells of the clients too.
    pub fn attach_node(&self, node: Node) {
        self.state.set_node(node);
    }

    /// From now on the node is not ready.
    pub fn begin_stop(&self) {
        self.state.stop();
    }

    /// Resolves when the operator asks to drain the node; once per wish.
    pub async fn drain_asked(&self) {
        self.state.drain_asked.notified().await;
    }

    /// Closes the socket; requests that run are cut off.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Everything that is served.
pub(crate) fn router(state: SharedState, config: &Config) -> Router {
    let open = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::scrape));
    let guarded = Router::new()
        .route("/", get(dashboard::page))
        .nest("/api/v1", api::routes().router)
        .fallback(async || {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; / is the dashboard, /api/v1/openapi.json describes the API",
            )
        })
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this resource has no such method",
            )
        })
        .layer(from_fn_with_state(Access::new(config), access::guard));
    let body_max = usize::try_from(config.limits.max_body.as_u64()).unwrap_or(usize::MAX);
    let request_timeout = config.limits.request_timeout;
    open.merge(guarded)
        .with_state(state)
        .layer(DefaultBodyLimit::max(body_max))
        .layer(from_fn(move |request: Request, next: Next| {
            in_time(request_timeout, request, next)
        }))
}

async fn in_time(limit: Duration, request: Request, next: Next) -> Response {
    use axum::response::IntoResponse as _;
    tokio::time::timeout(limit, next.run(request))
        .await
        .unwrap_or_else(|_| {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the request took too long").into_response()
        })
}

/// Accepts for ever.
async fn accept(listener: TcpListener, router: Router, limits: Limits, audit: Audit) {
    let seats = Arc::new(Semaphore::new(
        limits.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let mut has_warned = false;
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            ::metrics::counter!("magpie_http_refused_total").increment(1);
            if !has_warned {
                warn!(
                    max_connections = limits.max_connections,
                    "too many HTTP connections, more are closed at once"
                );
                has_warned = true;
            }
            continue;
        };
        let caller = Caller {
            remote,
            audit: audit.clone(),
        };
        let router = router.clone();
        tokio::spawn(serve(stream, router, caller, limits.header_timeout, seat));
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    caller: Caller,
    header_timeout: Duration,
    _seat: OwnedSemaphorePermit,
) {
    let router = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        debug!(%error, "an HTTP connection failed");
    }
}
