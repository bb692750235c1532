#![expect(clippy::unwrap_used, reason = "tests")]

mod forming;
mod harness;
mod members;
mod restarts;
