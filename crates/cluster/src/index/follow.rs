//! Reads the log into the index.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use magpie_codec::TopicName;
use magpie_state::partition::{PartitionCommand, PartitionState, Skip, waiting};
use magpie_state::{Position, Record, published_ms};

use super::PartitionIndex;
use super::topic_index::{Found, TopicIndex};
use crate::raft::Stored;

/// Bytes of the log read at once.
const READ_BYTES: usize = 1 << 20;
/// What is applied meanwhile is read together.
const LINGER: Duration = Duration::from_millis(100);
/// Pause after a failure, and while a snapshot takes its place.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// An index, and how far it has read.
#[derive(Default)]
pub(super) struct Followed {
    pub(super) index: TopicIndex,
    /// The log index that is read next.
    next: u64,
    /// Which snapshot it builds on, counted since the replica started; `None`: nothing is loaded yet.
    installs: Option<u64>,
    /// Kept messages that are still in the log, ascending: of what is trimmed the log has more than is needed.
    kept_in_log: Vec<Position>,
}

/// What an entry of the log means to the index.
enum Step {
    /// With when the newest of them was published, milliseconds since 1970.
    Add(Vec<(TopicName, Found)>, u64),
    Trim {
        upto: u64,
        keep: Vec<Position>,
    },
    Forget(Vec<Position>),
    Lose(Position),
    LoseAt(Vec<Position>),
}

impl PartitionIndex {
    /// Follows the log until the replica stops.
    pub(super) async fn follow_on(self: Arc<Self>) {
        let mut applied = self.group.watch_applied();
        loop {
            let upto = *applied.borrow_and_update();
            if let Err(error) = self.follow(upto).await {
                if self.group.is_stopped() {
                    return;
                }
                tracing::warn!(group = %self.group.group(), %error, "the index of waiting messages is not up to date");
            }
            let more = async {
                let changed = applied.changed().await;
                tokio::time::sleep(LINGER).await;
                changed
            };
            tokio::select! {
                () = self.group.stopped() => return,
                more = more => if more.is_err() { return },
            }
        }
    }

    /// Brings the index up to a log index that is applied.
    pub(super) async fn follow(&self, upto: u64) -> io::Result<()> {
        if self.is_at(upto) {
            return Ok(());
        }
        let _one = self.following.lock().await;
        loop {
            if self.group.is_stopped() {
                return Err(io::Error::other("the replica is stopped"));
            }
            if self.is_at(upto) {
                return Ok(());
            }
            let installs = self.group.installs();
            let next = {
                let followed = self.lock();
                (followed.installs == Some(installs)).then_some(followed.next)
            };
            let Some(next) = next else {
                self.load(installs).await?;
                continue;
            };
            let range = self.group.read_log(next..upto + 1, READ_BYTES).await?;
            if range.first > next {
                // Purged before it was read, which it is only when the checkpoint has what is needed of it.
                self.lock().installs = None;
                continue;
            }
            if range.next == next {
                // A snapshot is just taking the log's place.
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
            let skipped: Vec<Option<Vec<u32>>> = self.group.with_state(|state| {
                let commands = range.commands.iter();
                let skipped = commands.map(|(index, _)| match state.skip(*index) {
                    Skip::Nothing => Some(Vec::new()),
                    Skip::Whole => None,
                    Skip::Records(ordinals) => Some(ordinals.to_vec()),
                });
                skipped.collect()
            });
            let commands = range.commands.into_iter().zip(skipped);
            let steps: Vec<Step> = commands
                .filter_map(|((index, command), skipped)| step(index, &command, &skipped?))
                .collect();
            let mut followed = self.lock();
            // What was applied before a snapshot came is still so.
            followed.take(steps);
            followed.next = range.next;
        }
    }

    fn is_at(&self, upto: u64) -> bool {
        let followed = self.lock();
        followed.next > upto && followed.installs == Some(self.group.installs())
    }

    /// Begins anew with the rows of the checkpoint; the log comes next.
    async fn load(&self, installs: u64) -> io::Result<()> {
        let stored = self.group.stored();
        let log = stored.range();
        let applied = self.group.applied();
        if applied > 0 && log.end <= applied {
            // A snapshot was installed, and the log is not yet the one behind it.
            tokio::time::sleep(RETRY_AFTER).await;
            return Ok(());
        }
        // The state after the log's range: what the log has lost by then has a row, and the state knows of it.
        let (trimmed, mut rows) = self.group.with_state(|state| {
            let rows: Vec<Position> = state.rows_held().collect();
            (state.trimmed(), rows)
        });
        let in_log = rows.partition_point(|position| position.index() < log.start);
        let kept_in_log = rows.split_off(in_log);
        let index = if rows.is_empty() {
            TopicIndex::new(trimmed)
        } else {
            tokio::task::spawn_blocking(move || load_rows(&stored, trimmed, &rows))
                .await
                .map_err(io::Error::other)??
        };
        self.cache.clear();
        *self.lock() = Followed {
            index,
            next: log.start.max(1),
            installs: Some(installs),
            kept_in_log,
        };
        Ok(())
    }
}

impl Followed {
    /// The place up to which it is complete.
    pub(super) const fn end(&self) -> Position {
        Position::end_of(self.next.saturating_sub(1))
    }

