//! The Will Message: what is published when a client does not say goodbye.

use std::collections::VecDeque;

use bytes::Bytes;
use magpie_codec::{MessageProperties, ProtocolVersion, ReasonCode, Text, TopicName, Will};

use crate::{CloseCause, Limits, Note, Output};

/// Checks the Will of a CONNECT, and makes it ready to be kept. The error goes into CONNACK.
pub(crate) fn admit(
    will: Will,
    version: ProtocolVersion,
    limits: &Limits,
    outputs: &mut VecDeque<Output>,
) -> Result<Box<Will>, ReasonCode> {
    // [MQTT-3.2.2-12]
    if will.qos > limits.qos_max {
        return Err(ReasonCode::QoSNotSupported);
    }
    if !limits.admits_levels(will.topic.as_str()) {
        return Err(ReasonCode::TopicNameInvalid);
    }
    limits.check_payload(&will.payload, will.properties.as_deref())?;
    let mut will = compact(will);
    if will.retain && !limits.retain_available {
        // [MQTT-3.2.2-13]
        if version.has_properties() {
            return Err(ReasonCode::RetainNotSupported);
        }
        will.retain = false;
        outputs.push_back(Output::Note(Note::WillRetainIgnored));
    }
    Ok(Box::new(will))
}

/// Whether a connection that ends like this takes its Will along [MQTT-3.1.2-8], [MQTT-3.1.2-10].
pub(crate) fn is_discarded_by(cause: CloseCause) -> bool {
    // [MQTT-3.14.4-3], [MQTT-3.14.4-3 v3.1.1], [MQTT-3.1.2-10 v3.1.1]: only a normal disconnection discards it; 0x04 asks for it.
    cause == CloseCause::ByClient(ReasonCode::Success)
}

/// The Will in allocations of its own: it stays as long as the connection, the read buffer must not.
fn compact(will: Will) -> Will {
    Will {
        topic: will.topic.compact(),
        payload: Bytes::copy_from_slice(&will.payload),
        properties: will
            .properties
            .map(|properties| Box::new(compact_properties(*properties))),
        ..will
    }
}

fn compact_properties(properties: MessageProperties) -> MessageProperties {
    let user_properties = properties.user_properties.iter();
    MessageProperties {
        content_type: properties.content_type.as_ref().map(Text::compact),
        response_topic: properties.response_topic.as_ref().map(TopicName::compact),
        correlation_data: properties
            .correlation_data
            .as_deref()
            .map(Bytes::copy_from_slice),
        user_properties: user_properties
            .map(|(name, value)| (name.compact(), value.compact()))
            .collect(),
        ..properties
    }
}
