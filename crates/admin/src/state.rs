//! What the handlers share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use magpie_broker::Node;
use magpie_cluster::{Cluster, Readiness};
use tokio::sync::{Notify, Semaphore};

use crate::metrics::Metrics;

/// Passwords that are hashed at the same time: each takes 19 MiB.
const HASHING_MAX: usize = 2;

/// Cheap to clone: axum hands one to each request.
pub(crate) type SharedState = Arc<State>;

/// From the start of the process to its end.
pub(crate) struct State {
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
    cluster: OnceLock<Cluster>,
    node: OnceLock<Node>,
    is_stopping: AtomicBool,
    /// The operator wants this node emptied.
    pub(crate) drain_asked: Notify,
    /// Seats for hashing passwords.
    pub(crate) hashing: Semaphore,
}

impl State {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            cluster: OnceLock::new(),
            node: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
            drain_asked: Notify::new(),
            hashing: Semaphore::new(HASHING_MAX),
        }
    }

    pub(crate) fn set_cluster(&self, cluster: Cluster) {
        // There is one in a process; a second one would be ignored.
        let _ = self.cluster.set(cluster);
    }

    pub(crate) fn set_node(&self, node: Node) {
        let _ = self.node.set(node);
    }

    /// `None` while the process starts.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.get()
    }

    /// `None` until this node is part of a cluster.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.get()
    }

    /// From now on the node is not ready, whatever the cluster says.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed) || self.node().is_some_and(Node::is_draining)
    }

    /// Whether clients may come, and if not why, in one line.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::NotReady("the node drains".to_owned());
        }
        let Some(cluster) = self.cluster() else {
            return Readiness::NotReady("the node starts".to_owned());
        };
        let readiness = cluster.readiness().borrow().clone();
        let is_listening = self
            .node()
            .is_some_and(|node| node.listening().mqtt.is_some());
        if readiness == Readiness::Ready && !is_listening {
            return Readiness::NotReady("the node does not listen for clients yet".to_owned());
        }
        readiness
    }
}
