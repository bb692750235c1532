//! Linearizable reads: the ReadIndex protocol, batched.
//!
//! Whoever asks while a round is under way shares the next one, so that every answer comes from a round that began after the question.
//! A round makes a majority confirm, by messages sent after it began, that this node still leads. No clock and no lease takes part: a
//! leader that was paused in the middle finds out.

use std::time::Duration;

use magpie_state::NodeId;
use openraft::LinearizerOption;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::driver::Raft;
use magpie_state::StateMachine;

/// Callers that wait for the next round; more have to wait to be queued.
const WAITING_MAX: usize = 4096;

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead the group.
    #[error("not the leader of the group")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// No majority confirmed within the deadline that this node leads.
    #[error("no majority of the group answers")]
    NoQuorum,
    /// The group is stopped.
    #[error("the group is stopped")]
    Stopped,
}

type Answer = oneshot::Sender<Result<u64, ReadError>>;

/// Where callers queue. Closes when the group stops.
#[derive(Clone)]
pub(super) struct ReadQueue {
    waiting: mpsc::Sender<Answer>,
}

impl ReadQueue {
    /// Starts the task that runs the rounds; it ends when the queue is dropped.
    pub(super) fn start<M: StateMachine>(raft: Raft<M>, within: Duration) -> Self {
        let (waiting, asked) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(raft, within, asked));
        Self { waiting }
    }

    pub(super) async fn read_index(&self) -> Result<u64, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.waiting
            .send(answer)
            .await
            .map_err(|_| ReadError::Stopped)?;
        answered.await.map_err(|_| ReadError::Stopped)?
    }
}

async fn run<M: StateMachine>(raft: Raft<M>, within: Duration, mut asked: mpsc::Receiver<Answer>) {
    let mut round = Vec::new();
    while asked.recv_many(&mut round, WAITING_MAX).await > 0 {
        let outcome = confirm(&raft, within).await;
        for answer in round.drain(..) {
            // A caller may have given up.
            let _ = answer.send(outcome.clone());
        }
    }
}

async fn confirm<M: StateMachine>(raft: &Raft<M>, within: Duration) -> Result<u64, ReadError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(within);
    // The library counts its deadline from when it handles the question; ours also covers a core that is stuck.
    let round = tokio::time::timeout(within * 2, raft.get_read_linearizer(option)).await;
    match round {
        Err(_) => Err(ReadError::NoQuorum),
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(ReadError::NotLeader {
                leader: forward.leader_id.map(NodeId),
            })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
            Err(ReadError::NoQuorum)
        }
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}
