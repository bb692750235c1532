//! The HTTP API: health, metrics and the operator's resources.
