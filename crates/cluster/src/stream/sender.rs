//! Keeps one stream going: makes batches, sends them to whoever leads, and sends again what was not answered.
//!
//! ```text
//!   queued items ──► waiting ──► batch seq n ──► link to the leader ──► answer n ──► done
//!                                  ▲    (window)          │
//!                                  └──── link broken: again from the first unanswered
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_failpoint::fail_point;
use magpie_state::partition::{AppendAnswer, Outcome, PartitionAnswer};
use magpie_state::{ClientId, NodeId, PartitionId};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Streaming;

use super::append::propose_append;
use super::overdue::Overdue;
use super::{Done, Item, OnDone, StreamParts};
use crate::groups::group_of;
use crate::proto;

/// Batches on the way at once; the partition remembers the outcomes of more than that.
const WINDOW: usize = 8;
const _: () = assert!((WINDOW as u64) < magpie_state::partition::ANSWERS_KEPT);
/// A batch is closed when it has so many bytes (a single larger submission is a batch of its own) ...
const BATCH_BYTES: usize = 256 << 10;
/// ... or so many records.
const BATCH_RECORDS: u32 = 8192;
const _: () = assert!(BATCH_RECORDS <= magpie_state::RECORDS_PER_BATCH_MAX);
/// How often deadlines are looked at.
const DEADLINES_EVERY: Duration = Duration::from_millis(200);
/// Pause before the next attempt when there is no leader, or the last one sent us away.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// A leader that has not answered the oldest batch for so long is asked anew, wherever it is by then.
const LINK_STALLED_AFTER: Duration = Duration::from_secs(3);

/// The task behind a [`Stream`](super::Stream).
pub(super) struct Sender {
    partition: PartitionId,
    parts: StreamParts,
    queued: mpsc::Receiver<Item>,
    /// Taken from the queue, not yet in a batch: provably not proposed.
    waiting: VecDeque<Item>,
    /// Batches without an answer, oldest first, with consecutive numbers.
    unanswered: VecDeque<Batch>,
    next_seq: u64,
    overdue: Arc<Overdue>,
}

struct Batch {
    seq: u64,
    records: Bytes,
    count: u32,
    has_control: bool,
    members: Vec<Member>,
    sent: Instant,
}

/// One submission in a batch; its records are `first..first + count`.
struct Member {
    first: u32,
    count: u32,
    queued: Instant,
    is_patient: bool,
    /// Whose messages.
    client: Option<ClientId>,
    /// `None` once its deadline passed and it was told that the outcome is unknown.
    done: Option<OnDone>,
    _bytes: tokio::sync::OwnedSemaphorePermit,
}

/// The way to the leader: it is here, or it is at the other end of a gRPC stream.
enum Link {
    Here {
        group: crate::raft::RaftGroup<magpie_state::partition::PartitionState>,
        answers: Answers,
        answered: mpsc::Receiver<(u64, LinkAnswer)>,
    },
    There {
        batches: mpsc::Sender<proto::AppendBatch>,
        answered: Box<Streaming<proto::AppendAnswer>>,
    },
}

type Answers = mpsc::Sender<(u64, LinkAnswer)>;

enum LinkAnswer {
    Answer(AppendAnswer),
    /// Not the leader, or not any more; perhaps that one is.
    NotLeader(Option<NodeId>),
    /// Nothing to be learned from this link any more.
    Broken,
}

/// Why a link was left.
enum Left {
    Stopping,
    /// At once, or after a pause.
    Retry {
        pause: bool,
    },
}

