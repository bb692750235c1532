//! Raft over gRPC, membership, the stream into each partition, its tail, and peer links.
