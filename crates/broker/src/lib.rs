//! Listeners, connection tasks and the publish path of one node: the I/O, the tasks and the only clock of the data path.
//!
//! The rules of a conversation are in `session`, who gets a message in `router`, what makes it safe in `cluster`. This crate brings
//! them together: [`Node`] listens, runs one task per connection that feeds a `session::Connection`, and carries messages from the
//! partitions' tails into mailboxes. The data path, in the order of its steps: `listener`, `connection`, `publish`, (cluster), `tail`,
//! `deliver`, `mailbox`, `connection`.

mod access;
mod admission;
mod attach;
mod authenticate;
mod bucket;
mod buffers;
mod clock;
mod config;
mod connection;
mod deliver;
mod durable;
mod events;
mod fetch;
mod handle;
mod lanes;
mod listener;
mod mailbox;
mod metrics;
mod newest_retained;
mod node;
mod opening;
mod peer;
mod permit;
mod positions;
mod progress;
mod publish;
mod rate;
mod read;
mod registry;
mod resume;
mod retained;
mod session_limits;
mod shared;
mod shares;
mod stream;
mod subscribe;
mod subscribers;
mod sys_topics;
mod tail;
mod task;
mod tls;
mod websocket;
mod write_buffer;

pub use config::{Config, Problem};
pub use connection::ConnectionConfig;
pub use handle::ClientInfo;
pub use listener::{ListenerConfig, Listening};
pub use mailbox::MailboxConfig;
pub use node::{Error, Node, Totals};
pub use opening::WebSocketConfig;
pub use peer::Transport;
pub use rate::RatePolicy;
pub use session_limits::SessionConfig;
pub use sys_topics::SysTopicsConfig;
pub use tls::ClientCertificate;
