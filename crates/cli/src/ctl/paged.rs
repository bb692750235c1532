//! Lists that the API gives in pages.

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::table::Table;
use crate::node_http::{NodeHttp, segment};

const OTHER_VERSION: &str = "the node gave an answer of another version";

/// Rows of a list, read page by page.
pub(super) struct Paged<T> {
    /// What the API calls them.
    name: &'static str,
    rows: Vec<T>,
    /// There are more, after this one.
    next: Option<String>,
}

impl<T: DeserializeOwned + Serialize> Paged<T> {
    /// Reads at most `limit` rows behind `after`. `path` ends with its query or a `?`; the API gives at most `page_max` at a time.
    ///
    /// # Errors
    /// As [`NodeHttp::get`].
    pub(super) fn read(
        node: &NodeHttp,
        (path, name): (&str, &'static str),
        page_max: usize,
        limit: usize,
        after: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut rows = Vec::new();
        let mut next = after.map(ToOwned::to_owned);
        while rows.len() < limit {
            let wanted = (limit - rows.len()).min(page_max);
            let after = next.map(|after| format!("&after={}", segment(&after)));
            let path = format!("{path}limit={wanted}{}", after.unwrap_or_default());
            let mut page: Map<String, Value> = node.get(&path)?;
            let mut take = |key| page.remove(key).unwrap_or_default();
            let (more, after) = (take(name), take("next"));
            let more: Vec<T> = serde_json::from_value(more).context(OTHER_VERSION)?;
            rows.extend(more);
            next = serde_json::from_value(after).context(OTHER_VERSION)?;
            if next.is_none() {
                break;
            }
        }
        Ok(Self { name, rows, next })
    }

    /// Prints them.
    pub(super) fn print(&self, json: bool, table: impl FnOnce(&[T]) -> Table) {
        if json {
            println!("{:#}", json!({ self.name: self.rows, "next": self.next }));
            return;
        }
        print!("{}", table(&self.rows));
        if self.next.is_some() {
            println!("there are more; --limit or --after shows them");
        }
    }
}
