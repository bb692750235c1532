//! What a partition of topics tells the partitions of sessions: messages that a limit has removed.

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::TopicName;

use super::kind;
use crate::wire::{put_count, put_text, read_list, read_topic, read_u16, read_u64};
use crate::{DecodeError, PartitionId, Position};

/// Messages of one topic that a limit removes at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostTopic {
    /// Which.
    pub topic: TopicName,
    /// The oldest of them.
    pub first: Position,
    /// The newest. Of those in between some may stay, or have gone before.
    pub last: Position,
    /// How many.
    pub messages: u64,
}

impl LostTopic {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_text(out, self.topic.as_str());
        out.put_u64_le(self.first.0);
        out.put_u64_le(self.last.0);
        out.put_u64_le(self.messages);
    }

    pub(crate) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: read_topic(buf, "topic name")?,
            first: Position(read_u64(buf, "position")?),
            last: Position(read_u64(buf, "position")?),
            messages: read_u64(buf, "messages")?,
        })
    }
}

pub(crate) fn put_lost_topics(out: &mut BytesMut, topics: &[LostTopic]) {
    put_count(out, topics.len());
    topics.iter().for_each(|topic| topic.encode(out));
}

pub(crate) fn read_lost_topics(buf: &mut Bytes) -> Result<Vec<LostTopic>, DecodeError> {
    read_list(buf, "lost topics", LostTopic::decode)
}

pub(super) fn encode(partition: PartitionId, topics: &[LostTopic], out: &mut BytesMut) {
    out.put_u8(kind::LOST);
    out.put_u16_le(partition.0);
    put_lost_topics(out, topics);
}

pub(super) fn decode(buf: &mut Bytes) -> Result<(PartitionId, Vec<LostTopic>), DecodeError> {
    let partition = PartitionId(read_u16(buf, "partition")?);
    Ok((partition, read_lost_topics(buf)?))
}
