//! CONNACK (section 3.2).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, boxed,
    check_authentication, put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketType, ProtocolVersion, QoS, ReasonCode, Text, UserProperties};

/// A CONNACK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server goes on with a session it had; false with an error [MQTT-3.2.2-6]. Not sent to 3.1 clients.
    pub session_present: bool,
    /// The outcome. For versions before 5 the codec maps it to the nearest return code and back.
    pub reason: ReasonCode,
    /// Version 5 only.
    pub properties: Option<Box<ConnAckProperties>>,
}

/// The properties of CONNACK (section 3.2.2.3). `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval in seconds, if the server uses another than the client asked for.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum: QoS 1 and 2 messages that the server takes at a time; `None`: 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS; [`QoS::ExactlyOnce`] is not sent.
    pub maximum_qos: QoS,
    /// Retain Available; default true.
    pub retain_available: bool,
    /// Maximum Packet Size in bytes that the server takes; `None`: no limit beyond the protocol's.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_identifier: Option<Text>,
    /// Topic Alias Maximum: the highest alias that the server takes; default 0, none.
    pub topic_alias_maximum: u16,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available; default true.
    pub wildcard_subscription_available: bool,
    /// Subscription Identifiers Available; default true.
    pub subscription_identifiers_available: bool,
    /// Shared Subscription Available; default true.
    pub shared_subscription_available: bool,
    /// Server Keep Alive in seconds, which replaces the client's [MQTT-3.1.2-21].
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<Text>,
    /// Server Reference.
    pub server_reference: Option<Text>,
    /// Authentication Method.
    pub authentication_method: Option<Text>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

impl Default for ConnAckProperties {
    fn default() -> Self {
        Self {
            session_expiry_interval_s: None,
            receive_maximum: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_maximum: 0,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl fmt::Debug for ConnAckProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnAckProperties")
            .field("session_expiry_interval_s", &self.session_expiry_interval_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field(
                "assigned_client_identifier",
                &self.assigned_client_identifier,
            )
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field(
                "wildcard_subscription_available",
                &self.wildcard_subscription_available,
            )
            .field(
                "subscription_identifiers_available",
                &self.subscription_identifiers_available,
            )
            .field(
                "shared_subscription_available",
                &self.shared_subscription_available,
            )
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .finish_non_exhaustive()
    }
}

impl ConnAck {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let flags = reader.u8()?;
        // 3.1 has no flags here and says nothing about the byte.
        let session_present = reader.version > ProtocolVersion::V3_1 && flags & 1 != 0;
        if reader.version > ProtocolVersion::V3_1 && flags > 1 {
            return Err(Fault::malformed(
                "MQTT-3.2.2-1",
                "a reserved acknowledge flag is set",
            ));
        }
        let reason = if reader.version.has_properties() {
            reader.reason(PacketType::ConnAck)?
        } else {
            from_return_code(reader.u8()?)?
        };
        if session_present && reason.is_error() {
            return Err(Fault::protocol(
                "MQTT-3.2.2-6",
                "a session is present where the connection is refused",
            ));
        }
        let properties = if reader.version.has_properties() {
            ConnAckProperties::decode(reader)?
        } else {
            None
        };
        Ok(Self {
            session_present,
            reason,
            properties,
        })
    }
}

impl Body for ConnAck {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        // [MQTT-3.2.2-6], [MQTT-3.2.2-4 v3.1.1]
        let session_present =
            self.session_present && !self.reason.is_error() && version > ProtocolVersion::V3_1;
        // [MQTT-3.2.2-1]
        sink.u8(session_present.into());
        if version.has_properties() {
            sink.u8(self.reason.into());
            put_block(self.properties.as_deref(), detail, sink);
        } else {
            sink.u8(to_return_code(self.reason));
        }
    }
}

/// The reason for a return code of 3.1 and 3.1.1 (table 3.1 v3.1.1).
fn from_return_code(code: u8) -> Result<ReasonCode, Fault> {
    Ok(match code {
        0 => ReasonCode::Success,
        1 => ReasonCode::UnsupportedProtocolVersion,
        2 => ReasonCode::ClientIdentifierNotValid,
        3 => ReasonCode::ServerUnavailable,
        4 => ReasonCode::BadUserNameOrPassword,
        5 => ReasonCode::NotAuthorized,
        _ => {
            return Err(Fault::protocol(
                "3.2.2.3 v3.1.1",
                "a CONNACK return code is reserved",
            ));
        }
    })
}

