//! Shared parts of the outer tests.
