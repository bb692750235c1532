//! What a bench message carries at the front of its payload, so that its receiver can tell loss, repetition, disorder
//! and age.

/// Who sent it, which it is of theirs, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) publisher: u32,
    /// Counted from 0 per publisher.
    pub(super) seq: u64,
    /// Nanoseconds of the bench's own clock.
    pub(super) sent_ns: u64,
}

impl Stamp {
    /// The smallest payload.
    pub(super) const BYTES: usize = 20;

    /// Writes the stamp to the front of a payload of at least [`Self::BYTES`].
    pub(super) fn write(self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&self.publisher.to_le_bytes());
        payload[4..12].copy_from_slice(&self.seq.to_le_bytes());
        payload[12..20].copy_from_slice(&self.sent_ns.to_le_bytes());
    }

    /// Reads what [`write`](Self::write) wrote; `None` from a payload that is too short.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let (sent_ns, _) = rest.split_first_chunk()?;
        Some(Self {
            publisher: u32::from_le_bytes(*publisher),
            seq: u64::from_le_bytes(*seq),
            sent_ns: u64::from_le_bytes(*sent_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_payload() {
        let stamp = Stamp {
            publisher: 7,
            seq: u64::MAX - 1,
            sent_ns: 1 << 40,
        };
        let mut payload = [0xff; 64];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..Stamp::BYTES]), Some(stamp));
        assert_eq!(Stamp::read(&payload[..Stamp::BYTES - 1]), None);
    }
}
