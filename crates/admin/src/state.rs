//! What the handlers share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use magpie_broker::Node;
use magpie_cluster::{Cluster, Readiness};
use tokio::sync::Notify;

use crate::metrics::Metrics;

/// Cheap to clone: axum hands one to each request.
pub(crate) type SharedState = Arc<State>;

/// From the start of the process to its end.
pub(crate) struct State {
    pub(crate) metrics: Metrics,
    pub(crate) started: Instant,
    running: OnceLock<Running>,
    is_stopping: AtomicBool,
    /// The operator wants this node emptied.
    pub(crate) drain_asked: Notify,
}

/// A node to ask.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) cluster: Cluster,
}

impl State {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            running: OnceLock::new(),
            is_stopping: AtomicBool::new(false),
            drain_asked: Notify::new(),
        }
    }

    pub(crate) fn run(&self, running: Running) {
        // There is one node in a process; a second one would be ignored.
        let _ = self.running.set(running);
    }

    /// `None` while the node starts.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// From now on the node is not ready, whatever the cluster says.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
            || self
                .running()
                .is_some_and(|running| running.node.is_draining())
    }

    /// Whether clients may come, and if not why, in one line.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.is_draining() {
            return Readiness::NotReady("the node drains".to_owned());
        }
        let Some(running) = self.running() else {
            return Readiness::NotReady("the node starts".to_owned());
        };
        let readiness = running.cluster.readiness().borrow().clone();
        if readiness == Readiness::Ready && running.node.listening().mqtt.is_none() {
            return Readiness::NotReady("the node does not listen for clients yet".to_owned());
        }
        readiness
    }
}