/// The nearest return code of 3.1 and 3.1.1. What may pass by itself is 3, what will not is 5.
const fn to_return_code(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => 4,
        ReasonCode::NotAuthorized
        | ReasonCode::Banned
        | ReasonCode::TopicNameInvalid
        | ReasonCode::PacketTooLarge
        | ReasonCode::PayloadFormatInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QoSNotSupported => 5,
        reason if reason.is_error() => 3,
        _ => 0,
    }
}

impl ConnAckProperties {
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
                self.session_expiry_interval_s = Some(block.values.u32()?)
            }
            PropertyId::ReceiveMaximum => {
                self.receive_maximum = Some(PropertyReader::non_zero(block.values.u16()?)?)
            }
            PropertyId::MaximumQoS => self.maximum_qos = block.maximum_qos()?,
            PropertyId::RetainAvailable => self.retain_available = block.bool()?,
            PropertyId::MaximumPacketSize => {
                self.maximum_packet_size = Some(PropertyReader::non_zero(block.values.u32()?)?);
            }
            PropertyId::AssignedClientIdentifier => {
                self.assigned_client_identifier = Some(block.values.text()?)
            }
            PropertyId::TopicAliasMaximum => self.topic_alias_maximum = block.values.u16()?,
            PropertyId::ReasonString => self.reason_string = Some(block.values.text()?),
            PropertyId::UserProperty => block.user_property(&mut self.user_properties)?,
            PropertyId::WildcardSubscriptionAvailable => {
                self.wildcard_subscription_available = block.bool()?
            }
            PropertyId::SubscriptionIdentifierAvailable => {
                self.subscription_identifiers_available = block.bool()?
            }
            PropertyId::SharedSubscriptionAvailable => {
                self.shared_subscription_available = block.bool()?
            }
            PropertyId::ServerKeepAlive => self.server_keep_alive_s = Some(block.values.u16()?),
            PropertyId::ResponseInformation => {
                self.response_information = Some(block.values.text()?)
            }
            PropertyId::ServerReference => self.server_reference = Some(block.values.text()?),
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

impl Properties for ConnAckProperties {
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S) {
        if let Some(seconds) = self.session_expiry_interval_s {
            sink.property_u32(PropertyId::SessionExpiryInterval, seconds);
        }
        if let Some(maximum) = self.receive_maximum {
            sink.property_u16(PropertyId::ReceiveMaximum, maximum.get());
        }
        if self.maximum_qos < QoS::ExactlyOnce {
            sink.property_u8(PropertyId::MaximumQoS, self.maximum_qos.into());
        }
        if let Some(maximum) = self.maximum_packet_size {
            sink.property_u32(PropertyId::MaximumPacketSize, maximum.get());
        }
        sink.property_text(
            PropertyId::AssignedClientIdentifier,
            self.assigned_client_identifier.as_ref(),
        );
        if self.topic_alias_maximum > 0 {
            sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
        }
        for (id, available) in [
            (PropertyId::RetainAvailable, self.retain_available),
            (
                PropertyId::WildcardSubscriptionAvailable,
                self.wildcard_subscription_available,
            ),
            (
                PropertyId::SubscriptionIdentifierAvailable,
                self.subscription_identifiers_available,
            ),
            (
                PropertyId::SharedSubscriptionAvailable,
                self.shared_subscription_available,
            ),
        ] {
            if !available {
                sink.property_u8(id, 0);
            }
        }
        if let Some(seconds) = self.server_keep_alive_s {
            sink.property_u16(PropertyId::ServerKeepAlive, seconds);
        }
        sink.property_text(
            PropertyId::ResponseInformation,
            self.response_information.as_ref(),
        );
        sink.property_text(PropertyId::ServerReference, self.server_reference.as_ref());
        sink.property_text(
            PropertyId::AuthenticationMethod,
            self.authentication_method.as_ref(),
        );
        sink.property_binary(
            PropertyId::AuthenticationData,
            self.authentication_data.as_ref(),
        );
        sink.explanation(detail, self.reason_string.as_ref(), &self.user_properties);
    }
}
