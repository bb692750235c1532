//! What a node keeps on disk.
//!
//! - [`Log`]: one durable, ordered log for all Raft groups of the node.
//! - [`KeyValue`]: the small store for applied state, with two implementations.
//! - [`DataDir`]: the directory that holds both, locked against a second process.
//!
//! This crate knows neither Raft nor MQTT: an entry is a group, an index, a term and bytes.
//! Disk work runs on threads of its own; nothing here needs an async runtime.

mod data_dir;
mod disk;
mod error;
mod key_value;
mod log;

pub use data_dir::DataDir;
pub use disk::{Disk, DiskFile, RealDisk, SimulatedDisk};
pub use error::Error;
pub use key_value::{Batch, KeyValue, MemoryStore, SledStore, Tree};
pub use log::{
    Entry, FsyncHistogram, GroupId, Log, Metrics, Options, Purged, Recovered, Space, TornTail,
};
