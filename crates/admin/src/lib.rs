//! The HTTP API: health, metrics, the operator's resources and the dashboard.
//!
//! [`Server::bind`] answers from the first moment of the process, so that a health check sees a node that is starting;
//! [`Server::attach_cluster`] and [`Server::attach_node`] give it what there is to tell. It knows nothing of MQTT conversations and decides nothing: it shows what the broker and the
//! cluster say of themselves, and passes the operator's wishes on.

mod access;
mod api;
mod audited;
mod config;
mod dashboard;
mod health;
mod metrics;
mod server;
mod state;

pub use config::{Config, Limits, Token};
pub use metrics::{Metrics, MetricsError};
pub use server::{Error, Server};

#[cfg(test)]
mod tests;
