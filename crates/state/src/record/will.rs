//! A Will Message, as it is stored with its connection.

use bytes::{BufMut, Bytes, BytesMut};
use magpie_codec::Will;

use super::publish::{decode_properties, encode_properties};
use crate::DecodeError;
use crate::wire::{
    put_bytes, put_text, read_bytes, read_qos, read_topic, read_u8, read_u32, read_u64,
};

/// A Will Message, as it is stored with its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWill {
    /// What is to be published, and with which delay.
    pub will: Will,
    /// Wall clock time of the CONNECT, milliseconds since 1970: the message's publish time, until a leader that sends it stamps it anew.
    pub publish_ms: u64,
}

impl StoredWill {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval_s,
            properties,
        } = &self.will;
        out.put_u64_le(self.publish_ms);
        out.put_u8(*qos as u8);
        out.put_u8(u8::from(*retain) | u8::from(properties.is_some()) << 1);
        out.put_u32_le(*delay_interval_s);
        put_text(out, topic.as_str());
        if let Some(properties) = properties {
            encode_properties(properties, out);
        }
        put_bytes(out, payload);
    }

    pub(super) fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        let publish_ms = read_u64(buf, "publish time")?;
        let qos = read_qos(buf, "will QoS")?;
        let flags = read_u8(buf, "will flags")?;
        let delay_interval_s = read_u32(buf, "will delay")?;
        let topic = read_topic(buf, "will topic")?;
        let properties = match flags & 2 {
            0 => None,
            _ => Some(Box::new(decode_properties(buf)?)),
        };
        Ok(Self {
            will: Will {
                topic,
                payload: read_bytes(buf, "will payload")?,
                qos,
                retain: flags & 1 != 0,
                delay_interval_s,
                properties,
            },
            publish_ms,
        })
    }
}
