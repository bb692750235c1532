#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod harness;
mod log_suite;
