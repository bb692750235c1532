//! Incoming messages: topic aliases resolved, QoS 2 repeats left out.

use std::collections::HashSet;
use std::num::NonZeroU16;

use bytes::Bytes;
use magpie_codec::{
    Ack, MessageProperties, Packet, PacketId, PacketType, Publish, QoS, ReasonCode, TopicName,
};

use crate::{Acknowledge, Error};

/// An Application Message that the server delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The topic, also when the packet had an alias only.
    pub topic: TopicName,
    /// The payload.
    pub payload: Bytes,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// DUP.
    pub dup: bool,
    /// The Packet Identifier; `Some` exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// The Subscription Identifiers of the matching subscriptions.
    pub subscription_ids: Vec<u32>,
    /// The message's properties; `None` when all have their defaults.
    pub properties: Option<Box<MessageProperties>>,
}

/// What the client must remember about what it receives. Bounded by the Packet Identifiers and the Topic Alias Maximum.
pub(crate) struct Receiving {
    acknowledge: Acknowledge,
    /// QoS 2 messages that the user was given and that the server has not released.
    unreleased: HashSet<PacketId>,
    /// By alias - 1; as many as the Topic Alias Maximum.
    aliases: Vec<Option<TopicName>>,
}

impl Receiving {
    pub(crate) fn new(acknowledge: Acknowledge, topic_alias_maximum: u16) -> Self {
        Self {
            acknowledge,
            unreleased: HashSet::new(),
            aliases: vec![None; usize::from(topic_alias_maximum)],
        }
    }

    /// Takes a PUBLISH; the message if it is new, and the answer if it is due.
    pub(crate) fn handle_publish(
        &mut self,
        publish: Publish,
    ) -> Result<(Option<Incoming>, Option<Packet>), Error> {
        let topic = self.topic(publish.topic, publish.topic_alias)?;
        let incoming = Incoming {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id,
            subscription_ids: publish.subscription_ids.to_vec(),
            properties: publish.properties,
        };
        // [MQTT-4.3.3-10]: until PUBREL, the identifier stands for the message that it came with.
        if let (QoS::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id)
            && !self.unreleased.insert(packet_id)
        {
            return Ok((None, acknowledgement(&incoming, ReasonCode::Success)));
        }
        let answer = match self.acknowledge {
            Acknowledge::Automatically => acknowledgement(&incoming, ReasonCode::Success),
            Acknowledge::ByHand => None,
        };
        Ok((Some(incoming), answer))
    }

    /// The answer to PUBREL [MQTT-4.3.3-11].
    pub(crate) fn handle_pubrel(&mut self, pubrel: &Ack) -> Packet {
        let reason = if self.unreleased.remove(&pubrel.packet_id) {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        Packet::PubComp(Ack::new(pubrel.packet_id, reason))
    }

    /// Forgets a QoS 2 message that the user refused: there will be no PUBREL.
    pub(crate) fn handle_refused(&mut self, packet_id: PacketId) {
        self.unreleased.remove(&packet_id);
    }

    fn topic(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
    ) -> Result<TopicName, Error> {
        let unexpected = Error::Unexpected(PacketType::Publish);
        let Some(alias) = alias else {
            return topic.ok_or(unexpected);
        };
        let Some(known) = self.aliases.get_mut(usize::from(alias.get()) - 1) else {
            return Err(unexpected);
        };
        if let Some(topic) = topic {
            *known = Some(topic.compact());
        }
        known.clone().ok_or(unexpected)
    }
}

/// PUBACK or PUBREC; `None` at QoS 0.
pub(crate) fn acknowledgement(incoming: &Incoming, reason: ReasonCode) -> Option<Packet> {
    let ack = Ack::new(incoming.packet_id?, reason);
    match incoming.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(Packet::PubAck(ack)),
        QoS::ExactlyOnce => Some(Packet::PubRec(ack)),
    }
}
