//! Properties (section 2.2.2): a block of identifiers and values, version 5 only.

use bytes::Bytes;

use crate::error::Fault;
use crate::reader::Reader;
use crate::sink::{Measure, Sink};
use crate::{QoS, Text, UserProperties};

/// A property's identifier (table 2-4).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PropertyId {
    PayloadFormatIndicator = 0x01,
    MessageExpiryInterval = 0x02,
    ContentType = 0x03,
    ResponseTopic = 0x08,
    CorrelationData = 0x09,
    SubscriptionIdentifier = 0x0b,
    SessionExpiryInterval = 0x11,
    AssignedClientIdentifier = 0x12,
    ServerKeepAlive = 0x13,
    AuthenticationMethod = 0x15,
    AuthenticationData = 0x16,
    RequestProblemInformation = 0x17,
    WillDelayInterval = 0x18,
    RequestResponseInformation = 0x19,
    ResponseInformation = 0x1a,
    ServerReference = 0x1c,
    ReasonString = 0x1f,
    ReceiveMaximum = 0x21,
    TopicAliasMaximum = 0x22,
    TopicAlias = 0x23,
    MaximumQoS = 0x24,
    RetainAvailable = 0x25,
    UserProperty = 0x26,
    MaximumPacketSize = 0x27,
    WildcardSubscriptionAvailable = 0x28,
    SubscriptionIdentifierAvailable = 0x29,
    SharedSubscriptionAvailable = 0x2a,
}

/// Reads a block, property by property: the packet's file takes the value that follows each identifier.
pub(crate) struct PropertyReader<'a> {
    pub(crate) values: Reader<'a>,
    /// A bit for each identifier that occurred; the highest is 0x2a.
    seen: u64,
    user_properties: usize,
}

impl<'a> PropertyReader<'a> {
    /// Reads the block's length. The block is split off `reader`.
    pub(crate) fn open(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let bytes = reader.variable_int()?;
        Ok(Self {
            values: reader.split(bytes as usize)?,
            seen: 0,
            user_properties: 0,
        })
    }

    /// The next property's identifier; `None` at the end of the block.
    ///
    /// Only a user property may occur again, and the Subscription Identifier, whose repetition
    /// [`refuse_repeated`](Self::refuse_repeated) judges.
    pub(crate) fn next_id(&mut self) -> Result<Option<PropertyId>, Fault> {
        if self.values.is_empty() {
            return Ok(None);
        }
        let id = PropertyId::from_u8(self.values.u8()?)
            .ok_or(Fault::malformed("2.2.2.2", "unknown property"))?;
        if !matches!(
            id,
            PropertyId::UserProperty | PropertyId::SubscriptionIdentifier
        ) {
            self.refuse_repeated(id)?;
        }
        Ok(Some(id))
    }

    /// Notes that the property occurred; an error if it did so before.
    pub(crate) fn refuse_repeated(&mut self, id: PropertyId) -> Result<(), Fault> {
        let bit = 1 << id as u8;
        if self.seen & bit != 0 {
            return Err(Fault::protocol(
                "2.2.2.2",
                "a property that may occur once occurs again",
            ));
        }
        self.seen |= bit;
        Ok(())
    }

    /// The value of a user property, behind those that came before.
    pub(crate) fn user_property(&mut self, into: &mut UserProperties) -> Result<(), Fault> {
        if self.user_properties == self.values.limits.user_properties_max {
            return Err(Fault::new(
                crate::ReasonCode::QuotaExceeded,
                "2.2.2.2",
                "more user properties than the limit",
            ));
        }
        self.user_properties += 1;
        // [MQTT-1.5.7-1]
        let name = self.values.text()?;
        into.push((name, self.values.text()?));
        Ok(())
    }

    /// A byte that is 0 or 1.
    pub(crate) fn bool(&mut self) -> Result<bool, Fault> {
        match self.values.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::protocol(
                "2.2.2.2",
                "a property that is 0 or 1 has another value",
            )),
        }
    }

    /// The value of Maximum QoS: 0 or 1.
    pub(crate) fn maximum_qos(&mut self) -> Result<QoS, Fault> {
        self.bool().map(|at_least_once| {
            if at_least_once {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            }
        })
    }

    /// The value of a Subscription Identifier.
    pub(crate) fn subscription_id(&mut self) -> Result<u32, Fault> {
        match self.values.variable_int()? {
            0 => Err(Fault::protocol(
                "3.8.2.1.2",
                "a subscription identifier is 0",
            )),
            id => Ok(id),
        }
    }

    /// A number that must not be 0.
    pub(crate) fn non_zero<T, N: TryFrom<T>>(value: T) -> Result<N, Fault> {
        N::try_from(value)
            .map_err(|_| Fault::protocol("2.2.2.2", "a property that must not be 0 is 0"))
    }
}

/// The fault of a property that its packet cannot have.
pub(crate) const MISPLACED: Fault =
    Fault::malformed("2.2.2.2", "the packet cannot have this property");