impl Sender {
    pub(super) fn new(
        partition: PartitionId,
        parts: StreamParts,
        queued: mpsc::Receiver<Item>,
        overdue: Arc<Overdue>,
    ) -> Self {
        Self {
            partition,
            parts,
            queued,
            waiting: VecDeque::new(),
            unanswered: VecDeque::new(),
            next_seq: 1,
            overdue,
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.parts.stop.clone();
        let mut deadlines = interval(DEADLINES_EVERY);
        deadlines.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let left = match self.connect().await {
                Some((leader, link)) => self.drive(leader, link, &mut deadlines).await,
                None => Left::Retry { pause: true },
            };
            match left {
                Left::Stopping => break,
                Left::Retry { pause: false } => {}
                Left::Retry { pause: true } => {
                    let mut leaders = self.parts.leaders.changes();
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = leaders.next() => {}
                        () = tokio::time::sleep(RETRY_AFTER) => {}
                    }
                }
            }
            while let Ok(item) = self.queued.try_recv() {
                self.waiting.push_back(item);
            }
            self.pass_deadlines();
        }
        self.close();
    }

    /// A link to the leader, if one is known and can be reached.
    async fn connect(&mut self) -> Option<(NodeId, Link)> {
        let leader = self.parts.leaders.leader(group_of(self.partition))?;
        if leader == self.parts.stream.node {
            let group = self.parts.groups.partition(self.partition)?;
            let (answers, answered) = mpsc::channel(2 * WINDOW);
            return Some((
                leader,
                Link::Here {
                    group,
                    answers,
                    answered,
                },
            ));
        }
        let mut client =
            proto::partitions_client::PartitionsClient::new(self.parts.channels.forwarding(leader));
        let (batches, requests) = mpsc::channel(2 * WINDOW);
        // The first message names the partition; a batch number of 0 is none.
        let hello = proto::AppendBatch {
            partition: u32::from(self.partition.0),
            ..Default::default()
        };
        batches.send(hello).await.ok()?;
        let call = client.append(tokio_stream::wrappers::ReceiverStream::new(requests));
        let response = tokio::time::timeout(LINK_STALLED_AFTER, call)
            .await
            .ok()?
            .ok()?;
        Some((
            leader,
            Link::There {
                batches,
                answered: Box::new(response.into_inner()),
            },
        ))
    }

    /// Sends over one link until it must be left.
    async fn drive(
        &mut self,
        leader: NodeId,
        mut link: Link,
        deadlines: &mut tokio::time::Interval,
    ) -> Left {
        let stop = self.parts.stop.clone();
        let mut leaders = self.parts.leaders.changes();
        // What was sent over an earlier link is sent again: the partition knows what it has.
        let mut sent = 0;
        let mut items = Vec::new();
        loop {
            while sent < WINDOW {
                if sent == self.unanswered.len() && !self.make_batch() {
                    break;
                }
                self.unanswered[sent].sent = Instant::now();
                // A group that does not commit takes no more after a while: deadlines pass all the same.
                match tokio::time::timeout(DEADLINES_EVERY, self.send(&mut link, sent)).await {
                    Ok(true) => {}
                    Ok(false) => return Left::Retry { pause: true },
                    Err(_) if stop.is_cancelled() => return Left::Stopping,
                    Err(_) => {
                        self.pass_deadlines();
                        if self.parts.leaders.leader(group_of(self.partition)) != Some(leader) {
                            return Left::Retry { pause: false };
                        }
                        continue;
                    }
                }
                sent += 1;
            }
            let room = self.unanswered.len() < 2 * WINDOW;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Left::Stopping,
                (seq, answer) = link.next() => match self.handle(seq, answer) {
                    Ok(answered) => sent -= answered.min(sent),
                    Err(left) => return left,
                },
                taken = self.queued.recv_many(&mut items, super::QUEUED_MAX), if room => {
                    if taken == 0 {
                        return Left::Stopping;
                    }
                    self.waiting.extend(items.drain(..));
                }
                () = leaders.next() => {
                    if self.parts.leaders.leader(group_of(self.partition)) != Some(leader) {
                        return Left::Retry { pause: false };
                    }
                }
                _ = deadlines.tick() => {
                    self.pass_deadlines();
                    // What is proposed here is pending as long as this node leads: once more would only make more of it.
                    let is_pending = matches!(&link, Link::Here { group, .. } if group.is_leader());
                    if !is_pending && self.unanswered.front().is_some_and(|batch| batch.sent.elapsed() > LINK_STALLED_AFTER) {
                        return Left::Retry { pause: true };
                    }
                }
            }
        }
    }

    /// Makes a batch of whatever waits; false if nothing does.
    fn make_batch(&mut self) -> bool {
        let mut members = Vec::new();
        let mut parts: Vec<Bytes> = Vec::new();
        let (mut bytes, mut count, mut has_control) = (0, 0u32, false);
        while let Some(item) = self.waiting.front() {
            let full = bytes + item.records.bytes.len() > BATCH_BYTES
                || count + item.records.count > BATCH_RECORDS;
            if full && count > 0 {
                break;
            }
            let Some(item) = self.waiting.pop_front() else {
                break;
            };
            let Item {
                records,
                queued,
                done,
                _bytes,
            } = item;
            bytes += records.bytes.len();
            has_control |= records.has_control;
            members.push(Member {
                first: count,
                count: records.count,
                queued,
                is_patient: records.is_patient,
                client: records.client,
                done: Some(done),
                _bytes,
            });
            count += records.count;
            parts.push(records.bytes);
        }
        if count == 0 {
            return false;
        }
        let records = match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => {
                let mut joined = BytesMut::with_capacity(bytes);
                parts.iter().for_each(|part| joined.extend_from_slice(part));
                joined.freeze()
            }
        };
        let batch = Batch {
            seq: self.next_seq,
            records,
            count,
            has_control,
            members,
            sent: Instant::now(),
        };
        fail_point!("stream.batched", [&batch.records]);
        self.next_seq += 1;
        self.unanswered.push_back(batch);
        true
    }

    async fn send(&mut self, link: &mut Link, at: usize) -> bool {
        let batch = &self.unanswered[at];
        let message = proto::AppendBatch {
            partition: u32::from(self.partition.0),
            seq: batch.seq,
            count: batch.count,
            has_control: batch.has_control,
            records: batch.records.clone(),
            outbox_of: None,
        };
        match link {
            Link::There { batches, .. } => batches.send(message).await.is_ok(),
            Link::Here { group, answers, .. } => {
                let (seq, answers) = (message.seq, answers.clone());
                propose_append(group, self.parts.stream, message, move |outcome| {
                    let answer = match outcome {
                        Ok((_, PartitionAnswer::Append(answer))) => LinkAnswer::Answer(answer),
                        Ok((_, other)) => {
                            tracing::error!(?other, "an append was answered as another command");
                            LinkAnswer::Broken
                        }
                        Err(crate::raft::ProposeError::NotLeader { leader }) => {
                            LinkAnswer::NotLeader(leader)
                        }
                        Err(_) => LinkAnswer::Broken,
                    };
                    // There is room for every batch of the window; an answer that nobody waits for is dropped.
                    let _ = answers.try_send((seq, answer));
                })
                .await;
                true
            }
        }
    }

    /// Takes an answer; returns how many batches it completed.
    fn handle(&mut self, seq: u64, answer: LinkAnswer) -> Result<usize, Left> {
        let outcome = match answer {
            LinkAnswer::Answer(AppendAnswer::Taken(outcome) | AppendAnswer::Repeat(outcome)) => {
                outcome
            }
            LinkAnswer::Answer(AppendAnswer::Gap { last }) => {
                let first = self
                    .unanswered
                    .front()
                    .map_or(self.next_seq, |batch| batch.seq);
                if last.saturating_add(1) < first {
                    tracing::error!(partition = %self.partition, last, first, "the partition forgot batches that it had taken");
                }
                return Err(Left::Retry { pause: false });
            }
            LinkAnswer::Answer(AppendAnswer::Ended) => {
                (self.parts.ended)();
                return Err(Left::Stopping);
            }
            LinkAnswer::NotLeader(leader) => {
                if let Some(leader) = leader {
                    self.parts.leaders.hint(group_of(self.partition), leader);
                }
                return Err(Left::Retry { pause: true });
            }
            LinkAnswer::Broken => return Err(Left::Retry { pause: true }),
        };
        // Answers come in order, so the answered batch is the oldest, or was answered over an earlier link.
        match self.unanswered.front() {
            Some(batch) if batch.seq == seq => {}
            Some(batch) if batch.seq < seq => return Err(Left::Retry { pause: true }),
            _ => return Ok(0),
        }
        if let Some(batch) = self.unanswered.pop_front() {
            self.overdue.settle(&batch.given_up());
            batch.complete(&outcome);
        }
        Ok(1)
    }

    /// Tells submissions that waited too long: what is in no batch was not proposed; of the others nothing is known. Their batches stay,
    /// since the numbers must go on.
    fn pass_deadlines(&mut self) {
        let deadline = self.parts.deadline;
        while self
            .waiting
            .front()
            .is_some_and(|item| item.queued.elapsed() > deadline)
        {
            if let Some(item) = self.waiting.pop_front() {
                (item.done)(Done::NotProposed);
            }
        }
        let mut given_up = Vec::new();
        let members = self
            .unanswered
            .iter_mut()
            .flat_map(|batch| &mut batch.members);
        let is_late =
            |member: &&mut Member| !member.is_patient && member.queued.elapsed() > deadline;
        for member in members.filter(is_late) {
            if let Some(done) = member.done.take() {
                given_up.push((member.client.clone(), done));
            }
        }
        // First noted, then told: who is told may ask at once.
        let clients = given_up.iter().filter_map(|(client, _)| client.clone());
        self.overdue.give_up(clients.collect());
        given_up
            .into_iter()
            .for_each(|(_, done)| done(Done::Unknown));
    }

    /// The node stops: what is in no batch was not proposed.
    fn close(mut self) {
        self.queued.close();
        self.overdue.close();
        while let Ok(item) = self.queued.try_recv() {
            self.waiting.push_back(item);
        }
        self.waiting
            .into_iter()
            .for_each(|item| (item.done)(Done::NotProposed));
        let members = self.unanswered.into_iter().flat_map(|batch| batch.members);
        members
            .filter_map(|member| member.done)
            .for_each(|done| done(Done::Unknown));
    }
}

