//! The rules of one MQTT conversation, without I/O: the server's side from CONNECT to close, for all versions.
//!
//! [`Connection`] is the Network Connection, [`Session`] the Session State that may outlive it. Packets, answers of the
//! node, messages and `now` come in; packets, questions and deadlines go out. This crate does not know how a client is
//! authenticated, where a message goes, or what makes it safe: it asks, by [`Ticket`], and acknowledges after the
//! answer. It knows no socket, clock, task or lock. On the data path it stands twice: between the decoder and the
//! publish path, and between the mailbox and the encoder.

mod auth;
mod close;
mod connect;
mod connection;
mod established;
mod in_order;
mod inflight;
mod input;
mod keep_alive;
mod limits;
mod output;
mod packet_ids;
mod reason;
mod session;
#[cfg(test)]
mod tests;
mod ticket;
mod topic_alias;
mod violation;
mod will;

pub use close::{CloseCause, Eviction};
pub use connection::Connection;
pub use inflight::Published;
pub use input::{Answer, Delivery, Token};
pub use limits::Limits;
pub use output::{Attach, Credentials, Note, Outcome, Output, Subscription};
pub use session::{Restored, RestoredStage, Session, Stage, SubscriptionState, Unacknowledged};
pub use ticket::Ticket;