/// Checks that there is no Authentication Data without a method.
pub(crate) fn check_authentication(
    method: Option<&Text>,
    data: Option<&Bytes>,
) -> Result<(), Fault> {
    if method.is_none() && data.is_some() {
        return Err(Fault::protocol(
            "3.1.2.11.10",
            "authentication data without an authentication method",
        ));
    }
    Ok(())
}

/// `Some` if `properties` say anything.
pub(crate) fn boxed<P: Default + PartialEq>(properties: P) -> Option<Box<P>> {
    (properties != P::default()).then(|| Box::new(properties))
}

/// How much may be said. The Reason String and the user properties of an answer must not make the packet larger than
/// its receiver takes ([MQTT-3.2.2-19], [MQTT-3.2.2-20], and their like for the other answers).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    Bare,
    ReasonString,
    All,
}

/// What can be written as a block of properties.
pub(crate) trait Properties {
    /// Writes each property that has not its default.
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S);
}

/// Measures a block without its length field.
pub(crate) fn block_bytes<P: Properties>(properties: Option<&P>, detail: Detail) -> usize {
    let mut measure = Measure::default();
    if let Some(properties) = properties {
        properties.put(detail, &mut measure);
    }
    // What is refused is found again by whoever measures the packet.
    measure.bytes()
}

/// Writes a block with its length.
pub(crate) fn put_block<P: Properties, S: Sink>(
    properties: Option<&P>,
    detail: Detail,
    sink: &mut S,
) {
    let Some(properties) = properties else {
        // [MQTT-2.2.2-1]
        return sink.u8(0);
    };
    put_length(block_bytes(Some(properties), detail), sink);
    properties.put(detail, sink);
}

/// Writes the length of a block.
pub(crate) fn put_length<S: Sink>(bytes: usize, sink: &mut S) {
    // A length that does not fit is refused by the sink.
    sink.variable_int(u32::try_from(bytes).unwrap_or(u32::MAX));
}

/// Writes single properties.
pub(crate) trait PutProperty: Sink {
    fn property_u8(&mut self, id: PropertyId, value: u8) {
        self.u8(id as u8);
        self.u8(value);
    }

    fn property_u16(&mut self, id: PropertyId, value: u16) {
        self.u8(id as u8);
        self.u16(value);
    }

    fn property_u32(&mut self, id: PropertyId, value: u32) {
        self.u8(id as u8);
        self.u32(value);
    }

    fn property_text(&mut self, id: PropertyId, value: Option<&Text>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.text(value);
        }
    }

    fn property_binary(&mut self, id: PropertyId, value: Option<&Bytes>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.binary(value);
        }
    }

    fn subscription_id(&mut self, value: u32) {
        if value == 0 {
            return self.refuse("a subscription identifier is 0");
        }
        self.u8(PropertyId::SubscriptionIdentifier as u8);
        self.variable_int(value);
    }

    fn user_properties(&mut self, properties: &UserProperties) {
        for (name, value) in properties {
            self.u8(PropertyId::UserProperty as u8);
            self.text(name);
            self.text(value);
        }
    }

    /// The two properties that an answer may have to do without.
    fn explanation(
        &mut self,
        detail: Detail,
        reason_string: Option<&Text>,
        user_properties: &UserProperties,
    ) {
        if detail >= Detail::ReasonString {
            self.property_text(PropertyId::ReasonString, reason_string);
        }
        if detail >= Detail::All {
            self.user_properties(user_properties);
        }
    }
}

impl<S: Sink> PutProperty for S {}

impl PropertyId {
    const fn from_u8(id: u8) -> Option<Self> {
        Some(match id {
            0x01 => Self::PayloadFormatIndicator,
            0x02 => Self::MessageExpiryInterval,
            0x03 => Self::ContentType,
            0x08 => Self::ResponseTopic,
            0x09 => Self::CorrelationData,
            0x0b => Self::SubscriptionIdentifier,
            0x11 => Self::SessionExpiryInterval,
            0x12 => Self::AssignedClientIdentifier,
            0x13 => Self::ServerKeepAlive,
            0x15 => Self::AuthenticationMethod,
            0x16 => Self::AuthenticationData,
            0x17 => Self::RequestProblemInformation,
            0x18 => Self::WillDelayInterval,
            0x19 => Self::RequestResponseInformation,
            0x1a => Self::ResponseInformation,
            0x1c => Self::ServerReference,
            0x1f => Self::ReasonString,
            0x21 => Self::ReceiveMaximum,
            0x22 => Self::TopicAliasMaximum,
            0x23 => Self::TopicAlias,
            0x24 => Self::MaximumQoS,
            0x25 => Self::RetainAvailable,
            0x26 => Self::UserProperty,
            0x27 => Self::MaximumPacketSize,
            0x28 => Self::WildcardSubscriptionAvailable,
            0x29 => Self::SubscriptionIdentifierAvailable,
            0x2a => Self::SharedSubscriptionAvailable,
            _ => return None,
        })
    }
}
