//! From a read buffer to packets: the first step of the data path.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::Fault;
use crate::fixed_header::FixedHeader;
use crate::packet::connect;
use crate::reader::Reader;
use crate::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, Packet, PacketType, ProtocolVersion,
    Publish, ReasonCode, Role, SubAck, Subscribe, UnsubAck, Unsubscribe,
};

/// Cuts a stream of bytes into packets and checks them.
///
/// Feed it the connection's read buffer until it answers `None`, then read more. After an error the connection has to
/// be closed; what further calls answer has no meaning.
///
/// Rules about the order of packets are the session's: the decoder only insists that a server hears CONNECT first,
/// since it could not read anything else before.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    /// `None`: a server that waits for CONNECT.
    version: Option<ProtocolVersion>,
    limits: Limits,
}

/// What a decoder accepts beyond what MQTT allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest packet in bytes, fixed header included: what the peer is told as Maximum Packet Size. Checked before
    /// a packet's body is waited for. Default: 1 MiB.
    pub packet_bytes_max: usize,
    /// The same of a CONNECT, which comes from somebody who is not known yet. Default: 64 KiB.
    pub connect_bytes_max: usize,
    /// The most levels of a Topic Name or Topic Filter, at least 1. Default: 128.
    pub topic_levels_max: usize,
    /// The most user properties in one block of properties. Default: 256.
    pub user_properties_max: usize,
    /// The most Topic Filters in one SUBSCRIBE or UNSUBSCRIBE. Default: 8,192.
    pub filters_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
            connect_bytes_max: 64 << 10,
            topic_levels_max: 128,
            user_properties_max: 256,
            filters_max: 8192,
        }
    }
}

impl Decoder {
    /// A decoder of what a client sends, which takes the version from its CONNECT.
    pub const fn server(limits: Limits) -> Self {
        Self {
            role: Role::Server,
            version: None,
            limits,
        }
    }

    /// A decoder of what a server sends to a client of this version.
    pub const fn client(version: ProtocolVersion, limits: Limits) -> Self {
        Self {
            role: Role::Client,
            version: Some(version),
            limits,
        }
    }

