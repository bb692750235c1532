//! Linearizable read indexes of partitions, asked for on any node; batched per partition.

use std::time::Duration;

use magpie_state::{NodeId, PartitionId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::groups::{Groups, group_of};
use crate::leaders::Leaders;
use crate::proto;
use crate::rpc::Channels;

/// Questions that wait for the next round; more wait to be queued.
const WAITING_MAX: usize = 4096;
/// Pause before a leader is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(30);

/// Asks for the read indexes of one partition. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndexes {
    questions: mpsc::Sender<oneshot::Sender<u64>>,
}

/// What the task behind needs to know.
#[derive(Clone)]
pub(crate) struct ReadIndexParts {
    pub(crate) node: NodeId,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    /// How long a question may take.
    pub(crate) deadline: Duration,
    pub(crate) stop: CancellationToken,
}

impl ReadIndexes {
    pub(crate) fn start(partition: PartitionId, parts: ReadIndexParts) -> Self {
        let (questions, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(partition, parts, asked));
        Self { questions }
    }

    /// An index such that everything committed before this call is at or below it. `None` when no leader with a quorum answered in time.
    pub(crate) async fn ask(&self) -> Option<u64> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(answer).await.ok()?;
        answered.await.ok()
    }
}

async fn run(
    partition: PartitionId,
    parts: ReadIndexParts,
    mut asked: mpsc::Receiver<oneshot::Sender<u64>>,
) {
    let mut round = Vec::new();
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return,
            taken = asked.recv_many(&mut round, WAITING_MAX) => {
                if taken == 0 {
                    return;
                }
            }
        }
        let deadline = Instant::now() + parts.deadline;
        let answer = tokio::time::timeout_at(deadline, parts.ask_until_answered(partition)).await;
        for question in round.drain(..) {
            // A question dropped is a question refused.
            if let Ok(index) = answer {
                let _ = question.send(index);
            }
        }
    }
}

impl ReadIndexParts {
    async fn ask_until_answered(&self, partition: PartitionId) -> u64 {
        let mut leaders = self.leaders.changes();
        loop {
            if let Some(index) = self.ask_leader(partition).await {
                return index;
            }
            tokio::select! {
                () = leaders.next() => {}
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    async fn ask_leader(&self, partition: PartitionId) -> Option<u64> {
        let leader = self.leaders.leader(group_of(partition))?;
        if leader == self.node {
            return self.groups.partition(partition)?.read_index().await.ok();
        }
        let mut client =
            proto::partitions_client::PartitionsClient::new(self.channels.forwarding(leader));
        let mut request = tonic::Request::new(proto::ReadIndexRequest {
            partitions: vec![u32::from(partition.0)],
        });
        request.set_timeout(self.deadline);
        let reply = client.read_index(request).await.ok()?.into_inner();
        reply.indexes.first().copied().filter(|index| *index > 0)
    }
}
