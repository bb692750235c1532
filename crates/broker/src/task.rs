//! Tasks whose panic ends the process.

use std::future::Future;

use tokio::task::JoinHandle;

/// Spawns a task. tokio would catch its panic and go on without it; a node that lost a task is half dead and must not live.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let _guard = AbortOnPanic;
        future.await;
    })
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic hook has told where.
            std::process::abort();
        }
    }
}
