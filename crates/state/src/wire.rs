//! Byte layouts of commands and rows: little-endian integers, lengths before contents, no alignment.
//!
//! Written and read by hand, since these bytes are the hot path of every publish: a record is read in place, and its payload is a
//! slice of the entry.

use bytes::{Buf, BufMut, Bytes};

use crate::{Incarnation, NodeId, StreamId};

/// Bytes that are no command or row of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {what}: {why}")]
pub struct DecodeError {
    /// The field being read.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

impl DecodeError {
    pub(crate) const fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }
}

const SHORT: &str = "too few bytes";

macro_rules! readers {
    ($($name:ident -> $type:ty, $get:ident, $len:literal;)*) => {
        $(
            pub(crate) fn $name(buf: &mut Bytes, what: &'static str) -> Result<$type, DecodeError> {
                if buf.remaining() < $len {
                    return Err(DecodeError::new(what, SHORT));
                }
                Ok(buf.$get())
            }
        )*
    };
}

readers! {
    read_u8 -> u8, get_u8, 1;
    read_u16 -> u16, get_u16_le, 2;
    read_u32 -> u32, get_u32_le, 4;
    read_u64 -> u64, get_u64_le, 8;
}

/// A length of 32 bits and that many bytes, as a slice of `buf`.
pub(crate) fn read_bytes(buf: &mut Bytes, what: &'static str) -> Result<Bytes, DecodeError> {
    let len = read_u32(buf, what)? as usize;
    if buf.remaining() < len {
        return Err(DecodeError::new(what, SHORT));
    }
    Ok(buf.split_to(len))
}

/// The reverse of [`read_bytes`].
///
/// # Panics
/// If `bytes` is 4 GiB or longer; every value that comes here is bounded far below.
pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("bounded far below 4 GiB"));
    out.put_slice(bytes);
}

/// The 24 bytes of a stream's name.
pub(crate) fn put_stream(out: &mut impl BufMut, stream: StreamId) {
    out.put_u64_le(stream.node.0);
    out.put_u64_le(stream.incarnation.counter);
    out.put_u64_le(stream.incarnation.nonce);
}

/// The reverse of [`put_stream`].
pub(crate) fn read_stream(buf: &mut Bytes, what: &'static str) -> Result<StreamId, DecodeError> {
    let node = NodeId(read_u64(buf, what)?);
    Ok(StreamId {
        node,
        incarnation: read_incarnation(buf, what)?,
    })
}

pub(crate) fn read_incarnation(
    buf: &mut Bytes,
    what: &'static str,
) -> Result<Incarnation, DecodeError> {
    let counter = read_u64(buf, what)?;
    Ok(Incarnation {
        counter,
        nonce: read_u64(buf, what)?,
    })
}
