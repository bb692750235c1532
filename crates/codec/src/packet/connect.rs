//! CONNECT (section 3.1).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf, Bytes};

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, boxed,
    check_authentication, put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{
    DecodeError, Limits, MessageProperties, PacketType, ProtocolVersion, QoS, ReasonCode, Text,
    TopicName, UserProperties,
};

/// A CONNECT packet. `Debug` shows neither password nor authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// The version that the client speaks from here on.
    pub version: ProtocolVersion,
    /// Client Identifier; may be empty, and whether the server then assigns one or refuses is not the codec's question.
    pub client_id: Text,
    /// Clean Start; before version 5 Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// User Name.
    pub username: Option<Text>,
    /// Password. Before version 5 only with a user name [MQTT-3.1.2-22 v3.1.1].
    pub password: Option<Bytes>,
    /// The Will.
    pub will: Option<Box<Will>>,
    /// Version 5 only.
    pub properties: Option<Box<ConnectProperties>>,
}

/// The Will Message of a CONNECT and how it is to be published. `Debug` shows the payload's size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Will {
    /// Will Topic.
    pub topic: TopicName,
    /// Will Payload.
    pub payload: Bytes,
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval in seconds; default 0. Version 5 only.
    pub delay_interval_s: u32,
    /// The properties of the message; version 5 only.
    pub properties: Option<Box<MessageProperties>>,
}

/// The properties of CONNECT (section 3.1.2.11). `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; default 0: ends with the connection; `u32::MAX`: never.
    pub session_expiry_interval_s: u32,
    /// Receive Maximum: QoS 1 and 2 messages that the client takes at a time; `None`: 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes that the client takes; `None`: no limit beyond the protocol's.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum: the highest alias that the client takes; default 0, none.
    pub topic_alias_maximum: u16,
    /// Request Response Information; default false.
    pub request_response_information: bool,
    /// Request Problem Information; default true. If false, Reason Strings and user properties may go out only with
    /// PUBLISH, CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub request_problem_information: bool,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Authentication Method, which asks for enhanced authentication.
    pub authentication_method: Option<Text>,
    /// Authentication Data; only with a method.
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_interval_s: 0,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("username", &self.username)
            .field("has_password", &self.password.is_some())
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Will {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("delay_interval_s", &self.delay_interval_s)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field(
                "request_response_information",
                &self.request_response_information,
            )
            .field(
                "request_problem_information",
                &self.request_problem_information,
            )
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .finish_non_exhaustive()
    }
}

const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

/// Splits protocol name and level off a CONNECT's body: what follows can be read only in its version.
pub(crate) fn split_protocol(
    body: &mut Bytes,
    limits: &Limits,
) -> Result<ProtocolVersion, DecodeError> {
    // These two fields are the same in all versions.
    let mut reader = Reader::new(body, ProtocolVersion::V5, limits);
    let (name, level) = match reader.binary().and_then(|name| Ok((name, reader.u8()?))) {
        Ok(fields) => fields,
        Err(fault) => return Err(fault.in_packet(Some(PacketType::Connect), None)),
    };
    let version = match (&*name, level) {
        (b"MQTT", 5) => ProtocolVersion::V5,
        (b"MQTT", 4) => ProtocolVersion::V3_1_1,
        (b"MQIsdp", 3) => ProtocolVersion::V3_1,
        (b"MQTT", level) => return Err(unsupported(ProtocolVersion::V3_1_1, level)),
        (b"MQIsdp", level) => return Err(unsupported(ProtocolVersion::V3_1, level)),
        // [MQTT-3.1.2-1 v3.1.1]
        _ => {
            let reason = ReasonCode::UnsupportedProtocolVersion;
            let fault = Fault::new(reason, "MQTT-3.1.2-1", "the protocol name is not MQTT's");
            // Whoever this is does not speak MQTT.
            return Err(fault.in_packet(Some(PacketType::Connect), None));
        }
    };
    let start = reader.position();
    body.advance(start);
    Ok(version)
}

/// A known name with an unknown level [MQTT-3.1.2-2], [MQTT-3.1.2-2 v3.1.1]. Whoever is newer than version 5 is expected
/// to read its CONNACK, everybody else that of the oldest version with this name. Bridges of some brokers say what they
/// are by the highest bit of the level.
fn unsupported(named: ProtocolVersion, level: u8) -> DecodeError {
    let is_newer = (ProtocolVersion::V5.level() + 1..0x80).contains(&level);
    let answer_in = match named {
        ProtocolVersion::V3_1 => ProtocolVersion::V3_1,
        _ if is_newer => ProtocolVersion::V5,
        _ => ProtocolVersion::V3_1_1,
    };
    let reason = ReasonCode::UnsupportedProtocolVersion;
    let fault = Fault::new(
        reason,
        "MQTT-3.1.2-2",
        "the protocol level is not supported",
    );
    fault.in_packet(Some(PacketType::Connect), Some(answer_in))
}

