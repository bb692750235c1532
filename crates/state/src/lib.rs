//! What the nodes agree on: commands and their deterministic application.
