//! The node-wide durable log and the key-value store for applied state.
