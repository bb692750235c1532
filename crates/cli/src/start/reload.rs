//! SIGHUP: what can change while the node runs is read again.

use magpie_broker::Node;
use magpie_cluster::Cluster;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, warn};

/// The signal. From when this is there, it does not end the process.
pub(super) struct Reloads(Signal);

impl Reloads {
    /// # Errors
    /// If the system takes no handler.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the signal, again and again.
    pub(super) async fn run(mut self, node: Node, cluster: Cluster) {
        while self.0.recv().await.is_some() {
            let (node, cluster) = (node.clone(), cluster.clone());
            // It reads files.
            let read = tokio::task::spawn_blocking(move || {
                node.reload_tls();
                if let Err(problem) = cluster.reload_tls() {
                    error!("{problem}; the certificate from before stays");
                }
            });
            if let Err(error) = read.await {
                warn!(%error, "nothing was read again");
            }
        }
    }
}
