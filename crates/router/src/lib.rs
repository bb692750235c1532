//! Who gets a message: topic filters, their subscribers, and shared-subscription groups.
//!
//! Three tables stand on one [`FilterMap`]: the [`Router`] knows the subscribers of this node, the [`RouteTable`]
//! knows which nodes have subscribers at all (the direct class), and whoever needs something else per filter (the
//! interests of a tail, access rules) puts it into a map of its own. A [`MatchCache`] keeps what a task found for the
//! topics it publishes to.
//!
//! What this crate does not know: sessions, packets, connections, and what is done with a match. It reads no clock,
//! holds no lock and does no I/O; what a caller shares between threads, the caller guards.

mod error;
mod filter_map;
mod index;
mod match_cache;
mod pages;
mod route_table;
mod router;
mod share_group;
mod short_text;
mod slots;
mod subscribers;

pub use error::Error;
pub use filter_map::{FilterId, FilterMap, Limits};
pub use match_cache::{CacheLimits, ENTRY_BYTES, MatchCache};
pub use route_table::{NODES_MAX, RouteTable, ShareRoute};
pub use router::{GroupId, Matches, Removed, Router, ShareMatch};
pub use share_group::{Policy, ShareGroup};
pub use subscribers::Subscribers;
