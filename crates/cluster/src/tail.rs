//! A partition's log, as it is committed, on its way to this node's subscribers.
//!
//! A node with a replica tails its own apply through a [`feed`], falling back to the log on disk when it is behind; a node without one
//! asks the leader, over gRPC ([`remote`], [`serve`]). The position is an index of the partition's log either way, so that a tail goes on
//! where it was when a replica appears, goes, or jumps ahead by a snapshot. Never a silent gap: if messages are gone, the broker is told, at
//! the place where they would have come.

mod decode;
mod feed;
mod interest;
mod reader;
mod remote;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use magpie_codec::{Message, QoS};
use magpie_state::{ClientId, NodeId, PartitionId, Position, StreamId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::groups::{Groups, group_of};
use crate::leaders::Leaders;
use crate::rpc::Channels;

pub(crate) use feed::Feeds;
pub(crate) use interest::Interest;
pub(crate) use reader::{Entry, Read, Reader};
use remote::RemoteTail;

/// Pause before a leader is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The one consumer of a partition on this node.
pub struct Tail {
    parts: TailParts,
    source: Source,
    /// Index up to which everything was handed out; `None` until the first source says where it starts.
    position: Option<u64>,
    /// Index up to which everything handed out has been delivered to mailboxes.
    passed: watch::Sender<u64>,
    /// What was read and not handed out yet, oldest first.
    ready: std::collections::VecDeque<Tailed>,
    /// Wakes when a replica appears or goes.
    moved: watch::Receiver<u64>,
    /// A gap in the local log that is being filled from another replica, up to this index.
    gap_upto: Option<u64>,
}

enum Source {
    None,
    Local(Reader),
    /// With the leader that it comes from.
    Remote(Box<RemoteTail>, NodeId),
}

/// What a tail needs to know of its node.
pub(crate) struct TailParts {
    pub(crate) partition: PartitionId,
    /// This node, in this life.
    pub(crate) stream: StreamId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    pub(crate) feeds: Feeds,
    pub(crate) interest: Interest,
    pub(crate) stop: CancellationToken,
}

/// What comes next in a partition's log.
pub enum Tailed {
    /// Messages.
    Batch(TailBatch),
    /// Messages that this node cannot have any more, in their place.
    Lost(TailLost),
}

/// A part of the log that is gone from the logs of the replicas before this node read it. What sessions need of it is kept, and can be
/// [fetched](crate::Cluster::fetch).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailLost {
    /// Where.
    pub partition: PartitionId,
    /// Log index up to which everything was handed out.
    pub after: u64,
    /// Log index up to which messages may be missing.
    pub upto: u64,
}

/// Messages of one log entry.
pub struct TailBatch {
    /// Where.
    pub partition: PartitionId,
    /// Log index of the entry; all its messages have `index` as position.
    pub index: u64,
    /// In the order in which they were committed.
    pub items: Vec<TailItem>,
}

/// One message of the log.
#[derive(Clone)]
pub struct TailItem {
    /// Where it is in the partition's log.
    pub position: Position,
    /// Who published, for No Local.
    pub publisher: ClientId,
    /// QoS of the PUBLISH, 1 or 2.
    pub qos: QoS,
    /// RETAIN flag of the PUBLISH, for Retain As Published.
    pub retain: bool,
    /// Wall clock time of acceptance, milliseconds since 1970, for the message expiry.
    pub published_ms: u64,
    /// The Application Message.
    pub message: Arc<Message>,
}

impl Tail {
    pub(crate) fn new(parts: TailParts, passed: watch::Sender<u64>) -> Self {
        Self {
            moved: parts.groups.changed(),
            parts,
            source: Source::None,
            position: None,
            passed,
            ready: Default::default(),
            gap_upto: None,
        }
    }

    /// The next entry with messages, or the next gap, waiting for it. `None` when the node stops. One task calls this in a loop and does
    /// nothing else.
    pub async fn next(&mut self) -> Option<Tailed> {
        let stop = self.parts.stop.clone();
        loop {
            if let Some(tailed) = self.ready.pop_front() {
                return Some(tailed);
            }
            if let Some(position) = self.position {
                // Everything handed out has been delivered: the caller came back for more.
                self.passed
                    .send_if_modified(|passed| std::mem::replace(passed, position) != position);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = self.read() => {}
            }
        }
    }

    /// Everything up to `index` is in the mailboxes, or they know that it is lost: barriers up to it may pass.
    pub fn done(&mut self, index: u64) {
        if self.ready.is_empty() {
            // The entries behind the last one with messages hold none for us.
            let index = self.position.map_or(index, |position| position.max(index));
            self.passed
                .send_if_modified(|passed| std::mem::replace(passed, index) != index);
        } else {
            self.passed
                .send_if_modified(|passed| std::mem::replace(passed, index) != index);
        }
    }

