//! One group's part of the node-wide log, as Raft wants to see it.
//!
//! Votes, entries, truncations and purges go through the log's one queue, in the order in which Raft asks for them; a completion
//! arrives only after fdatasync.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::stream::{self, Stream};
use magpie_storage::{GroupId, Log, Purged};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::entry::{self, Entry, LogId, Types, Vote};

/// What one read takes from the log at once.
const READ_BYTES: usize = 1 << 20;

/// The group's part of the log. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Log,
    group: GroupId,
    /// Bytes of entries in one replication message.
    append_bytes_max: usize,
    growth: Arc<Growth>,
}

impl LogStore {
    pub(super) fn new(log: Log, group: GroupId, append_bytes_max: usize) -> Self {
        let growth = Arc::default();
        Self {
            log,
            group,
            append_bytes_max,
            growth,
        }
    }

    pub(super) fn growth(&self) -> &Growth {
        &self.growth
    }

    /// The longest payload that the log takes.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.log.payload_bytes_max()
    }

    /// The indexes that there are.
    pub(super) fn range(&self) -> Range<u64> {
        self.log.range(self.group)
    }

    /// Entries of `range` from its start, as many as fit into `bytes_max`, at least one if there is one; as the log holds them.
    pub(super) async fn read(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<magpie_storage::Entry>> {
        let read = |log: &Log, group| log.read(group, range.clone(), bytes_max);
        if !self.log.needs_disk(self.group, range.clone()) {
            return read(&self.log, self.group).map_err(io::Error::other);
        }
        let (log, group, range) = (self.log.clone(), self.group, range.clone());
        tokio::task::spawn_blocking(move || log.read(group, range, bytes_max))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }

    /// The same, on a thread that may block.
    pub(super) fn read_blocking(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<magpie_storage::Entry>> {
        self.log
            .read(self.group, range, bytes_max)
            .map_err(io::Error::other)
    }

    /// Whether a read of these entries blocks.
    pub(super) fn needs_disk(&self, range: Range<u64>) -> bool {
        self.log.needs_disk(self.group, range)
    }

    async fn read_entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.read(range, bytes_max)
            .await?
            .into_iter()
            .map(|entry| entry::decode(entry.index, entry.term, entry.payload))
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)
    }

    /// Runs an operation of the log and waits until it is durable.
    async fn durable(
        &self,
        operation: impl FnOnce(
            Box<dyn FnOnce(Result<(), magpie_storage::Error>) + Send>,
        ) -> Result<(), magpie_storage::Error>,
    ) -> io::Result<()> {
        let (done, is_done) = oneshot::channel();
        operation(Box::new(move |result| {
            // Nobody waits when the group was stopped meanwhile.
            let _ = done.send(result);
        }))
        .map_err(io::Error::other)?;
        is_done
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Chunk by chunk, so that a long replay does not hold the whole log in memory.
        let chunks = stream::try_unfold(
            (self.clone(), to_range(&range)),
            |(store, range)| async move {
                let chunk = store.read_entries(range.clone(), READ_BYTES).await?;
                let Some(last) = chunk.last() else {
                    return Ok(None);
                };
                let next = last.log_id.index + 1..range.end;
                let chunk = stream::iter(chunk.into_iter().map(io::Result::Ok));
                Ok::<_, io::Error>(Some((chunk, (store, next))))
            },
        );
        Box::pin(futures::TryStreamExt::try_flatten(chunks))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let mut range = to_range(&range);
        let mut entries = Vec::new();
        loop {
            let chunk = self.read_entries(range.clone(), READ_BYTES).await?;
            let Some(last) = chunk.last() else {
                return Ok(entries);
            };
            range.start = last.log_id.index + 1;
            entries.extend(chunk);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.vote(self.group).map(decode_vote).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_entries(start..end, self.append_bytes_max).await
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let purged = self.log.purged(self.group);
        let last = self.log.last(self.group);
        Ok(LogState {
            last_purged_log_id: purged
                .map(|purged| entry::log_id(entry::term_of_tag(purged.term), purged.index)),
            last_log_id: last.map(|(index, tag)| entry::log_id(entry::term_of_tag(tag), index)),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = encode_vote(vote);
        self.durable(|done| self.log.save_vote(self.group, vote, done))
            .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64_le(entry::term_of(&committed));
        bytes.put_u64_le(committed.index);
        self.log
            .save_committed(self.group, bytes.freeze())
            .map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let Some(mut bytes) = self.log.committed(self.group) else {
            return Ok(None);
        };
        if bytes.len() != 16 {
            return Err(io::Error::other("the committed index cannot be read"));
        }
        let term = bytes.get_u64_le();
        Ok(Some(entry::log_id(term, bytes.get_u64_le())))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut bytes = 0;
        let entries: Vec<magpie_storage::Entry> = entries
            .into_iter()
            .map(|entry| {
                let index = entry.log_id.index;
                let (term, payload) = entry::encode(entry);
                bytes += payload.len() as u64 + ENTRY_BYTES;
                magpie_storage::Entry {
                    index,
                    term,
                    payload,
                }
            })
            .collect();
        if let Some(last) = entries.last() {
            self.growth.add(last.index, bytes);
        }
        // The log would block the thread when its queue is full.
        std::future::poll_fn(|context| self.log.poll_room(context.waker())).await;
        self.log
            .append(self.group, entries, move |result| {
                callback.io_completed(result.map_err(io::Error::other));
            })
            .map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        self.durable(|done| self.log.truncate(self.group, from, done))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let purged = Purged {
            index: log_id.index,
            term: entry::term_of(&log_id),
            note: Bytes::new(),
        };
        self.growth.purged(log_id.index);
        // Not waited for: it is behind everything before it in the queue, and what follows is behind it. If it fails, the log has
        // stopped, and the next append says so.
        self.log
            .purge(self.group, purged, |_| {})
            .map_err(io::Error::other)
    }
}

fn to_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

fn encode_vote(vote: &Vote) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17);
    bytes.put_u64_le(vote.leader_id.term);
    bytes.put_u64_le(vote.leader_id.voted_for);
    bytes.put_u8(u8::from(vote.committed));
    bytes.freeze()
}

