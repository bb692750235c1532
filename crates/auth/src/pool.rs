//! Work that costs processor time: on threads of its own, few at a time, and so many that wait.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::turn::Turns;
use crate::{AuthConfig, Refusal};

/// Bounded by [`AuthConfig::password_threads`] and [`AuthConfig::password_queue`].
#[derive(Debug)]
pub(crate) struct Pool {
    threads: Arc<Semaphore>,
    turns: Turns,
}

impl Pool {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = match config.password_threads {
            0 => processors(),
            threads => threads,
        };
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            turns: Turns::new(config.password_queue),
        }
    }

    /// Waits for its turn, and for what comes of the work.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when too many wait.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let _turn = self.turns.take()?;
        let permit = Arc::clone(&self.threads).acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Refusal::Unavailable)
    }

    /// As many turns as there are.
    #[cfg(test)]
    pub(crate) fn all_turns(&self) -> Vec<crate::turn::Turn<'_>> {
        std::iter::from_fn(|| self.turns.take().ok()).collect()
    }
}
