//! Channels to other nodes: one HTTP/2 connection per node and purpose, kept, and dialled again when needed.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use magpie_state::NodeId;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use tracing::warn;

use super::directory::Directory;
use super::identity::{Credentials, Identity};
use super::serve::{
    CONNECTION_WINDOW_BYTES, KEEP_ALIVE_EVERY, KEEP_ALIVE_WITHIN, STREAM_WINDOW_BYTES,
};
use super::socket::Socket;
use super::tls::NodeTls;

/// A dial that takes longer has failed.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Pause after the first failed dial; doubles up to [`PAUSE_MAX`]. Calls during a pause fail at once.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A channel that adds this node's credentials to every call. Cheap to clone; connects at the first call.
pub type PeerChannel = InterceptedService<Channel, Credentials>;

/// What a connection is for. Each purpose has its own, so that none starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Heartbeats, votes, leadership transfers, small questions: must get through at once.
    Control,
    /// Log replication.
    Log,
    /// Snapshots.
    Snapshot,
    /// Publish streams, tails, peer links.
    Forwarding,
}

/// All channels of this node. Cheap to clone. Used inside a tokio runtime, on which the connections then run.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    directory: Directory,
    tls: Option<Arc<NodeTls>>,
    open: Mutex<HashMap<(NodeId, Purpose), Kept>>,
}

struct Kept {
    channel: PeerChannel,
    dialler: Arc<Dialler>,
}

impl Channels {
    /// Channels that dial the addresses of `directory`.
    #[must_use]
    pub fn new(identity: Arc<Identity>, directory: Directory) -> Self {
        Self::with_tls(identity, directory, None)
    }

    /// The same, in TLS.
    #[must_use]
    pub fn with_tls(
        identity: Arc<Identity>,
        directory: Directory,
        tls: Option<Arc<NodeTls>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                directory,
                tls,
                open: Mutex::default(),
            }),
        }
    }

    /// Where these channels look up addresses.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// Who these channels say this node is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }

    /// The channel to `node` for [`Purpose::Forwarding`].
    #[must_use]
    pub fn forwarding(&self, node: NodeId) -> PeerChannel {
        self.to(node, Purpose::Forwarding)
    }

    /// The channel to `node` for `purpose`.
    #[must_use]
    pub fn to(&self, node: NodeId, purpose: Purpose) -> PeerChannel {
        let mut open = self.open();
        let kept = open.entry((node, purpose)).or_insert_with(|| {
            let directory = self.inner.directory.clone();
            self.dial(Some(node), move || directory.address(node))
        });
        kept.channel.clone()
    }

    /// `node` lives: that dials failed before says nothing any more, and the next call to it dials at once. Where only one direction of the
    /// network works, that is one dial more for each time that this is told.
    pub fn heard_from(&self, node: NodeId) {
        let open = self.open();
        let kept = open.iter().filter(|((other, _), _)| *other == node);
        kept.for_each(|(_, kept)| kept.dialler.end_pause());
    }

    /// A new channel to whoever is at `host:port`, for questions before a cluster exists. Not kept.
    #[must_use]
    pub fn stranger(&self, address: &str) -> PeerChannel {
        let address = address.to_owned();
        self.dial(None, move || Some(address.clone())).channel
    }

    /// Closes the channels to a node that is no member any more (once calls under way have ended).
    pub fn forget(&self, node: NodeId) {
        self.open().retain(|(other, _), _| *other != node);
    }

    /// As if a dial had just failed.
    #[cfg(test)]
    pub(crate) fn pause(&self, node: NodeId, purpose: Purpose, length: Duration) {
        let _ = self.to(node, purpose);
        let address = self.inner.directory.address(node).expect("a known node");
        *self.open()[&(node, purpose)].dialler.pause() = Pause {
            length,
            until: Some(Instant::now() + length),
            address,
        };
    }

    fn open(&self) -> MutexGuard<'_, HashMap<(NodeId, Purpose), Kept>> {
        self.inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn dial(
        &self,
        target: Option<NodeId>,
        address: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Kept {
        let dialler = Arc::new(Dialler {
            address: Box::new(address),
            tls: self.inner.tls.clone(),
            pause: Mutex::default(),
        });
        let dials = Arc::clone(&dialler);
        let connector = service_fn(move |_: Uri| {
            let dialler = Arc::clone(&dials);
            async move { dialler.dial().await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://peer")
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        let credentials = Credentials::new(Arc::clone(&self.inner.identity), target);
        Kept {
            channel: InterceptedService::new(channel, credentials),
            dialler,
        }
    }
}

/// Resolves and connects, with a pause after each failure.
struct Dialler {
    address: Box<dyn Fn() -> Option<String> + Send + Sync>,
    tls: Option<Arc<NodeTls>>,
    pause: Mutex<Pause>,
}

#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
    /// The address that failed: another one is tried at once.
    address: String,
}

impl Dialler {
    async fn dial(&self) -> io::Result<Socket> {
        let Some(address) = (self.address)() else {
            return Err(io::Error::other("the node's address is not known"));
        };
        {
            let pause = self.pause();
            if pause.address == address && pause.until.is_some_and(|until| Instant::now() < until) {
                return Err(io::Error::other("not dialled again so soon"));
            }
        }
        let attempt = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&address)).await;
        let outcome = attempt
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let outcome = match (outcome, &self.tls) {
            (Ok(stream), Some(tls)) => tls.connect(&address, stream).await.inspect_err(
                |error| warn!(address, %error, "another node was not trusted, or does not trust this one"),
            ),
            (outcome, _) => outcome.map(Socket::Tcp),
        };
        let mut pause = self.pause();
        *pause = match &outcome {
            Ok(_) => Pause::default(),
            Err(_) => {
                let length = (pause.length * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                Pause {
                    length,
                    until: Some(Instant::now() + length),
                    address,
                }
            }
        };
        outcome
    }

    fn end_pause(&self) {
        self.pause().until = None;
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