    /// Reads from the present source, or finds another.
    async fn read(&mut self) {
        match &mut self.source {
            Source::None => self.find_source().await,
            Source::Local(reader) => {
                let read = tokio::select! {
                    read = reader.next() => read,
                    // Perhaps another replica now stands in this one's place; the position stays.
                    _ = self.moved.changed() => Read::Stopped,
                };
                match read {
                    Read::Entries { entries, upto } => self.take(entries, upto),
                    Read::Gap { upto } => {
                        tracing::info!(partition = %self.parts.partition, upto, "a snapshot passed over messages; reading them from another replica");
                        self.gap_upto = Some(upto);
                        self.source = Source::None;
                    }
                    Read::Stopped => self.source = Source::None,
                }
            }
            Source::Remote(remote, leader) => {
                let read = tokio::select! {
                    read = remote.next() => read,
                    _ = self.moved.changed(), if self.gap_upto.is_none() => None,
                    () = leader_is_another(&self.parts, *leader) => None,
                };
                match read {
                    Some(chunk) => self.take_chunk(chunk),
                    None => {
                        self.source = Source::None;
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
            }
        }
    }

    async fn find_source(&mut self) {
        let partition = self.parts.partition;
        let local = self
            .parts
            .groups
            .partition(partition)
            .filter(|group| self.gap_upto.is_none() && !group.is_stopped());
        if let Some(group) = local {
            let feed = self.parts.feeds.of(partition);
            let position = *self.position.get_or_insert_with(|| group.applied());
            self.source = Source::Local(Reader::new(group, feed, position));
            self.parts.interest.set_remote(partition, None);
            return;
        }
        let everything = self.gap_upto.is_some();
        if !everything {
            // Until a leader has taken the interest, no version of it holds.
            self.parts.interest.set_remote(partition, Some(0));
        }
        let from = self.position.map_or(0, |position| position + 1);
        let leader = self.parts.leaders.leader(group_of(partition));
        let elsewhere = leader.filter(|leader| *leader != self.parts.stream.node);
        // Without a known leader elsewhere there is nobody to ask yet. A leader that is this node has no gap by its own log.
        if let Some(leader) = elsewhere {
            let channel = self.parts.channels.forwarding(leader);
            if let Some(remote) = RemoteTail::open(
                channel,
                partition,
                from,
                everything,
                self.parts.interest.clone(),
            )
            .await
            {
                self.source = Source::Remote(Box::new(remote), leader);
                return;
            }
        } else if leader.is_some() && everything {
            self.give_up_gap();
            return;
        }
        let mut leaders = self.parts.leaders.changes();
        tokio::select! {
            () = leaders.next() => {}
            _ = self.moved.changed() => {}
            () = tokio::time::sleep(RETRY_AFTER) => {}
        }
    }

    /// The messages of a gap are nowhere to be had.
    fn give_up_gap(&mut self) {
        if let Some(upto) = self.gap_upto.take() {
            self.lose(upto);
        }
    }

    fn take_chunk(&mut self, chunk: remote::Chunk) {
        if chunk.lost {
            self.lose(chunk.upto);
        }
        self.take(chunk.entries, chunk.upto);
        if self.gap_upto.is_some_and(|upto| chunk.upto >= upto) {
            self.gap_upto = None;
            self.source = Source::None;
        }
    }

    fn take(&mut self, entries: Vec<Entry>, upto: u64) {
        for entry in entries {
            let items = decode::items(&entry);
            if !items.is_empty() {
                self.ready.push_back(Tailed::Batch(TailBatch {
                    partition: self.parts.partition,
                    index: entry.index,
                    items,
                }));
            }
        }
        self.position = Some(self.position.unwrap_or(0).max(upto));
    }

    /// Tells of it in its place: who is told later would take what comes behind it for the next.
    fn lose(&mut self, upto: u64) {
        let after = self.position.unwrap_or(0);
        if upto > after {
            self.ready.push_back(Tailed::Lost(TailLost {
                partition: self.parts.partition,
                after,
                upto,
            }));
            self.position = Some(upto);
        }
    }
}

/// Resolves when a partition is led by another node than this one.
async fn leader_is_another(parts: &TailParts, than: NodeId) {
    let mut leaders = parts.leaders.changes();
    while parts.leaders.leader(group_of(parts.partition)) == Some(than) {
        leaders.next().await;
    }
}

#[cfg(test)]
mod tests;
