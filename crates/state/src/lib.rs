//! What the nodes agree on: the commands of the control group and of the partitions, and their deterministic application.
//!
//! This crate is pure. It knows no socket, clock, task, lock or disk, and draws no random number: the same commands in the same
//! order give the same state on every replica. `cluster` carries the commands through Raft and acts on what `apply` answers; work
//! that follows from state (closing a superseded connection, declaring a node's streams ended) is derived by leaders, never done
//! inside `apply`.

pub mod control;
mod ident;
mod machine;
pub mod partition;
mod record;
mod wire;

pub use ident::{
    ClientId, ClusterId, Epoch, Incarnation, MembershipId, NodeId, PartitionId, Position,
    ShareGroupId, StreamId, partition_of,
};
pub use machine::{Carry, Row, RowValue, StateMachine};
pub use record::{
    Binding, Cursor, Dedup, Departure, Inflight, Laggard, LostTopic, Publish, PublishHead,
    RECORDS_PER_BATCH_MAX, Record, SessionProgress, ShareSession, Stage, StoredSubscription,
    StoredWill, encode_publish, published_ms,
};
pub use wire::DecodeError;
