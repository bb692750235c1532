//! Bytes of the records about share groups.

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::TopicFilter;

use crate::DecodeError;
use crate::wire::{put_text, read_filter, read_u64};

pub(super) fn encode(kind: u8, filter: &TopicFilter, member: u64, out: &mut BytesMut) {
    out.put_u8(kind);
    put_text(out, filter.as_str());
    out.put_u64_le(member);
}

pub(super) fn decode(buf: &mut Bytes) -> Result<(TopicFilter, u64), DecodeError> {
    let filter = read_filter(buf, "share group")?;
    Ok((filter, read_u64(buf, "share member")?))
}
