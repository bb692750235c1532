//! Takes the fields of one packet from its bytes (section 1.5).

use std::ops::Range;

use bytes::Bytes;

use crate::error::Fault;
use crate::{
    Limits, PacketId, PacketType, ProtocolVersion, ReasonCode, Text, TopicFilter, TopicName,
};

/// A position in a packet's body, the bytes after the fixed header. Never reads beyond its end.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    body: &'a Bytes,
    at: usize,
    end: usize,
    pub(crate) version: ProtocolVersion,
    pub(crate) limits: &'a Limits,
}

const TRUNCATED: Fault = Fault::malformed("1.5", "a field reaches beyond the packet");

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(crate) fn new(body: &'a Bytes, version: ProtocolVersion, limits: &'a Limits) -> Self {
        Self {
            body,
            at: 0,
            end: body.len(),
            version,
            limits,
        }
    }

    /// How much of the body was read.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// A packet must end where its last field ends.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(Fault::malformed(
                "2.1.4",
                "bytes follow the packet's last field",
            ))
        }
    }

    /// Passes over a string or binary data without content, if that comes next.
    #[inline(always)]
    pub(crate) fn skip_empty_field(&mut self) -> bool {
        let is_empty = self.body[self.at..self.end].starts_with(&[0, 0]);
        self.at += if is_empty { 2 } else { 0 };
        is_empty
    }

    /// Passes over a block of properties without content, if that comes next.
    #[inline(always)]
    pub(crate) fn skip_empty_block(&mut self) -> bool {
        let is_empty = self.body[self.at..self.end].first() == Some(&0);
        self.at += usize::from(is_empty);
        is_empty
    }

    /// Splits off the next `bytes` bytes as a reader of their own.
    pub(crate) fn split(&mut self, bytes: usize) -> Result<Self, Fault> {
        let start = self.take(bytes)?;
        Ok(Self {
            at: start,
            end: self.at,
            ..*self
        })
    }

    /// Passes over `bytes` bytes and tells where they start.
    #[inline(always)]
    fn take(&mut self, bytes: usize) -> Result<usize, Fault> {
        let start = self.at;
        if self.end - start < bytes {
            return Err(TRUNCATED);
        }
        self.at = start + bytes;
        Ok(start)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = &self.body[self.at..self.end];
        let bytes = *rest.first_chunk::<N>().ok_or(TRUNCATED)?;
        self.at += N;
        Ok(bytes)
    }

    #[inline(always)]
    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline(always)]
    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form [MQTT-1.5.5-1].
    pub(crate) fn variable_int(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Fault::malformed(
                        "MQTT-1.5.5-1",
                        "a variable byte integer is not in its shortest form",
                    ));
                }
                return Ok(value);
            }
        }
        Err(Fault::malformed(
            "1.5.5",
            "a variable byte integer has more than four bytes",
        ))
    }

    /// Where the content of a string or binary data lies.
    #[inline(always)]
    fn field(&mut self) -> Result<Range<usize>, Fault> {
        let bytes = usize::from(self.u16()?);
        let start = self.take(bytes)?;
        Ok(start..self.at)
    }

    /// Binary data with a length of two bytes, sharing the packet's bytes.
    pub(crate) fn binary(&mut self) -> Result<Bytes, Fault> {
        let field = self.field()?;
        Ok(self.body.slice(field))
    }

    pub(crate) fn text(&mut self) -> Result<Text, Fault> {
        let field = self.field()?;
        Ok(Text::slice(self.body, field)?)
    }

    /// A Topic Name of no more levels than the limit.
    #[inline(always)]
    pub(crate) fn topic_name(&mut self) -> Result<TopicName, Fault> {
        let field = self.field()?;
        if self.is_too_deep(&self.body[field.clone()]) {
            return Err(Fault::new(
                ReasonCode::TopicNameInvalid,
                "4.7.3",
                "a topic has more levels than the limit",
            ));
        }
        match TopicName::slice(self.body, field) {
            Ok(topic) => Ok(topic),
            Err(error) => Err(error.into()),
        }
    }

    /// A Topic Filter of no more levels than the limit.
    pub(crate) fn topic_filter(&mut self) -> Result<TopicFilter, Fault> {
        // [MQTT-3.8.3-1], [MQTT-3.10.3-1], [MQTT-3.8.3-1 v3.1.1], [MQTT-3.10.3-1 v3.1.1]
        let filter = TopicFilter::try_from(self.binary()?)?;
        if self.is_too_deep(filter.filter().as_bytes()) {
            return Err(Fault::new(
                ReasonCode::TopicFilterInvalid,
                "4.7.3",
                "a filter has more levels than the limit",
            ));
        }
        Ok(filter)
    }

    #[inline(always)]
    fn is_too_deep(&self, topic: &[u8]) -> bool {
        let levels_max = self.limits.topic_levels_max;
        // A topic of n bytes has at most n + 1 levels, so short ones need no count.
        topic.len() >= levels_max
            && topic.iter().filter(|byte| **byte == b'/').count() >= levels_max
    }

    #[inline(always)]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        // [MQTT-2.2.1-3], [MQTT-2.2.1-4], [MQTT-2.3.1-1 v3.1.1]
        PacketId::new(self.u16()?)
            .ok_or(Fault::protocol("MQTT-2.2.1-3", "a packet identifier is 0"))
    }

    /// A reason code that `packet` may carry.
    pub(crate) fn reason(&mut self, packet: PacketType) -> Result<ReasonCode, Fault> {
        match ReasonCode::from_u8(self.u8()?) {
            Some(reason) if reason.is_valid_in(packet) => Ok(reason),
            _ => Err(Fault::protocol(
                "2.4",
                "the packet cannot carry this reason code",
            )),
        }
    }
}
