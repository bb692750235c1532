#![expect(clippy::unwrap_used, reason = "tests")]

mod checkpoint;
mod cluster;
mod harness;
mod log_suite;
