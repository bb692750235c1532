//! What holds the nodes together: Raft over gRPC, membership, the ordered stream into each partition, its tail back to every node,
//! and the peer links of the direct class.
//!
//! The broker talks to one [`Cluster`] handle, and never learns whether a leader, a replica or a subscriber is local. It does not know
//! MQTT conversations, only messages, filters and clients.

mod config;
mod event;
mod fatal;
mod groups;
mod handle;
mod identity_file;
mod leaders;
mod membership;
mod publish;
pub mod raft;
mod readiness;
pub mod rpc;
mod session;
mod status;
mod subscribe;
mod tail;

pub use config::{Config, ConfigError};
pub use event::{Event, Events};
pub use handle::{Cluster, Error, Readiness};
pub use publish::{Direct, DirectOutcome, ShareTarget, Submission, Submitted};
pub use session::{Attach, Attached};
pub use status::{Fatal, GroupStatus, MemberStatus, StartError, Status};
pub use subscribe::{Barrier, ShareMember};
pub use tail::{Tail, TailBatch, TailItem};