impl Connect {
    /// Parses what follows the protocol version.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let version = reader.version;
        let flags = reader.u8()?;
        check_flags(version, flags)?;
        let keep_alive_s = reader.u16()?;
        let properties = if version.has_properties() {
            ConnectProperties::decode(reader)?
        } else {
            None
        };
        // [MQTT-3.1.3-1], [MQTT-3.1.3-3], [MQTT-3.1.3-4], [MQTT-3.1.3-1 v3.1.1], [MQTT-3.1.3-3 v3.1.1],
        // [MQTT-3.1.3-4 v3.1.1]: the order of the fields is that of this function.
        let client_id = reader.text()?;
        // [MQTT-3.1.2-9], [MQTT-3.1.2-9 v3.1.1]
        let will = if flags & WILL != 0 {
            Some(Box::new(Will::decode(flags, reader)?))
        } else {
            None
        };
        // Section 3.1 of 3.1: the flag may be set where the field is missing, for the sake of still older clients.
        let has = |flag: u8, reader: &Reader<'_>| {
            flags & flag != 0 && !(version == ProtocolVersion::V3_1 && reader.is_empty())
        };
        // [MQTT-3.1.2-16], [MQTT-3.1.2-17], [MQTT-3.1.3-12], [MQTT-3.1.2-18 v3.1.1], [MQTT-3.1.2-19 v3.1.1],
        // [MQTT-3.1.3-11 v3.1.1]
        let username = if has(USERNAME, reader) {
            Some(reader.text()?)
        } else {
            None
        };
        // [MQTT-3.1.2-18], [MQTT-3.1.2-19], [MQTT-3.1.2-20 v3.1.1], [MQTT-3.1.2-21 v3.1.1]
        let password = if has(PASSWORD, reader) {
            Some(reader.binary()?)
        } else {
            None
        };
        Ok(Self {
            version,
            client_id,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s,
            username,
            password,
            will,
            properties,
        })
    }
}

fn check_flags(version: ProtocolVersion, flags: u8) -> Result<(), Fault> {
    // 3.1 leaves the reserved bit open, as it does the will's bits without a will.
    let is_lenient = version == ProtocolVersion::V3_1;
    // [MQTT-3.1.2-3 v3.1.1]
    if flags & 1 != 0 && !is_lenient {
        return Err(Fault::malformed(
            "MQTT-3.1.2-3",
            "the reserved connect flag is set",
        ));
    }
    // [MQTT-3.1.2-11 v3.1.1], [MQTT-3.1.2-13 v3.1.1], [MQTT-3.1.2-15 v3.1.1]
    if flags & WILL == 0 && !is_lenient {
        if will_qos_bits(flags) != 0 {
            return Err(Fault::malformed(
                "MQTT-3.1.2-11",
                "a CONNECT without will has a will QoS",
            ));
        }
        if flags & WILL_RETAIN != 0 {
            return Err(Fault::malformed(
                "MQTT-3.1.2-13",
                "a CONNECT without will has will retain",
            ));
        }
    }
    if !version.has_properties() && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return Err(Fault::malformed(
            "MQTT-3.1.2-22 v3.1.1",
            "a CONNECT has a password but no user name",
        ));
    }
    Ok(())
}

const fn will_qos_bits(flags: u8) -> u8 {
    flags >> 3 & 0b11
}

impl Body for Connect {
    fn put<S: Sink>(&self, _: ProtocolVersion, detail: Detail, sink: &mut S) {
        let version = self.version;
        if !version.has_properties() && self.password.is_some() && self.username.is_none() {
            return sink.refuse("a CONNECT before version 5 has a password but no user name");
        }
        sink.binary(version.name().as_bytes());
        sink.u8(version.level());
        sink.u8(self.flags());
        sink.u16(self.keep_alive_s);
        if version.has_properties() {
            put_block(self.properties.as_deref(), detail, sink);
        }
        sink.text(&self.client_id);
        if let Some(will) = &self.will {
            if version.has_properties() {
                put_block(Some(&**will), detail, sink);
            }
            sink.text(will.topic.as_text());
            sink.binary(&will.payload);
        }
        if let Some(username) = &self.username {
            sink.text(username);
        }
        if let Some(password) = &self.password {
            sink.binary(password);
        }
    }
}

