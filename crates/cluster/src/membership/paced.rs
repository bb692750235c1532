//! A log line for what goes on being so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The same text is logged again only after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Remembers what it said last.
#[derive(Default)]
pub(super) struct Paced {
    last: Mutex<Option<(String, Instant)>>,
}

impl Paced {
    /// Logs `text`, unless that was said lately.
    pub(super) fn say(&self, text: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let said = last
            .as_ref()
            .is_some_and(|(said, at)| said == text && at.elapsed() < AGAIN_AFTER);
        if !said {
            tracing::info!("{text}");
            *last = Some((text.to_owned(), Instant::now()));
        }
    }

    /// What was said last.
    pub(super) fn last(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(text, _)| text.clone())
    }
}
