//! SIGHUP and the audit log: something has moved the file away, a new one is to be begun.

use magpie_audit::Audit;
use tokio::signal::unix::{SignalKind, signal};

/// Opens the audit log anew at each signal, for ever.
pub(super) async fn reopen_on_hangup(audit: Audit) {
    let mut signals = match signal(SignalKind::hangup()) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard: the audit log is opened anew at the next start only");
            return;
        }
    };
    while signals.recv().await.is_some() {
        audit.reopen();
    }
}