impl Link {
    async fn next(&mut self) -> (u64, LinkAnswer) {
        match self {
            Self::Here { answered, .. } => answered.recv().await.unwrap_or((0, LinkAnswer::Broken)),
            Self::There { answered, .. } => match answered.message().await {
                Ok(Some(proto::AppendAnswer {
                    seq,
                    answer,
                    leader,
                })) if answer.is_empty() => (
                    seq,
                    LinkAnswer::NotLeader((leader != 0).then_some(NodeId(leader))),
                ),
                Ok(Some(proto::AppendAnswer { seq, answer, .. })) => {
                    match PartitionAnswer::decode(answer) {
                        Ok(PartitionAnswer::Append(answer)) => (seq, LinkAnswer::Answer(answer)),
                        _ => (seq, LinkAnswer::Broken),
                    }
                }
                Ok(None) | Err(_) => (0, LinkAnswer::Broken),
            },
        }
    }
}

impl Batch {
    /// Clients that were told that nothing is known of it, once per submission.
    fn given_up(&self) -> Vec<ClientId> {
        let members = self.members.iter().filter(|member| member.done.is_none());
        members.filter_map(|member| member.client.clone()).collect()
    }

    fn complete(self, outcome: &Outcome) {
        for member in self.members {
            let Some(done) = member.done else { continue };
            if outcome.is_plain() {
                done(Done::Taken {
                    refused: Vec::new(),
                    repeated: Vec::new(),
                    full: Vec::new(),
                    foreign: Vec::new(),
                    attached: Vec::new(),
                });
                continue;
            }
            let mine = member.first..member.first + member.count;
            let of_mine = |ordinals: &[u32]| -> Vec<u32> {
                let ordinals = ordinals.iter().filter(|ordinal| mine.contains(ordinal));
                ordinals.map(|ordinal| ordinal - member.first).collect()
            };
            let refused = of_mine(&outcome.refused);
            let repeated = of_mine(&outcome.repeated);
            let full = of_mine(&outcome.full);
            let foreign = of_mine(&outcome.foreign);
            let attached = outcome
                .attached
                .iter()
                .filter(|attached| mine.contains(&attached.ordinal));
            let attached = attached.map(|attached| magpie_state::partition::Attached {
                ordinal: attached.ordinal - member.first,
                ..*attached
            });
            done(Done::Taken {
                refused,
                repeated,
                full,
                foreign,
                attached: attached.collect(),
            });
        }
    }
}
