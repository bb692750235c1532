//! Tasks whose panic ends the process.

use std::future::{Future, poll_fn};

use tokio::task::JoinHandle;

/// Spawns a task. tokio would catch its panic and go on without it; a node that lost a task is half dead and must not live.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    // Boxed, since an async block around it would hold it twice: as what it captured and as what it awaits.
    let mut future = Box::pin(future);
    tokio::spawn(poll_fn(move |cx| {
        // Around each poll, not around the task: a runtime that is dropped by somebody else's panic drops its tasks too.
        let _guard = AbortOnPanic;
        future.as_mut().poll(cx)
    }))
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
