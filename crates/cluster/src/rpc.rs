//! The plumbing of gRPC between nodes: who is who, where a node can be reached, channels to it, and the server side.
//!
//! It knows no service; `raft` and the other modules bring theirs. Every call carries a [`Credentials`] header and is admitted by a
//! [`Guard`] at the other side.

mod channels;
mod directory;
mod guard;
mod identity;
mod serve;
mod socket;
mod tls;

pub use channels::{Channels, PeerChannel, Purpose};
pub use directory::Directory;
pub use guard::{Guard, MemberGuard, Peer, StrangerGuard};
pub use identity::{Credentials, Identity, Secret};
pub use serve::{MESSAGE_BYTES_MAX, serve};
pub use tls::NodeTls;
