//! What holds the nodes together: Raft over gRPC, membership, the ordered stream into each partition, its tail back to every node,
//! and the peer links of the direct class.
//!
//! The broker talks to one [`Cluster`] handle, and never learns whether a leader, a replica or a subscriber is local. It does not know
//! MQTT conversations, only messages, filters and clients.

mod config;
mod event;
mod fatal;
mod fetch;
mod groups;
mod handle;
mod identity_file;
mod index;
mod inspect;
mod leaders;
mod link;
mod membership;
mod needed;
mod outbox;
mod publish;
pub mod raft;
mod read_index;
mod readiness;
mod retained;
mod routes;
pub mod rpc;
mod session;
mod share;
mod start;
mod status;
mod stream;
mod subscribe;
mod tail;
mod takeover;
mod weigh;

pub use config::{Config, ConfigError, RetentionRule, TlsFiles};
pub use event::{Event, Events};
pub use fetch::{Fetch, Fetched};
pub use handle::{Cluster, Error, Readiness};
pub use inspect::WaitingMessages;
pub use membership::{Load, NodeLoad};
pub use publish::{Direct, DirectOutcome, ShareTarget, Submission, Submitted};
pub use retained::RetainedPage;
pub use session::{Attach, Attached, Detach, Handover};
pub use share::{DealtMessage, DealtTail};
pub use status::{Fatal, GroupStatus, LogStatus, MemberStatus, PartitionHolds, StartError, Status};
pub use subscribe::{Barrier, ShareMember};
pub use tail::{Tail, TailBatch, TailItem, TailLost, Tailed};

/// Messages and services of `/proto/cluster.proto`.
mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        reason = "generated code; the proto file says what its items are"
    )]
    tonic::include_proto!("magpie.cluster.v1");
}
