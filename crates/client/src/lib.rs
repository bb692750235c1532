//! A small MQTT client for the command line, the benches and the tests.
//!
//! [`Client`] speaks the protocol for its user: packet identifiers, acknowledgements, keep alive, the server's Receive
//! Maximum. [`Connection`] only frames packets and is for tests of the protocol, from either end. Neither reconnects:
//! what a lost connection means, the user knows best.

mod client;
mod connection;
mod driver;
mod error;
mod inflight;
mod options;
mod receiving;
mod tls;

pub use client::{Client, Handle, Pending};
pub use connection::Connection;
pub use error::{Error, reason_in_words};
pub use options::{Acknowledge, Options};
pub use receiving::Incoming;
pub use tls::{Tls, Trust};
