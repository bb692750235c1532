#![expect(clippy::unwrap_used, reason = "tests")]

mod checkpoint;
mod cluster;
mod fatal;
mod harness;
mod install;
mod log_suite;
mod power_loss;
