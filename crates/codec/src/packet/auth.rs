//! AUTH (section 3.15), version 5 only.

use std::fmt;

use bytes::Bytes;

use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketType, ProtocolVersion, ReasonCode, Text, UserProperties};

/// An AUTH packet: a step of enhanced authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// [`Success`](ReasonCode::Success), [`ContinueAuthentication`](ReasonCode::ContinueAuthentication) or
    /// [`ReAuthenticate`](ReasonCode::ReAuthenticate).
    pub reason: ReasonCode,
    /// `None` only with [`ReasonCode::Success`].
    pub properties: Option<Box<AuthProperties>>,
}

/// The properties of AUTH. `Debug` does not show the authentication data.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthProperties {
    /// Authentication Method: required wherever there are properties (section 3.15.2.2.2).
    pub authentication_method: Text,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason String, for people.
    pub reason_string: Option<Text>,
    /// User properties, in order.
    pub user_properties: UserProperties,
}

impl fmt::Debug for AuthProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthProperties")
            .field("authentication_method", &self.authentication_method)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish_non_exhaustive()
    }
}

impl Auth {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        // Section 3.15.2.1: an empty AUTH says success.
        if reader.is_empty() {
            return Ok(Self {
                reason: ReasonCode::Success,
                properties: None,
            });
        }
        let reason = reader.reason(PacketType::Auth)?;
        let properties = AuthProperties::decode(reader)?;
        Ok(Self {
            reason,
            properties: Some(Box::new(properties)),
        })
    }
}

impl Body for Auth {
    fn put<S: Sink>(&self, _: ProtocolVersion, detail: Detail, sink: &mut S) {
        match &self.properties {
            None if self.reason == ReasonCode::Success => {}
            None => sink.refuse("an AUTH has no authentication method"),
            Some(properties) => {
                sink.u8(self.reason.into());
                put_block(Some(&**properties), detail, sink);
            }
        }
    }
}

impl AuthProperties {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let (mut authentication_method, mut authentication_data) = (None, None);
        let (mut reason_string, mut user_properties) = (None, Vec::new());
        let mut block = PropertyReader::open(reader)?;
        while let Some(id) = block.next_id()? {
            match id {
                PropertyId::AuthenticationMethod => {
                    authentication_method = Some(block.values.text()?)
                }
                PropertyId::AuthenticationData => {
                    authentication_data = Some(block.values.binary()?)
                }
                PropertyId::ReasonString => reason_string = Some(block.values.text()?),
                PropertyId::UserProperty => block.user_property(&mut user_properties)?,
                _ => return Err(MISPLACED),
            }
        }
        let authentication_method = authentication_method.ok_or(Fault::protocol(
            "3.15.2.2.2",
            "an AUTH has no authentication method",
        ))?;
        Ok(Self {
            authentication_method,
            authentication_data,
            reason_string,
            user_properties,
        })
    }
}

impl Properties for AuthProperties {
    fn put<S: Sink>(&self, detail: Detail, sink: &mut S) {
        sink.property_text(
            PropertyId::AuthenticationMethod,
            Some(&self.authentication_method),
        );
        sink.property_binary(
            PropertyId::AuthenticationData,
            self.authentication_data.as_ref(),
        );
        sink.explanation(detail, self.reason_string.as_ref(), &self.user_properties);
    }
}
