//! Commands on their way through Raft, and what their proposers learn.

use magpie_state::NodeId;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;

use super::entry::{Reply, Types};

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead the group, is just handing over, or has not heard from a majority for as long as a lease (also right after
    /// an election: try again). Provably not proposed: repeating elsewhere is safe.
    #[error("not the leader of the group")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Proposed, but whether it is or will be committed is unknown here.
    #[error("may or may not be committed")]
    Unknown,
    /// The group is stopped. Provably not proposed.
    #[error("the group is stopped")]
    Stopped,
    /// Longer than an entry may be (see `RaftGroup::command_bytes_max`). Provably not proposed.
    #[error("a command of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// What the library calls when a proposal is done. Whatever happens to the proposal, the function is called exactly once: with `None` if
/// it got lost on the way.
pub(super) struct Completion<T> {
    done: Option<Box<dyn FnOnce(Option<T>) + Send>>,
}

impl<T> Completion<T> {
    pub(super) fn new(done: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self {
            done: Some(Box::new(done)),
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(None);
        }
    }
}

impl<T> openraft::raft::responder::Responder<Types, T> for Completion<T>
where
    T: openraft::OptionalSend + 'static,
{
    fn on_complete(mut self, result: T) {
        if let Some(done) = self.done.take() {
            done(Some(result));
        }
    }
}

/// The outcome in our words.
pub(super) fn outcome<A: 'static>(
    result: Option<ClientWriteResult<Types>>,
) -> Result<(u64, A), ProposeError> {
    match result {
        Some(Ok(response)) => {
            let index = response.log_id.index;
            let reply: Reply = response.data;
            reply
                .into_answer()
                .map(|answer| (index, answer))
                .ok_or(ProposeError::Unknown)
        }
        // Refused before it became an entry. An entry that was dropped later comes as `LogEntryDiscarded`.
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
            leader: forward.leader_id.map(NodeId),
        }),
        Some(Err(_)) | None => Err(ProposeError::Unknown),
    }
}