fn decode_vote(mut bytes: Bytes) -> io::Result<Vote> {
    if bytes.len() != 17 {
        return Err(io::Error::other("the vote cannot be read"));
    }
    let (term, node) = (bytes.get_u64_le(), bytes.get_u64_le());
    Ok(match bytes.get_u8() {
        0 => Vote::new(term, node),
        _ => Vote::new_committed(term, node),
    })
}

/// About what an entry costs beside its payload.
const ENTRY_BYTES: u64 = 32;
/// A mark is set this often; purging is that coarse.
const MARK_BYTES: u64 = 256 << 10;
const MARK_EVERY: Duration = Duration::from_secs(1);

/// How the log grew, by marks: which index was the last when so many bytes had been appended, and when that was. Purging by bytes and
/// time needs no more. After a start it knows nothing of older entries but that they are older.
#[derive(Default)]
pub(super) struct Growth {
    marks: Mutex<Marks>,
}

#[derive(Default)]
struct Marks {
    marks: VecDeque<Mark>,
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Mark {
    index: u64,
    bytes: u64,
    at: Instant,
}

impl Growth {
    fn add(&self, last: u64, bytes: u64) {
        let mut state = self.lock();
        state.bytes += bytes;
        // An append after a truncation: the marks above it are of entries that are gone.
        while state.marks.back().is_some_and(|mark| mark.index >= last) {
            state.marks.pop_back();
        }
        let now = Instant::now();
        let is_due = state.marks.back().is_none_or(|mark| {
            state.bytes - mark.bytes >= MARK_BYTES || now - mark.at >= MARK_EVERY
        });
        if is_due {
            let bytes = state.bytes;
            state.marks.push_back(Mark {
                index: last,
                bytes,
                at: now,
            });
        }
    }

    fn purged(&self, upto: u64) {
        let mut state = self.lock();
        while state.marks.front().is_some_and(|mark| mark.index < upto) {
            state.marks.pop_front();
        }
    }

    /// Index up to which entries are behind the last `bytes`, or older than `age`.
    pub(super) fn settled(&self, bytes: u64, age: Duration) -> Option<u64> {
        self.index_before_bytes(bytes)
            .max(self.index_before_age(age))
    }

    /// The last mark behind which at least `bytes` were appended.
    pub(super) fn index_before_bytes(&self, bytes: u64) -> Option<u64> {
        let state = self.lock();
        let older = |mark: &&Mark| state.bytes - mark.bytes >= bytes;
        state
            .marks
            .iter()
            .take_while(older)
            .last()
            .map(|mark| mark.index)
    }

    /// The last mark that is older than `age`.
    fn index_before_age(&self, age: Duration) -> Option<u64> {
        let state = self.lock();
        let now = Instant::now();
        let older = |mark: &&Mark| now - mark.at >= age;
        state
            .marks
            .iter()
            .take_while(older)
            .last()
            .map(|mark| mark.index)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
