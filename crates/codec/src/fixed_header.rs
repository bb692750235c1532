//! The fixed header (section 2.1): packet type, flags and remaining length.

use crate::error::Fault;
use crate::{PacketType, ProtocolVersion};

/// The first two to five bytes of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedHeader {
    /// The low half of the first byte. All zero or fixed but for PUBLISH.
    pub(crate) flags: u8,
    /// How many bytes follow the header.
    pub(crate) remaining_bytes: usize,
    /// How many bytes the header has itself.
    pub(crate) header_bytes: usize,
}

impl FixedHeader {
    /// Reads a header from the start of `buf`, of which the first byte is known to be there; `None` if it is not
    /// complete yet.
    pub(crate) fn read(buf: &[u8]) -> Result<Option<Self>, Fault> {
        let mut remaining_bytes = 0;
        for (at, shift) in [(1, 0), (2, 7), (3, 14), (4, 21)] {
            let Some(byte) = buf.get(at) else {
                return Ok(None);
            };
            remaining_bytes |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(Self {
                    flags: buf[0] & 0x0f,
                    remaining_bytes,
                    header_bytes: at + 1,
                }));
            }
        }
        Err(Fault::malformed(
            "2.1.4",
            "the remaining length has more than four bytes",
        ))
    }

    /// The size of the whole packet.
    pub(crate) const fn packet_bytes(&self) -> usize {
        self.header_bytes + self.remaining_bytes
    }

    /// Whether the remaining length could have been said in fewer bytes.
    pub(crate) const fn is_padded(&self) -> bool {
        let shortest = match self.remaining_bytes {
            0..0x80 => 2,
            0x80..0x4000 => 3,
            0x4000..0x20_0000 => 4,
            _ => 5,
        };
        self.header_bytes > shortest
    }
}

impl PacketType {
    /// The packet type in the first byte of a packet, whose flags must be what the type demands.
    pub(crate) fn from_first_byte(
        byte: u8,
        version: Option<ProtocolVersion>,
    ) -> Result<Self, Fault> {
        let flags = byte & 0x0f;
        let (packet_type, flags_demanded) = match byte >> 4 {
            1 => (Self::Connect, 0),
            2 => (Self::ConnAck, 0),
            // Its flags mean something; see `Publish::decode`.
            3 => (Self::Publish, flags),
            4 => (Self::PubAck, 0),
            5 => (Self::PubRec, 0),
            6 => (Self::PubRel, 0b0010),
            7 => (Self::PubComp, 0),
            8 => (Self::Subscribe, 0b0010),
            9 => (Self::SubAck, 0),
            10 => (Self::Unsubscribe, 0b0010),
            11 => (Self::UnsubAck, 0),
            12 => (Self::PingReq, 0),
            13 => (Self::PingResp, 0),
            14 => (Self::Disconnect, 0),
            15 if version.is_none_or(ProtocolVersion::has_properties) => (Self::Auth, 0),
            _ => return Err(Fault::malformed("2.1.2", "the packet type is reserved")),
        };
        // 3.1 sets DUP when it repeats one of the packets that it sends at QoS 1, and leaves the other flags open.
        let flags_checked = match version {
            Some(ProtocolVersion::V3_1) if flags_demanded != 0 => 0b0111,
            Some(ProtocolVersion::V3_1) => 0,
            _ => 0b1111,
        };
        // [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1], [MQTT-2.2.2-1 v3.1.1],
        // [MQTT-2.2.2-2 v3.1.1], [MQTT-3.6.1-1 v3.1.1], [MQTT-3.8.1-1 v3.1.1], [MQTT-3.10.1-1 v3.1.1],
        // [MQTT-3.14.1-1 v3.1.1]
        // [MQTT-2.1.3-1]
        if (flags ^ flags_demanded) & flags_checked != 0 {
            return Err(Fault::malformed(
                "MQTT-2.1.3-1",
                "the reserved flags of the fixed header are wrong",
            ));
        }
        Ok(packet_type)
    }
}
