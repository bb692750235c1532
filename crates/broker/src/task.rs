//! Tasks whose panic ends the process.

use std::future::{Future, poll_fn};
use std::pin::pin;

use tokio::task::JoinHandle;

/// Spawns a task. tokio would catch its panic and go on without it; a node that lost a task is half dead and must not live.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let mut future = pin!(future);
        poll_fn(|cx| {
            // Around each poll, not around the task: a runtime that is dropped by somebody else's panic drops its tasks too.
            let _guard = AbortOnPanic;
            future.as_mut().poll(cx)
        })
        .await;
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
