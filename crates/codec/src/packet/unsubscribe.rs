//! UNSUBSCRIBE (section 3.10).

use super::subscribe::check_filter_count;
use crate::encoder::Body;
use crate::error::Fault;
use crate::property::{
    Detail, MISPLACED, Properties, PropertyId, PropertyReader, PutProperty, put_block,
};
use crate::reader::Reader;
use crate::sink::Sink;
use crate::{PacketId, ProtocolVersion, TopicFilter, UserProperties};

/// An UNSUBSCRIBE packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// User properties, in order; version 5 only.
    pub user_properties: UserProperties,
    /// The filters, in order, at least one [MQTT-3.10.3-2].
    pub filters: Vec<TopicFilter>,
}

impl Unsubscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let packet_id = reader.packet_id()?;
        let user_properties = if reader.version.has_properties() {
            read_properties(reader)?
        } else {
            Vec::new()
        };
        let mut filters = Vec::new();
        while !reader.is_empty() {
            check_filter_count(filters.len(), reader)?;
            filters.push(reader.topic_filter()?);
        }
        // [MQTT-3.10.3-2 v3.1.1]
        if filters.is_empty() {
            return Err(Fault::protocol(
                "MQTT-3.10.3-2",
                "an UNSUBSCRIBE has no topic filter",
            ));
        }
        Ok(Self {
            packet_id,
            user_properties,
            filters,
        })
    }
}

fn read_properties(reader: &mut Reader<'_>) -> Result<UserProperties, Fault> {
    let mut user_properties = Vec::new();
    let mut block = PropertyReader::open(reader)?;
    while let Some(id) = block.next_id()? {
        match id {
            PropertyId::UserProperty => block.user_property(&mut user_properties)?,
            _ => return Err(MISPLACED),
        }
    }
    Ok(user_properties)
}

impl Body for Unsubscribe {
    fn put<S: Sink>(&self, version: ProtocolVersion, detail: Detail, sink: &mut S) {
        if self.filters.is_empty() {
            return sink.refuse("an UNSUBSCRIBE has no topic filter");
        }
        sink.u16(self.packet_id.number());
        if version.has_properties() {
            put_block(Some(self), detail, sink);
        }
        for filter in &self.filters {
            sink.text(filter.as_text());
        }
    }
}

impl Properties for Unsubscribe {
    fn put<S: Sink>(&self, _: Detail, sink: &mut S) {
        sink.user_properties(&self.user_properties);
    }
}
