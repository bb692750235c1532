//! Proposals to the control group from any node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use magpie_state::NodeId;
use magpie_state::control::{ControlAnswer, ControlCommand};

use super::Membership;
use super::proto;
use super::proto::membership_client::MembershipClient;
use crate::Error;
use crate::groups::CONTROL;
use crate::raft::ProposeError;
use crate::rpc::{MESSAGE_BYTES_MAX, Purpose};

/// Before another attempt.
const PAUSE: Duration = Duration::from_millis(30);

impl Membership {
    /// Proposes a command, here or to the leader, until it is committed or the publish deadline passes. Every control command may be
    /// repeated without harm; the caller sees to it that nothing newer overtakes one whose outcome it does not know.
    ///
    /// # Errors
    /// [`Error::NotProposed`] when no leader was found, [`Error::Unknown`] when one was and did not answer, [`Error::Stopping`].
    pub(crate) async fn propose(
        &self,
        command: ControlCommand,
    ) -> Result<(u64, ControlAnswer), Error> {
        let deadline = self.inner.config.publish_deadline;
        let was_sent = AtomicBool::new(false);
        let attempts = async {
            let command = command.encode();
            loop {
                if let Some(answer) = self.attempt(command.clone(), &was_sent).await {
                    return answer;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = self.inner.stop.cancelled() => Err(Error::Stopping),
            outcome = tokio::time::timeout(deadline, attempts) => outcome.map_err(|_| {
                if was_sent.load(Ordering::Relaxed) {
                    Error::Unknown("the control group does not answer")
                } else {
                    Error::NotProposed("the control group has no leader")
                }
            }),
        }
    }

    async fn attempt(&self, command: Bytes, was_sent: &AtomicBool) -> Option<(u64, ControlAnswer)> {
        let inner = &self.inner;
        if let Some(control) = inner.groups.control().filter(|group| group.is_leader()) {
            was_sent.store(true, Ordering::Relaxed);
            let proposal = tokio::time::timeout(self.attempt_within(), control.propose(command));
            return proposal.await.ok()?.ok();
        }
        let leader = self
            .control_leader()
            .filter(|leader| *leader != self.node())?;
        was_sent.store(true, Ordering::Relaxed);
        let channel = inner.channels.to(leader, Purpose::Forwarding);
        let mut client =
            MembershipClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.propose(proto::ProposeRequest { command });
        let reply = tokio::time::timeout(self.attempt_within(), call).await;
        let reply = reply.ok()?.ok()?.into_inner();
        if reply.answer.is_empty() {
            if reply.leader != 0 {
                inner.leaders.hint(CONTROL, NodeId(reply.leader));
            }
            return None;
        }
        let answer = serde_json::from_slice(&reply.answer).ok()?;
        Some((reply.index, answer))
    }

    /// A command from another member: proposed here or not at all.
    pub(super) async fn propose_here(&self, command: Bytes) -> proto::ProposeReply {
        let leader = |leader: Option<NodeId>| proto::ProposeReply {
            leader: leader.map_or(0, |leader| leader.0),
            ..Default::default()
        };
        let Some(control) = self
            .inner
            .groups
            .control()
            .filter(|group| group.is_leader())
        else {
            return leader(
                self.control_leader()
                    .filter(|leader| *leader != self.node()),
            );
        };
        match tokio::time::timeout(self.attempt_within(), control.propose(command)).await {
            Ok(Ok((index, answer))) => reply_of(index, &answer),
            Ok(Err(ProposeError::NotLeader { leader: other })) => leader(other),
            Ok(Err(_)) | Err(_) => leader(None),
        }
    }

    /// Who leads the control group, as far as this node knows.
    fn control_leader(&self) -> Option<NodeId> {
        let control = self.inner.groups.control();
        control
            .and_then(|group| group.leader())
            .or_else(|| self.inner.leaders.leader(CONTROL))
    }

    fn attempt_within(&self) -> Duration {
        self.inner.config.election_timeout * 2
    }
}

pub(super) fn reply_of(index: u64, answer: &ControlAnswer) -> proto::ProposeReply {
    let answer = serde_json::to_vec(answer).expect("plain data always has a JSON form");
    proto::ProposeReply {
        index,
        answer: answer.into(),
        leader: 0,
    }
}
