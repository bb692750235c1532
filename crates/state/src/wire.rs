//! Byte layouts of commands and rows: little-endian integers, lengths before contents, no alignment.
//!
//! Written and read by hand, since these bytes are the hot path of every publish: a record is read in place, and its payload is a
//! slice of the entry.

use bytes::{Buf, BufMut, Bytes};
use magpie_codec::{PacketId, QoS, Text, TopicFilter, TopicName};

use crate::{ClientId, Epoch, Incarnation, NodeId, PartitionId, Position, StreamId};

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

/// How many of something follow: 32 bits.
///
/// # Panics
/// If there are 2^32 or more; every list that comes here is bounded far below.
pub(crate) fn put_count(out: &mut impl BufMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("bounded far below 2^32"));
}

/// A count, and as many things as it says.
pub(crate) fn read_list<T>(
    buf: &mut Bytes,
    what: &'static str,
    mut read: impl FnMut(&mut Bytes) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = read_u32(buf, what)?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(read(buf)?);
    }
    Ok(list)
}

/// A length of 16 bits and the text: an MQTT string has at most 65,535 bytes.
pub(crate) fn put_text(out: &mut impl BufMut, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("an MQTT string has at most 65,535 bytes"));
    out.put_slice(text.as_bytes());
}

pub(crate) fn read_text(buf: &mut Bytes, what: &'static str) -> Result<Text, DecodeError> {
    let len = usize::from(read_u16(buf, what)?);
    if buf.len() < len {
        return Err(DecodeError::new(what, SHORT));
    }
    Text::try_from(buf.split_to(len)).map_err(|_| DecodeError::new(what, "not an MQTT string"))
}

pub(crate) fn read_topic(buf: &mut Bytes, what: &'static str) -> Result<TopicName, DecodeError> {
    TopicName::try_from(read_text(buf, what)?)
        .map_err(|_| DecodeError::new(what, "not a topic name"))
}

pub(crate) fn read_filter(buf: &mut Bytes, what: &'static str) -> Result<TopicFilter, DecodeError> {
    TopicFilter::try_from(read_text(buf, what)?)
        .map_err(|_| DecodeError::new(what, "not a topic filter"))
}

pub(crate) fn read_client(buf: &mut Bytes) -> Result<ClientId, DecodeError> {
    read_text(buf, "client id").map(ClientId)
}

pub(crate) fn read_epoch(buf: &mut Bytes) -> Result<Epoch, DecodeError> {
    read_u64(buf, "epoch").map(Epoch)
}

pub(crate) fn read_packet_id(buf: &mut Bytes) -> Result<PacketId, DecodeError> {
    PacketId::new(read_u16(buf, "packet id")?).ok_or(DecodeError::new("packet id", "zero"))
}

pub(crate) fn read_qos(buf: &mut Bytes, what: &'static str) -> Result<QoS, DecodeError> {
    QoS::from_u8(read_u8(buf, what)?).ok_or_else(|| DecodeError::new(what, "QoS 3"))
}

/// A partition and a position there.
pub(crate) fn put_place(out: &mut impl BufMut, (partition, position): (PartitionId, Position)) {
    out.put_u16_le(partition.0);
    out.put_u64_le(position.0);
}

/// The reverse of [`put_place`].
pub(crate) fn read_place(buf: &mut Bytes) -> Result<(PartitionId, Position), DecodeError> {
    let partition = PartitionId(read_u16(buf, "partition")?);
    Ok((partition, Position(read_u64(buf, "position")?)))
}
