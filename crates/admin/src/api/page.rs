//! Lists in pages.

use serde::Deserialize;

/// Which part of a list is asked for.
#[derive(Deserialize)]
pub(super) struct Page {
    /// At most so many.
    limit: Option<usize>,
    /// Only what comes after this one, in order.
    pub(super) after: Option<String>,
}

impl Page {
    pub(super) fn limit(&self, max: usize) -> usize {
        limit(self.limit, LIMIT_DEFAULT, max)
    }
}

/// How many rows there are on a page.
pub(super) fn limit(asked: Option<usize>, default: usize, max: usize) -> usize {
    asked.unwrap_or(default).clamp(1, max)
}

/// When the request does not say.
pub(super) const LIMIT_DEFAULT: usize = 100;
