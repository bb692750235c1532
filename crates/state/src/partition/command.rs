//! The commands of a partition and their bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::append::Append;
use crate::wire::{put_stream, read_stream, read_u8, read_u64};
use crate::{DecodeError, StreamId};

/// A command of a partition's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionCommand {
    /// A batch of records of one stream.
    Append(Append),
    /// A life of a node was declared ended.
    EndStream {
        /// Which.
        stream: StreamId,
    },
    /// Log entries below an index are purged everywhere; what readers must skip below it need not be remembered.
    ForgetSkipped {
        /// First index that may still be read.
        below: u64,
    },
}

const APPEND: u8 = 1;
const END_STREAM: u8 = 2;
const FORGET_SKIPPED: u8 = 3;

impl PartitionCommand {
    /// The command's bytes, as they stand in the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Append(append) => {
                out.reserve(append.records.len() + 64);
                out.put_u8(APPEND);
                append.encode(&mut out);
            }
            Self::EndStream { stream } => {
                out.put_u8(END_STREAM);
                put_stream(&mut out, *stream);
            }
            Self::ForgetSkipped { below } => {
                out.put_u8(FORGET_SKIPPED);
                out.put_u64_le(*below);
            }
        }
        out.freeze()
    }

    /// The reverse of [`encode`](Self::encode); a batch's records are a slice of `bytes`.
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let buf = &mut bytes.clone();
        Ok(match read_u8(buf, "command kind")? {
            APPEND => Self::Append(Append::decode(buf)?),
            END_STREAM => Self::EndStream {
                stream: read_stream(buf, "stream")?,
            },
            FORGET_SKIPPED => Self::ForgetSkipped {
                below: read_u64(buf, "index")?,
            },
            _ => return Err(DecodeError::new("command kind", "unknown")),
        })
    }
}
