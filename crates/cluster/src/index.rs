//! Which messages of a partition's log wait for sessions, found by topic, and their records.
//!
//! There is one index per replica. It is built by reading the log in the background, the same way after a start and while the node runs, and
//! brought up to what is applied when somebody fetches: applying costs nothing for it. What was trimmed and kept stays in it.

mod cache;
mod columns;
mod follow;
mod records;
mod topic_index;
mod topics;
mod weigh;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use magpie_codec::TopicFilter;
use magpie_state::Position;
use magpie_state::partition::PartitionState;

use crate::raft::RaftGroup;
use cache::Cache;
use follow::Followed;
pub(crate) use records::Records;
pub(crate) use topic_index::{Waiting, WaitingFor};
pub(crate) use weigh::{Cut, Weight};

/// Records of one answer to a question for positions, in bytes.
const AT_BYTES: usize = 1 << 20;
/// Messages that a search goes past before it lets others in.
const PLACES: u32 = 1 << 16;
/// A replica that has not applied what is asked for by then does not answer.
const APPLIED_WITHIN: Duration = Duration::from_millis(500);

/// The index of one replica.
pub(crate) struct PartitionIndex {
    group: RaftGroup<PartitionState>,
    followed: Mutex<Followed>,
    /// Held by whoever brings it up to date.
    following: tokio::sync::Mutex<()>,
    cache: Arc<Cache>,
}

/// Messages that were asked for.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) records: Records,
    /// All that was asked for up to here is among them.
    pub(crate) upto: Position,
    /// How many that were asked for a limit removed, as far as is known.
    pub(crate) lost: u64,
}

/// How big an index is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct IndexSize {
    /// Messages above the trimmed index.
    pub(crate) young: u64,
    /// Bytes of the records of those.
    pub(crate) young_bytes: u64,
    /// Messages that were kept when the log was trimmed.
    pub(crate) kept: u64,
    /// Bytes of the records of those.
    pub(crate) kept_bytes: u64,
    /// Different topics.
    pub(crate) topics: u64,
    /// Bytes of memory, about.
    pub(crate) memory: u64,
}

impl PartitionIndex {
    /// The index of a replica, which is built in the background until the replica stops.
    pub(crate) fn start(group: RaftGroup<PartitionState>) -> Arc<Self> {
        let index = Arc::new(Self::new(group));
        tokio::spawn(Arc::clone(&index).follow_on());
        index
    }

    fn new(group: RaftGroup<PartitionState>) -> Self {
        Self {
            group,
            followed: Mutex::default(),
            following: tokio::sync::Mutex::default(),
            cache: Arc::default(),
        }
    }

    /// The waiting messages above `after` that any of the filters matches, in order: about `bytes_max` bytes of them, at least one if there
    /// is one.
    pub(crate) async fn fetch(
        &self,
        filters: &[TopicFilter],
        after: Position,
        bytes_max: usize,
    ) -> io::Result<Fetched> {
        loop {
            let installs = self.group.installs();
            let fetched = self.fetch_once(filters, after, bytes_max).await;
            if self.group.installs() == installs {
                return fetched;
            }
            // What was found may be gone from where it was.
        }
    }

    async fn fetch_once(
        &self,
        filters: &[TopicFilter],
        after: Position,
        bytes_max: usize,
    ) -> io::Result<Fetched> {
        let applied = self.group.applied();
        let mut from = after;
        let (search, lost, end) = loop {
            self.follow(applied).await?;
            let (search, lost, end) = {
                let followed = self.lock();
                let search = followed.index.search(filters, from, bytes_max, PLACES);
                let lost = followed.index.lost(filters, after);
                (search, lost, followed.end())
            };
            match search.upto {
                Some(upto) if search.found.is_empty() => from = upto,
                _ => break (search, lost, end),
            }
            // A long search lets others in between.
            tokio::task::yield_now().await;
        };
        let upto = search.upto.unwrap_or(end);
        let records = self.read(search.found).await?;
        Ok(Fetched {
            records,
            upto,
            lost,
        })
    }

    /// Those of the messages at these positions (ascending) that wait, from the first on: as many as fit into an answer.
    pub(crate) async fn fetch_at(&self, positions: &[Position]) -> io::Result<Fetched> {
        let last = positions.last().map_or(0, |last| last.index());
        // A replica that lags has them soon; one that is far behind should not be waited for.
        let applied = tokio::time::timeout(APPLIED_WITHIN, self.group.wait_applied(last)).await;
        applied
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        loop {
            let installs = self.group.installs();
            let fetched = self.fetch_at_once(positions).await;
            if self.group.installs() == installs {
                return fetched;
            }
        }
    }

    async fn fetch_at_once(&self, positions: &[Position]) -> io::Result<Fetched> {
        self.follow(self.group.applied()).await?;
        let mut found = self.lock().index.at(positions);
        let mut bytes = 0;
        let fits = found.iter().take_while(|found| {
            bytes += found.bytes as usize;
            bytes <= AT_BYTES
        });
        let fits = fits.count().max(1);
        let upto = if fits < found.len() {
            found[fits - 1].position
        } else {
            positions.last().copied().unwrap_or_default()
        };
        found.truncate(fits);
        let records = self.read(found).await?;
        Ok(Fetched {
            records,
            upto,
            lost: 0,
        })
    }

    /// Young messages from the oldest on, up to log index `upto`; see [`Waiting`].
    pub(crate) async fn oldest_young(
        &self,
        upto: u64,
        count_max: usize,
        topics_max: usize,
    ) -> io::Result<Waiting> {
        self.follow(self.group.applied()).await?;
        let followed = self.lock();
        Ok(followed.index.oldest_young(upto, count_max, topics_max))
    }

    /// Kept messages above `after`.
    pub(crate) async fn kept_after(
        &self,
        after: Position,
        count_max: usize,
        topics_max: usize,
        bytes_max: u64,
    ) -> io::Result<Waiting> {
        self.follow(self.group.applied()).await?;
        let followed = self.lock();
        let index = &followed.index;
        Ok(index.kept_after(after, count_max, topics_max, bytes_max))
    }

    /// Messages up to here were published by then, milliseconds since 1970.
    pub(crate) fn published_by(&self, ms: u64) -> Position {
        self.lock().index.published_by(ms)
    }

    /// When the newest message was published, about; milliseconds since 1970.
    pub(crate) fn newest_ms(&self) -> u64 {
        self.lock().index.newest_ms()
    }

    /// Bytes of the kept messages that a filter matches; without one, of all.
    pub(crate) fn kept_bytes_of(&self, filter: Option<&TopicFilter>) -> u64 {
        self.lock().index.kept_bytes_of(filter)
    }

    /// The oldest kept messages that a filter matches, of those up to a place: about `bytes` bytes, at most as many as said.
    pub(crate) async fn oldest_kept_of(
        &self,
        filter: Option<&TopicFilter>,
        upto: Position,
        bytes: u64,
        count_max: usize,
        topics_max: usize,
    ) -> io::Result<Waiting> {
        self.follow(self.group.applied()).await?;
        let followed = self.lock();
        let index = &followed.index;
        Ok(index.oldest_kept_of(filter, upto, bytes, count_max, topics_max))
    }

    /// How big it is, as far as it is built.
    pub(crate) fn size(&self) -> IndexSize {
        let followed = self.lock();
        let index = &followed.index;
        IndexSize {
            young: u64::from(index.young_count()),
            young_bytes: index.young_bytes(),
            kept: u64::from(index.kept_count()),
            kept_bytes: index.kept_bytes(),
            topics: index.topic_count() as u64,
            memory: index.memory() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