    /// The connection's version; `None` before CONNECT.
    pub const fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Which end of the connection this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The limits in use.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes the next packet from the front of `buf`; `None` if it is not complete yet.
    ///
    /// Texts and payloads are slices of the buffer, not copies.
    ///
    /// # Errors
    /// When the peer broke a rule, as early as the bytes show it.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        let Some(first_byte) = buf.first() else {
            return Ok(None);
        };
        let packet_type = PacketType::from_first_byte(*first_byte, self.version)
            .map_err(|fault| self.error(None, fault))?;
        let header = match self.header(packet_type, buf) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(None),
            Err(fault) => return Err(self.error(Some(packet_type), fault)),
        };
        if buf.len() < header.packet_bytes() {
            return Ok(None);
        }
        buf.advance(header.header_bytes);
        // PUBLISH has a way of its own: it is nearly all of the traffic, and it keeps its body.
        if packet_type == PacketType::Publish {
            return match self.publish(header, buf) {
                Ok(publish) => Ok(Some(Packet::Publish(publish))),
                Err(fault) => Err(self.error(Some(packet_type), fault)),
            };
        }
        let mut body = split_body(header, buf);
        let version = if packet_type == PacketType::Connect {
            self.split_version(&mut body)?
        } else {
            self.known_version()
        };
        match self.parse(packet_type, header, version, &body) {
            Ok(packet) => Ok(Some(packet)),
            Err(fault) => Err(self.error(Some(packet_type), fault)),
        }
    }

    /// The fixed header, once it is complete, and what it alone can break.
    fn header(&self, packet_type: PacketType, buf: &[u8]) -> Result<Option<FixedHeader>, Fault> {
        if self.version.is_none() && packet_type != PacketType::Connect {
            return Err(Fault::protocol(
                "MQTT-3.1.0-1",
                "the first packet is not a CONNECT",
            ));
        }
        let Some(header) = FixedHeader::read(buf)? else {
            return Ok(None);
        };
        let bytes_max = match packet_type {
            PacketType::Connect => self
                .limits
                .connect_bytes_max
                .min(self.limits.packet_bytes_max),
            _ => self.limits.packet_bytes_max,
        };
        if header.packet_bytes() > bytes_max {
            // [MQTT-3.2.2-15]
            return Err(Fault::new(
                ReasonCode::PacketTooLarge,
                "MQTT-3.2.2-15",
                "the packet is larger than the limit",
            ));
        }
        Ok(Some(header))
    }

    /// Takes the protocol version from the body of a CONNECT. Only the first one decides; a second CONNECT is an error
    /// that the session finds.
    fn split_version(&mut self, body: &mut Bytes) -> Result<ProtocolVersion, DecodeError> {
        let version = connect::split_protocol(body, &self.limits)?;
        self.version.get_or_insert(version);
        Ok(version)
    }

    /// The version, behind the check of the header.
    #[inline]
    fn known_version(&self) -> ProtocolVersion {
        self.version
            .expect("only CONNECT passes the check of the header before the version is known")
    }

    #[inline(always)]
    fn publish(&self, header: FixedHeader, buf: &mut BytesMut) -> Result<Publish, Fault> {
        let version = self.known_version();
        check_padding(version, header)?;
        let body = split_body(header, buf);
        Publish::decode(header.flags, version, self.role, &self.limits, body)
    }

    /// Parses the body of any packet but PUBLISH; that of CONNECT starts behind the protocol version.
    #[inline(never)]
    fn parse(
        &self,
        packet_type: PacketType,
        header: FixedHeader,
        version: ProtocolVersion,
        body: &Bytes,
    ) -> Result<Packet, Fault> {
        check_padding(version, header)?;
        let mut reader = Reader::new(body, version, &self.limits);
        let packet = match packet_type {
            PacketType::Publish => unreachable!("PUBLISH has a way of its own"),
            PacketType::Connect => Packet::Connect(Box::new(Connect::decode(&mut reader)?)),
            PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(&mut reader)?),
            PacketType::PubAck => Packet::PubAck(Ack::decode(packet_type, &mut reader)?),
            PacketType::PubRec => Packet::PubRec(Ack::decode(packet_type, &mut reader)?),
            PacketType::PubRel => Packet::PubRel(Ack::decode(packet_type, &mut reader)?),
            PacketType::PubComp => Packet::PubComp(Ack::decode(packet_type, &mut reader)?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(&mut reader)?),
            PacketType::SubAck => Packet::SubAck(SubAck::decode(&mut reader)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(&mut reader)?),
            PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(&mut reader)?),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(&mut reader)?),
            PacketType::Auth => Packet::Auth(Auth::decode(&mut reader)?),
        };
        reader.finish()?;
        self.role.check(version, &packet)?;
        Ok(packet)
    }

    #[cold]
    fn error(&self, packet: Option<PacketType>, fault: Fault) -> DecodeError {
        // Before version 5 a connection is closed without a word.
        fault.in_packet(
            packet,
            self.version.filter(|version| version.has_properties()),
        )
    }
}

/// Splits the body off the buffer, without a copy.
#[inline(always)]
fn split_body(header: FixedHeader, buf: &mut BytesMut) -> Bytes {
    // An empty body must not make the buffer a shared one.
    if header.remaining_bytes == 0 {
        return Bytes::new();
    }
    buf.split_to(header.remaining_bytes).freeze()
}

/// [MQTT-1.5.5-1] for the remaining length. Before version 5 there was no such rule, and there are clients that pad.
#[inline]
fn check_padding(version: ProtocolVersion, header: FixedHeader) -> Result<(), Fault> {
    if version.has_properties() && header.is_padded() {
        return Err(Fault::malformed(
            "MQTT-1.5.5-1",
            "the remaining length is not in its shortest form",
        ));
    }
    Ok(())
}
