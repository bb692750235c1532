//! Between the library's messages and those of `/proto/raft.proto`.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tonic::Status;

use super::entry::{self, LogId, SnapshotMeta, StoredMembership, Types, Vote};
use super::{membership, proto};

pub(super) fn vote(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(super) fn to_vote(vote: Option<proto::Vote>) -> Result<Vote, Status> {
    let vote = vote.ok_or_else(|| Status::invalid_argument("vote is missing"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    })
}

pub(super) fn log_id(log_id: &LogId) -> proto::LogId {
    proto::LogId {
        term: entry::term_of(log_id),
        index: log_id.index,
    }
}

pub(super) fn to_log_id(id: proto::LogId) -> LogId {
    entry::log_id(id.term, id.index)
}

pub(super) fn append(request: AppendEntriesRequest<Types>) -> proto::AppendRequest {
    proto::AppendRequest {
        vote: Some(vote(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id),
        leader_commit: request.leader_commit.as_ref().map(log_id),
        entries: request
            .entries
            .into_iter()
            .map(|entry| {
                let (tag, payload) = entry::encode(entry);
                proto::Entry { tag, payload }
            })
            .collect(),
    }
}

pub(super) fn to_append(
    request: proto::AppendRequest,
) -> Result<AppendEntriesRequest<Types>, Status> {
    let first = request.prev.as_ref().map_or(Some(0), |prev| {
        let first = prev.index.checked_add(1)?;
        // No index may overflow further on.
        first.checked_add(request.entries.len() as u64 + 1)?;
        Some(first)
    });
    let first = first.ok_or_else(|| Status::invalid_argument("an index is out of range"))?;
    let entries = (first..)
        .zip(request.entries)
        .map(|(index, entry)| entry::decode(index, entry.tag, entry.payload))
        .collect::<Result<_, _>>()
        .map_err(|bad| Status::invalid_argument(bad.to_string()))?;
    Ok(AppendEntriesRequest {
        vote: to_vote(request.vote)?,
        prev_log_id: request.prev.map(to_log_id),
        entries,
        leader_commit: request.leader_commit.map(to_log_id),
    })
}

pub(super) fn append_reply(result: StreamAppendResult<Types>) -> proto::AppendReply {
    let mut reply = proto::AppendReply::default();
    match result {
        Ok(matched) => reply.matched = matched.as_ref().map(log_id),
        Err(StreamAppendError::Conflict(at)) => reply.conflict = Some(log_id(&at)),
        Err(StreamAppendError::HigherVote(higher)) => reply.higher_vote = Some(vote(&higher)),
    }
    reply
}

pub(super) fn to_append_result(
    reply: proto::AppendReply,
) -> Result<StreamAppendResult<Types>, Status> {
    Ok(if reply.higher_vote.is_some() {
        Err(StreamAppendError::HigherVote(to_vote(reply.higher_vote)?))
    } else if let Some(at) = reply.conflict {
        Err(StreamAppendError::Conflict(to_log_id(at)))
    } else {
        Ok(reply.matched.map(to_log_id))
    })
}

pub(super) fn vote_request(request: &VoteRequest<Types>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(vote(&request.vote)),
        last_log: request.last_log_id.as_ref().map(log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn to_vote_request(request: proto::VoteRequest) -> Result<VoteRequest<Types>, Status> {
    Ok(VoteRequest {
        vote: to_vote(request.vote)?,
        last_log_id: request.last_log.map(to_log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(super) fn vote_reply(reply: &VoteResponse<Types>) -> proto::VoteReply {
    proto::VoteReply {
        vote: Some(vote(&reply.vote)),
        granted: reply.vote_granted,
        last_log: reply.last_log_id.as_ref().map(log_id),
    }
}

pub(super) fn to_vote_reply(reply: proto::VoteReply) -> Result<VoteResponse<Types>, Status> {
    Ok(VoteResponse {
        vote: to_vote(reply.vote)?,
        vote_granted: reply.granted,
        last_log_id: reply.last_log.map(to_log_id),
    })
}

pub(super) fn transfer(request: &TransferLeaderRequest<Types>) -> proto::TransferRequest {
    proto::TransferRequest {
        from: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last_log: request.last_log_id().map(log_id),
    }
}

pub(super) fn to_transfer(
    request: proto::TransferRequest,
) -> Result<TransferLeaderRequest<Types>, Status> {
    Ok(TransferLeaderRequest::new(
        to_vote(request.from)?,
        request.to,
        request.last_log.map(to_log_id),
    ))
}

pub(super) fn transfer_reply(reply: TransferLeaderResponse<Types>) -> proto::TransferReply {
    let mut answer = proto::TransferReply::default();
    match reply {
        Ok(()) => answer.accepted = true,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            answer.other_vote = Some(vote(&actual));
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            answer.flushed = actual.as_ref().map(log_id);
        }
    }
    answer
}

pub(super) fn to_transfer_reply(
    request: &TransferLeaderRequest<Types>,
    reply: proto::TransferReply,
) -> Result<TransferLeaderResponse<Types>, Status> {
    Ok(if reply.accepted {
        Ok(())
    } else if reply.other_vote.is_some() {
        Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: to_vote(reply.other_vote)?,
        })
    } else {
        Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: reply.flushed.map(to_log_id),
        })
    })
}

pub(super) fn snapshot_meta(meta: &SnapshotMeta) -> proto::SnapshotMeta {
    proto::SnapshotMeta {
        applied: meta.last_log_id.as_ref().map(log_id),
        membership: Some(proto::StoredMembership {
            log_id: meta.last_membership.log_id().as_ref().map(log_id),
            membership: Some(membership::to_proto(meta.last_membership.membership())),
        }),
    }
}

/// `None` if the membership in it is not one.
pub(super) fn to_snapshot_meta(meta: proto::SnapshotMeta) -> Option<SnapshotMeta> {
    let stored = meta.membership?;
    Some(SnapshotMeta {
        last_log_id: meta.applied.map(to_log_id),
        last_membership: StoredMembership::new(
            stored.log_id.map(to_log_id),
            membership::from_proto(stored.membership?)?,
        ),
    })
}