impl Connect {
    fn flags(&self) -> u8 {
        let mut flags = 0;
        for (flag, is_set) in [
            (CLEAN_START, self.clean_start),
            (USERNAME, self.username.is_some()),
            (PASSWORD, self.password.is_some()),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << 3 | if will.retain { WILL_RETAIN } else { 0 };
        }
        flags
    }
}

impl Will {
    fn decode(flags: u8, reader: &mut Reader<'_>) -> Result<Self, Fault> {
        // [MQTT-3.1.2-14 v3.1.1]
        let qos = QoS::from_u8(will_qos_bits(flags))
            .ok_or(Fault::malformed("MQTT-3.1.2-12", "a will has QoS 3"))?;
        let (delay_interval_s, properties) = if reader.version.has_properties() {
            Self::read_properties(reader)?
        } else {
            (0, None)
        };
        Ok(Self {
            // [MQTT-3.1.3-11], [MQTT-3.1.3-10 v3.1.1]
            topic: reader.topic_name()?,
            payload: reader.binary()?,
            qos,
            retain: flags & WILL_RETAIN != 0,
            delay_interval_s,
            properties,
        })
    }

    /// The delay interval, and the properties of the message.
    fn read_properties(
        reader: &mut Reader<'_>,
    ) -> Result<(u32, Option<Box<MessageProperties>>), Fault> {
        let mut delay_interval_s = 0;
        let mut properties = MessageProperties::default();
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            if id == PropertyId::WillDelayInterval {
                delay_interval_s = block.values.u32()?;
            } else if !properties.read(id, &mut block)? {
                return Err(MISPLACED);
            }
        }
        Ok((delay_interval_s, boxed(properties)))
    }
}

impl Properties for Will {
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S) {
        if self.delay_interval_s > 0 {
            sink.property_u32(PropertyId::WillDelayInterval, self.delay_interval_s);
        }
        if let Some(properties) = &self.properties {
            properties.put(detail, sink);
        }
    }
}

impl ConnectProperties {
    fn decode(reader: &mut Reader<'_>) -> Result<Option<Box<Self>>, Fault> {
        let mut properties = Self::default();
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            properties.read(id, &mut block)?;
        }
        check_authentication(
            properties.authentication_method.as_ref(),
            properties.authentication_data.as_ref(),
        )?;
        Ok(boxed(properties))
    }

    fn read(&mut self, id: PropertyId, block: &mut PropertyReader<'_>) -> Result<(), Fault> {
        match id {
            PropertyId::SessionExpiryInterval => {
                self.session_expiry_interval_s = block.values.u32()?
            }
            PropertyId::ReceiveMaximum => {
                self.receive_maximum = Some(PropertyReader::non_zero(block.values.u16()?)?)
            }
            PropertyId::MaximumPacketSize => {
                self.maximum_packet_size = Some(PropertyReader::non_zero(block.values.u32()?)?);
            }
            PropertyId::TopicAliasMaximum => self.topic_alias_maximum = block.values.u16()?,
            PropertyId::RequestResponseInformation => {
                self.request_response_information = block.bool()?
            }
            PropertyId::RequestProblemInformation => {
                self.request_problem_information = block.bool()?
            }
            PropertyId::UserProperty => block.user_property(&mut self.user_properties)?,
            PropertyId::AuthenticationMethod => {
                self.authentication_method = Some(block.values.text()?)
            }
            PropertyId::AuthenticationData => {
                self.authentication_data = Some(block.values.binary()?)
            }
            _ => return Err(MISPLACED),
        }
        Ok(())
    }
}

impl Properties for ConnectProperties {
    fn put<S: Sink>(&self, _: Detail, sink: &mut S) {
        if self.session_expiry_interval_s > 0 {
            sink.property_u32(
                PropertyId::SessionExpiryInterval,
                self.session_expiry_interval_s,
            );
        }
        if let Some(maximum) = self.receive_maximum {
            sink.property_u16(PropertyId::ReceiveMaximum, maximum.get());
        }
        if let Some(maximum) = self.maximum_packet_size {
            sink.property_u32(PropertyId::MaximumPacketSize, maximum.get());
        }
        if self.topic_alias_maximum > 0 {
            sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        }
        if self.request_response_information {
            sink.property_u8(PropertyId::RequestResponseInformation, 1);
        }
        if !self.request_problem_information {
            sink.property_u8(PropertyId::RequestProblemInformation, 0);
        }
        sink.user_properties(&self.user_properties);
        sink.property_text(
            PropertyId::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        sink.property_binary(
            PropertyId::AuthenticationData,
            self.authentication_data.as_ref(),
        );
    }
}