    fn take(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Add(messages, published_ms) => {
                    if let Some((_, last)) = messages.last() {
                        self.index.note_time(last.position, published_ms);
                    }
                    for (topic, found) in messages {
                        self.add(&topic, found);
                    }
                }
                Step::Trim { upto, keep } => self.index.trim(upto, &keep),
                Step::Forget(positions) => self.index.forget(&positions),
                Step::Lose(upto) => self.index.lose(upto),
                Step::LoseAt(positions) => self.index.lose_at(&positions),
            }
        }
    }

    fn add(&mut self, topic: &TopicName, found: Found) {
        let is_young = found.position.index() > self.index.trimmed();
        if is_young || self.kept_in_log.binary_search(&found.position).is_ok() {
            self.index.add(topic, found);
        }
        if is_young {
            self.kept_in_log = Vec::new();
        }
    }
}

fn step(index: u64, command: &Bytes, skipped: &[u32]) -> Option<Step> {
    match PartitionCommand::decode(command).ok()? {
        PartitionCommand::Append(append) => {
            let waiting = waiting(command, &append, Skip::Records(skipped));
            let times = waiting.iter();
            let times = times.filter_map(|it| published_ms(&command[it.offset as usize..]));
            let published_ms = times.max().unwrap_or(0);
            let messages = waiting.into_iter();
            let messages = messages.map(|message| {
                let found = Found {
                    position: Position::at(index, message.ordinal),
                    offset: message.offset,
                    bytes: message.bytes,
                };
                (message.topic, found)
            });
            Some(Step::Add(messages.collect(), published_ms))
        }
        PartitionCommand::Trim { upto, keep } => Some(Step::Trim { upto, keep }),
        PartitionCommand::Forget { positions } => Some(Step::Forget(positions)),
        PartitionCommand::Lose { upto, .. } => Some(Step::Lose(upto)),
        PartitionCommand::LoseAt { positions, .. } => Some(Step::LoseAt(positions)),
        _ => None,
    }
}

/// The messages that are rows and not in the log any more. Blocks.
fn load_rows(stored: &Stored, trimmed: u64, held: &[Position]) -> io::Result<TopicIndex> {
    let mut index = TopicIndex::new(trimmed);
    let mut after: Option<Vec<u8>> = None;
    let prefix = [PartitionState::MESSAGE_ROWS];
    loop {
        let rows = stored.rows_after(&prefix, after.as_deref(), READ_BYTES)?;
        let Some((last, _)) = rows.last() else {
            return Ok(index);
        };
        after = Some(last.clone());
        for (key, record) in &rows {
            let Some(position) = PartitionState::message_of_row(key) else {
                continue;
            };
            if held.binary_search(&position).is_err() {
                continue;
            }
            let bytes = u32::try_from(record.len()).map_err(io::Error::other)?;
            match Record::decode(&mut record.clone()) {
                Ok(Record::Publish(publish)) => {
                    let found = Found {
                        position,
                        offset: 0,
                        bytes,
                    };
                    index.note_time(position, publish.published_ms);
                    index.add(&publish.message.topic, found);
                }
                _ => tracing::error!(%position, "a kept message cannot be read"),
            }
        }
    }
}
