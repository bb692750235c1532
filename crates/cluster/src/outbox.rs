//! Sends what partitions want of each other: the leader of each takes the batches of its outbox to their targets' leaders.
//!
//! ```text
//!   source: a command puts records into the outbox ──► its leader sends batch n ──► target's leader ──► committed in the target
//!           OutboxDone(n) takes them out          ◄── answered ◄──────────────────
//! ```
//!
//! A batch has a number in the stream from source to target, and the target takes numbers in order, once. So whoever leads the source
//! later sends again what was not taken out, and nothing is doubled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use magpie_state::partition::{
    AppendAnswer, OutboxBatch, PartitionAnswer, PartitionCommand, PartitionState,
};
use magpie_state::{NodeId, PartitionId, StreamId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::groups::{Groups, group_of};
use crate::leaders::Leaders;
use crate::proto;
use crate::raft::RaftGroup;
use crate::rpc::Channels;
use crate::stream::propose_append;

/// An outbox is looked at so often at most.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Batches that are sent before the first of them is taken out; the other end has room for as many answers.
const BATCHES_MAX: usize = 48;
/// Bytes that are sent before, but for the batch that reaches it.
const BYTES_MAX: usize = 1 << 20;
/// Pause before a target is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// A target that does not answer a batch in this time is asked anew, wherever its leader is by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A proposal that takes longer is looked at again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

type Partition = RaftGroup<PartitionState>;

/// What outboxes need to know of their node.
pub(crate) struct OutboxParts {
    pub(crate) node: NodeId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    pub(crate) stop: CancellationToken,
}

/// Tends the outboxes of this node's replicas until the node stops.
pub(crate) async fn run(parts: OutboxParts) {
    let parts = Arc::new(parts);
    let tend = |partition, group| tend(Arc::clone(&parts), partition, group);
    parts.groups.tend(&parts.stop, tend).await;
}

/// Sees to one replica's outbox whenever it leads.
async fn tend(parts: Arc<OutboxParts>, source: PartitionId, group: Partition) {
    let mut applied = group.watch_applied();
    let mut leadership = group.watch_leadership();
    let mut sending: HashMap<PartitionId, JoinHandle<()>> = HashMap::new();
    loop {
        applied.mark_unchanged();
        if leadership.borrow_and_update().is_here {
            for (target, _) in group.with_state(PartitionState::outbox_targets) {
                let is_sending = sending.get(&target).is_some_and(|it| !it.is_finished());
                if !is_sending {
                    let outbox = Outbox {
                        parts: Arc::clone(&parts),
                        group: group.clone(),
                        source,
                        target,
                    };
                    sending.insert(target, tokio::spawn(outbox.send_all()));
                }
            }
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = group.stopped() => return,
            _ = applied.changed(), if leadership.borrow().is_here => {}
            _ = leadership.changed() => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The way from one partition to another.
struct Outbox {
    parts: Arc<OutboxParts>,
    /// The replica of the source.
    group: Partition,
    source: PartitionId,
    target: PartitionId,
}

/// Why batches were not all answered.
enum Left {
    /// Perhaps that node leads the target.
    NotLeader(Option<NodeId>),
    /// Nothing to be learned here any more.
    Broken,
}

impl Outbox {
    /// Sends until nothing is left for the target, or another node leads the source.
    async fn send_all(self) {
        let stop = self.parts.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.group.stopped() => {}
            () = self.send_while_leading() => {}
        }
    }

    async fn send_while_leading(&self) {
        while self.group.is_leader() {
            let batches = self
                .group
                .with_state(|state| state.outbox_to(self.target, BATCHES_MAX, BYTES_MAX));
            let Some(first) = batches.first() else {
                return;
            };
            let first = first.seq;
            let taken = self.send(batches).await;
            if taken >= first && !self.take_out(taken).await {
                tokio::time::sleep(RETRY_AFTER).await;
            } else if taken < first {
                let mut leaders = self.parts.leaders.changes();
                tokio::select! {
                    () = leaders.next() => {}
                    () = tokio::time::sleep(RETRY_AFTER) => {}
                }
            }
        }
    }

    /// Batches up to `upto` are committed in the target.
    async fn take_out(&self, upto: u64) -> bool {
        let command = PartitionCommand::OutboxDone {
            target: self.target,
            upto,
        };
        let proposal = self.group.propose(command.encode());
        let outcome = tokio::time::timeout(PROPOSE_WITHIN, proposal).await;
        matches!(outcome, Ok(Ok(_)))
    }

    /// Sends batches to whoever leads the target; the number of the last one that is committed there, 0 for none.
    async fn send(&self, batches: Vec<OutboxBatch>) -> u64 {
        let id = group_of(self.target);
        let Some(leader) = self.parts.leaders.leader(id) else {
            return 0;
        };
        let batches = batches.into_iter().map(|batch| proto::AppendBatch {
            partition: u32::from(self.target.0),
            seq: batch.seq,
            count: batch.count,
            has_control: true,
            records: batch.stamped(wall_ms()),
            outbox_of: None,
        });
        let mut taken = 0;
        let left = if leader == self.parts.node {
            self.send_here(batches.collect(), &mut taken).await
        } else {
            let sending = self.send_there(leader, batches.collect(), &mut taken);
            sending.await
        };
        if let Err(Left::NotLeader(Some(hint))) = left {
            self.parts.leaders.hint(id, hint);
        }
        taken
    }

    async fn send_here(
        &self,
        batches: Vec<proto::AppendBatch>,
        taken: &mut u64,
    ) -> Result<(), Left> {
        let group = self
            .parts
            .groups
            .partition(self.target)
            .ok_or(Left::Broken)?;
        for batch in batches {
            let seq = batch.seq;
            let (answer, answered) = tokio::sync::oneshot::channel();
            let stream = StreamId::outbox(self.source);
            let proposing = propose_append(&group, stream, batch, move |outcome| {
                // Whoever asked may have given up.
                let _ = answer.send(outcome);
            });
            proposing.await;
            match tokio::time::timeout(ANSWER_WITHIN, answered).await {
                Ok(Ok(Ok((_, PartitionAnswer::Append(answer))))) => {
                    *taken = self.judge(seq, &answer)?;
                }
                Ok(Ok(Err(crate::raft::ProposeError::NotLeader { leader }))) => {
                    return Err(Left::NotLeader(leader));
                }
                _ => return Err(Left::Broken),
            }
        }
        Ok(())
    }

    async fn send_there(
        &self,
        leader: NodeId,
        batches: Vec<proto::AppendBatch>,
        taken: &mut u64,
    ) -> Result<(), Left> {
        let channel = self.parts.channels.forwarding(leader);
        let mut client = proto::partitions_client::PartitionsClient::new(channel);
        // The first message names both partitions; a batch number of 0 is none.
        let hello = proto::AppendBatch {
            partition: u32::from(self.target.0),
            outbox_of: Some(u32::from(self.source.0)),
            ..Default::default()
        };
        let count = batches.len();
        let call = client.append(tokio_stream::iter(std::iter::once(hello).chain(batches)));
        let answers = tokio::time::timeout(ANSWER_WITHIN, call).await;
        let mut answers = match answers {
            Ok(Ok(response)) => response.into_inner(),
            _ => return Err(Left::Broken),
        };
        for _ in 0..count {
            let answer = tokio::time::timeout(ANSWER_WITHIN, answers.message()).await;
            let Ok(Ok(Some(proto::AppendAnswer {
                seq,
                answer,
                leader,
            }))) = answer
            else {
                return Err(Left::Broken);
            };
            if answer.is_empty() {
                return Err(Left::NotLeader((leader != 0).then_some(NodeId(leader))));
            }
            match PartitionAnswer::decode(answer) {
                Ok(PartitionAnswer::Append(answer)) => *taken = self.judge(seq, &answer)?,
                _ => return Err(Left::Broken),
            }
        }
        Ok(())
    }

    /// The number up to which the target has everything, after its answer to batch `seq`.
    fn judge(&self, seq: u64, answer: &AppendAnswer) -> Result<u64, Left> {
        match answer {
            AppendAnswer::Taken(_) | AppendAnswer::Repeat(_) => Ok(seq),
            AppendAnswer::Gap { last } => {
                // Batches of one sender arrive in order, and leave only after they were taken.
                tracing::error!(source = %self.source, target = %self.target, seq, last, "the target of an outbox lacks batches that it had taken");
                Err(Left::Broken)
            }
            AppendAnswer::Ended => {
                tracing::error!(source = %self.source, target = %self.target, "the stream of an outbox was ended");
                Err(Left::Broken)
            }
        }
    }
}

/// Wall clock, milliseconds since 1970.
fn wall_ms() -> u64 {
    magpie_failpoint::wall_clock()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
