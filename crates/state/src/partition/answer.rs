//! What proposers learn from a partition.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{put_stream, read_stream, read_u8, read_u32, read_u64};
use crate::{DecodeError, Epoch, StreamId};

/// Answer to any command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionAnswer {
    /// To an append.
    Append(AppendAnswer),
    /// The command has no more to say.
    Done,
    /// The command could not be read; nothing changed. A bug, or a proposer of a newer version.
    Unreadable(DecodeError),
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendAnswer {
    /// The batch is in the log, by this command.
    Taken(Outcome),
    /// The batch is in the log already, by an earlier command with the same sequence number, which had this outcome.
    Repeat(Outcome),
    /// A batch before this one is missing. Nothing changed; go on from `last + 1`.
    Gap {
        /// Sequence number of the last batch taken.
        last: u64,
    },
    /// The stream's life has been declared ended, or its node has a newer one. Nothing changed, and nothing will.
    Ended,
}

/// What the records of a batch came to, where there is more to say than that they are in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Ordinals (0-based) of publishes, and of records about a Session, that were refused because their client has a newer connection,
    /// and of attaches that a [limit](super::PartitionLimits) does not admit, ascending.
    pub refused: Vec<u32>,
    /// Ordinals (0-based) of publishes that were taken before: a success for the publisher, and passed over by readers of the log.
    /// Ascending.
    pub repeated: Vec<u32>,
    /// Ordinals (0-based) of publishes that were not taken, because they would be retained for one topic more than there may be: nobody gets
    /// them. Ascending.
    pub full: Vec<u32>,
    /// Ordinals (0-based) of attaches to a Session that belongs to another user, ascending.
    pub foreign: Vec<u32>,
    /// Answers to the batch's attaches, ascending by ordinal.
    pub attached: Vec<Attached>,
}

/// Answer to an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Ordinal (0-based) of the record in its batch.
    pub ordinal: u32,
    /// Fence of this attachment.
    pub epoch: Epoch,
    /// Whether stored session state is resumed.
    pub session_present: bool,
    /// The attachment that this one replaced.
    pub superseded: Option<Superseded>,
    /// How many Sessions of this partition belong to its user now, if the client had none and gave a user name; 0: it adds none to them.
    pub owned: u32,
}

/// An attachment that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseded {
    /// Its epoch.
    pub epoch: Epoch,
    /// The node, in which life, that held it.
    pub holder: StreamId,
}

impl Outcome {
    /// Whether there is nothing to say.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.refused.is_empty()
            && self.repeated.is_empty()
            && self.full.is_empty()
            && self.foreign.is_empty()
            && self.attached.is_empty()
    }

    /// Ordinals (0-based) of the records that readers of the log pass over, ascending.
    #[must_use]
    pub fn passed_over(&self) -> Vec<u32> {
        let mut ordinals = self.refused.clone();
        ordinals.extend(&self.repeated);
        ordinals.extend(&self.full);
        ordinals.sort_unstable();
        ordinals
    }

    /// Appends the outcome's bytes.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        put_ordinals(out, &self.refused);
        put_ordinals(out, &self.repeated);
        put_ordinals(out, &self.full);
        put_ordinals(out, &self.foreign);
        out.put_u32_le(
            u32::try_from(self.attached.len()).expect("no more than a batch has records"),
        );
        for Attached {
            ordinal,
            epoch,
            session_present,
            superseded,
            owned,
        } in &self.attached
        {
            out.put_u32_le(*ordinal);
            out.put_u64_le(epoch.0);
            out.put_u8(
                u8::from(*session_present)
                    | u8::from(superseded.is_some()) << 1
                    | u8::from(*owned > 0) << 2,
            );
            if let Some(Superseded { epoch, holder }) = superseded {
                out.put_u64_le(epoch.0);
                put_stream(out, *holder);
            }
            if *owned > 0 {
                out.put_u32_le(*owned);
            }
        }
    }

    /// The reverse of [`encode`](Self::encode).
    pub(super) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let refused = read_ordinals(buf)?;
        let repeated = read_ordinals(buf)?;
        let full = read_ordinals(buf)?;
        let foreign = read_ordinals(buf)?;
        let mut attached = Vec::new();
        for _ in 0..read_u32(buf, "attach answers")? {
            let ordinal = read_u32(buf, "ordinal")?;
            let epoch = Epoch(read_u64(buf, "epoch")?);
            let flags = read_u8(buf, "attach flags")?;
            let superseded = match flags & 2 {
                0 => None,
                _ => Some(Superseded {
                    epoch: Epoch(read_u64(buf, "superseded epoch")?),
                    holder: read_stream(buf, "superseded holder")?,
                }),
            };
            let owned = match flags & 4 {
                0 => 0,
                _ => read_u32(buf, "sessions of a user")?,
            };
            attached.push(Attached {
                ordinal,
                epoch,
                session_present: flags & 1 != 0,
                superseded,
                owned,
            });
        }
        Ok(Self {
            refused,
            repeated,
            full,
            foreign,
            attached,
        })
    }
}

const TAKEN: u8 = 1;
const GAP: u8 = 2;
const APPEND_ENDED: u8 = 3;
const DONE: u8 = 4;
const UNREADABLE: u8 = 5;
const REPEAT: u8 = 6;

impl PartitionAnswer {
    /// Bytes for the way back to a proposer on another node.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Append(AppendAnswer::Taken(outcome)) => {
                out.put_u8(TAKEN);
                outcome.encode(&mut out);
            }
            Self::Append(AppendAnswer::Repeat(outcome)) => {
                out.put_u8(REPEAT);
                outcome.encode(&mut out);
            }
            Self::Append(AppendAnswer::Gap { last }) => {
                out.put_u8(GAP);
                out.put_u64_le(*last);
            }
            Self::Append(AppendAnswer::Ended) => out.put_u8(APPEND_ENDED),
            Self::Done => out.put_u8(DONE),
            Self::Unreadable(_) => out.put_u8(UNREADABLE),
        }
        out.freeze()
    }

    /// The reverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(mut buf: Bytes) -> Result<Self, DecodeError> {
        let buf = &mut buf;
        Ok(match read_u8(buf, "answer kind")? {
            TAKEN => Self::Append(AppendAnswer::Taken(Outcome::decode(buf)?)),
            REPEAT => Self::Append(AppendAnswer::Repeat(Outcome::decode(buf)?)),
            GAP => Self::Append(AppendAnswer::Gap {
                last: read_u64(buf, "last sequence number")?,
            }),
            APPEND_ENDED => Self::Append(AppendAnswer::Ended),
            DONE => Self::Done,
            UNREADABLE => {
                Self::Unreadable(DecodeError::new("command", "unreadable to the replica"))
            }
            _ => return Err(DecodeError::new("answer kind", "unknown")),
        })
    }
}

/// Ordinals of records within a batch, counted.
pub(super) fn put_ordinals(out: &mut impl BufMut, ordinals: &[u32]) {
    out.put_u32_le(u32::try_from(ordinals.len()).expect("no more than a batch has records"));
    for ordinal in ordinals {
        out.put_u32_le(*ordinal);
    }
}

/// The reverse of [`put_ordinals`].
pub(super) fn read_ordinals(buf: &mut Bytes) -> Result<Vec<u32>, DecodeError> {
    let count = read_u32(buf, "ordinals")?;
    (0..count).map(|_| read_u32(buf, "ordinal")).collect()
}
