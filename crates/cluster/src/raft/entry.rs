//! The library's types, chosen once, and how an entry lies in the log and on the wire: a tag of 64 bits (kind and term) and a payload.

use std::any::Any;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use openraft::alias;
use openraft::vote::leader_id_std;

use super::membership;
use super::proposal::Completion;

/// The library's type parameters, the same for all groups: what differs between them is behind [`Command`] and [`Reply`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Command;
    type R = Reply;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    // One leader per term, so that an entry needs no more than its term to be told apart.
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, u64, ()>;
    type Entry = openraft::impls::Entry<leader_id_std::CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = Completion<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type LogId = alias::LogIdOf<Types>;
pub(super) type Vote = alias::VoteOf<Types>;
pub(super) type Entry = alias::EntryOf<Types>;
pub(super) type Payload = alias::PayloadOf<Types>;
pub(super) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(super) type Membership = openraft::Membership<u64, ()>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// A command of the state machine, as proposed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command(pub(super) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The state machine's answer to a command, of a type that only the driver and the proposer know; empty for Raft's own entries.
pub(super) struct Reply(Mutex<Option<Box<dyn Any + Send>>>);

impl Reply {
    pub(super) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn new<A: Send + 'static>(answer: A) -> Self {
        Self(Mutex::new(Some(Box::new(answer))))
    }

    /// The answer, if it is one of this type.
    pub(super) fn into_answer<A: 'static>(self) -> Option<A> {
        let answer = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer?.downcast().ok().map(|answer| *answer)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// The two highest bits of a tag are the kind, the others the term.
const KIND_SHIFT: u32 = 62;
const TERM_MASK: u64 = (1 << KIND_SHIFT) - 1;
const NORMAL: u64 = 0;
const BLANK: u64 = 1;
const MEMBERSHIP: u64 = 2;

/// An entry that this version cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} cannot be read: {reason}")]
pub(super) struct BadEntry {
    pub(super) index: u64,
    pub(super) reason: &'static str,
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(super) fn term_of(log_id: &LogId) -> u64 {
    **log_id.committed_leader_id()
}

/// The term in a tag.
pub(super) fn term_of_tag(tag: u64) -> u64 {
    tag & TERM_MASK
}

/// Whether the tag is that of a command, not of an entry of Raft's own.
pub(super) fn is_command(tag: u64) -> bool {
    tag >> KIND_SHIFT == NORMAL
}

pub(super) fn encode(entry: Entry) -> (u64, Bytes) {
    let term = term_of(&entry.log_id) & TERM_MASK;
    match entry.payload {
        Payload::Normal(Command(bytes)) => ((NORMAL << KIND_SHIFT) | term, bytes),
        Payload::Blank => ((BLANK << KIND_SHIFT) | term, Bytes::new()),
        Payload::Membership(membership) => (
            (MEMBERSHIP << KIND_SHIFT) | term,
            membership::encode(&membership),
        ),
    }
}

pub(super) fn decode(index: u64, tag: u64, payload: Bytes) -> Result<Entry, BadEntry> {
    let bad = |reason| BadEntry { index, reason };
    let payload = match tag >> KIND_SHIFT {
        NORMAL => Payload::Normal(Command(payload)),
        BLANK => Payload::Blank,
        MEMBERSHIP => Payload::Membership(
            membership::decode(&payload).ok_or_else(|| bad("not a membership"))?,
        ),
        _ => return Err(bad("unknown kind")),
    };
    Ok(Entry {
        log_id: log_id(term_of_tag(tag), index),
        payload,
    })
}
