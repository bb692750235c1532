//! What this partition takes at most: its share of the cluster's limits.
//!
//! Limits stand in the state, so that all replicas refuse the same, and exactly at the edge: two CONNECTs that race for the last place
//! cannot both get it. Leaders [tell](super::PartitionCommand::Limit) them as their configuration has them.

use bytes::{BufMut, Bytes};

use super::{PartitionState, table};
use crate::DecodeError;
use crate::wire::read_u64;

/// Limits of one partition; `u64::MAX`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLimits {
    /// Sessions that outlive their connections.
    pub sessions_max: u64,
    /// Retained messages.
    pub retained_max: u64,
    /// Bytes of their records.
    pub retained_bytes_max: u64,
    /// Bytes of records that wait in the outbox. Past it, what is due waits in the Sessions, and what cannot wait is refused.
    pub outbox_bytes_max: u64,
}

impl Default for PartitionLimits {
    fn default() -> Self {
        Self {
            sessions_max: u64::MAX,
            retained_max: u64::MAX,
            retained_bytes_max: u64::MAX,
            outbox_bytes_max: u64::MAX,
        }
    }
}

impl PartitionLimits {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.sessions_max);
        out.put_u64_le(self.retained_max);
        out.put_u64_le(self.retained_bytes_max);
        out.put_u64_le(self.outbox_bytes_max);
    }

    pub(super) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            sessions_max: read_u64(buf, "most sessions")?,
            retained_max: read_u64(buf, "most retained messages")?,
            retained_bytes_max: read_u64(buf, "most bytes of retained messages")?,
            outbox_bytes_max: read_u64(buf, "most bytes of the outbox")?,
        })
    }
}

impl PartitionState {
    /// The limits that a leader told last.
    #[must_use]
    pub const fn limits(&self) -> PartitionLimits {
        self.limits
    }

    /// From now on these hold. What is over them already stays.
    pub(super) fn limit(&mut self, limits: PartitionLimits) {
        self.limits = limits;
        self.changed.insert(vec![table::LIMITS]);
    }

    pub(super) fn limits_value(&self) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(32);
        self.limits.encode(&mut out);
        (self.limits != PartitionLimits::default()).then_some(out)
    }

    pub(super) fn load_limits(&mut self, mut value: Bytes) -> Result<(), DecodeError> {
        self.limits = PartitionLimits::decode(&mut value)?;
        Ok(())
    }
}
