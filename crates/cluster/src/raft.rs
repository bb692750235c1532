//! Raft groups, wrapped: the rest of the node sees [`RaftGroup`] and never names the library below.
//!
//! One group drives one [`StateMachine`](magpie_state::StateMachine): commands go in by [`RaftGroup::submit`], are replicated by
//! `transport` and [`Registry`], land in the node-wide log by `log_store`, and are applied, checkpointed and sent as snapshots by
//! `driver` and `checkpoint`. This module knows no command and no MQTT.

mod checkpoint;
mod config;
mod driver;
mod entry;
mod group;
mod log_store;
mod membership;
mod metrics;
mod proposal;
mod proto;
mod read_index;
mod read_log;
mod retention;
mod service;
mod snapshot;
mod stored;
mod transport;
mod wire;

pub use config::Config;
pub use driver::Observer;
pub use group::{GroupParts, Leadership, RaftGroup, StartError, erase};
pub use magpie_storage::GroupId;
pub use membership::{Members, MembershipError};
pub use metrics::{Metrics, Replication};
pub use proposal::ProposeError;
pub use read_index::ReadError;
pub use read_log::LogRange;
pub use service::Registry;
pub use stored::{Stored, StoredRow};

#[cfg(test)]
mod tests;
