//! The one place that says that this node must stop by itself.

use std::sync::Arc;

use tokio::sync::watch;

use crate::Fatal;

/// Set once, by whoever finds the cause first. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FatalSwitch {
    cause: Arc<watch::Sender<Option<Fatal>>>,
}

impl Default for FatalSwitch {
    fn default() -> Self {
        Self {
            cause: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl FatalSwitch {
    /// The node must stop. The first cause counts.
    pub(crate) fn trip(&self, cause: Fatal) {
        self.cause.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                tracing::error!(%cause, "this node stops itself");
                *known = Some(cause);
            }
            is_first
        });
    }

    /// Whether the node must stop.
    pub(crate) fn is_tripped(&self) -> bool {
        self.cause.borrow().is_some()
    }

    /// Resolves when the node must stop.
    pub(crate) async fn tripped(&self) -> Fatal {
        let mut cause = self.cause.subscribe();
        loop {
            if let Some(cause) = cause.borrow_and_update().clone() {
                return cause;
            }
            if cause.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
