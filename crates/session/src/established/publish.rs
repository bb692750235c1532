//! Messages from the client: PUBLISH, and PUBREL at QoS 2.
//!
//! ```text
//! QoS 1   PUBLISH ──► Output::Publish ──answer──► PUBACK
//! QoS 2   PUBLISH ──► Output::Publish ──answer──► PUBREC  (id received)  PUBREL ──► PUBCOMP  (id free)
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Ack, Message, Packet, PacketId, PacketType, Publish, QoS, ReasonCode};

use super::Established;
use crate::reason::carried_by;
use crate::ticket::Subject;
use crate::violation::Violation;
use crate::{CloseCause, Note, Output, Ticket};

/// A PUBLISH that the client waits for an answer to.
#[derive(Debug)]
pub(crate) struct OpenPublish {
    packet_id: PacketId,
    /// 1 or 2.
    qos: QoS,
    /// Whether it took a place of our Receive Maximum; a repeat does not.
    counted: bool,
    pub(crate) asked_at: Instant,
}

/// A PUBREL that the node has not confirmed yet.
#[derive(Debug)]
pub(crate) struct OpenRelease {
    number: u32,
    packet_id: PacketId,
    pub(crate) asked_at: Instant,
}

impl Established {
    pub(crate) fn handle_publish(
        &mut self,
        publish: Publish,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let retain = self.admit(&publish, outputs)?;
        let topic = self
            .aliases_in
            .resolve(publish.topic, publish.topic_alias)?;
        if !self.limits.admits_levels(topic.as_str()) {
            return Err(
                Violation::new(ReasonCode::TopicNameInvalid, "topic has too many levels").into(),
            );
        }
        if let Err(reason) = self
            .limits
            .check_payload(&publish.payload, publish.properties.as_deref())
        {
            return self.refuse(publish.packet_id, publish.qos, reason, now, outputs);
        }
        let ticket = match publish.packet_id {
            None => None,
            Some(packet_id) => match self.open(packet_id, publish.qos, now, outputs)? {
                Some(ticket) => Some(ticket),
                None => return Ok(()),
            },
        };
        // [MQTT-3.3.1-3], [MQTT-3.3.1-3 v3.1.1]: DUP stays behind.
        let message = Message {
            topic,
            payload: publish.payload,
            properties: publish.properties,
        };
        outputs.push_back(Output::Publish {
            ticket,
            qos: publish.qos,
            retain,
            packet_id: publish
                .packet_id
                .filter(|_| publish.qos == QoS::ExactlyOnce),
            message: Arc::new(message),
        });
        Ok(())
    }

    /// Checks what the client was told in CONNACK; gives the RETAIN flag as it is to be taken.
    fn admit(&self, publish: &Publish, outputs: &mut VecDeque<Output>) -> Result<bool, Violation> {
        // [MQTT-3.2.2-11]
        if publish.qos > self.limits.qos_max {
            return Err(Violation::new(
                ReasonCode::QoSNotSupported,
                "QoS above the maximum",
            ));
        }
        // [MQTT-3.3.4-6]
        if !publish.subscription_ids.is_empty() {
            return Err(Violation::protocol_error(
                "subscription identifier from a client",
            ));
        }
        if !publish.retain || self.limits.retain_available {
            return Ok(publish.retain);
        }
        // [MQTT-3.2.2-14]: the client was told that RETAIN is not available, unless it is too old.
        if self.terms.version.has_properties() {
            return Err(Violation::new(
                ReasonCode::RetainNotSupported,
                "RETAIN is not available",
            ));
        }
        outputs.push_back(Output::Note(Note::RetainIgnored));
        Ok(false)
    }

    /// Answers a PUBLISH whose payload is not what it claims to be; at QoS 0 only DISCONNECT can.
    fn refuse(
        &mut self,
        packet_id: Option<PacketId>,
        qos: QoS,
        reason: ReasonCode,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let Some(packet_id) = packet_id else {
            return Err(Violation::new(reason, "payload is not UTF-8, as it claims to be").into());
        };
        let refused = OpenPublish {
            packet_id,
            qos,
            counted: false,
            asked_at: now,
        };
        self.publishes.push_answered(refused, Err(reason));
        self.acknowledge(outputs)
    }

    /// Notes a PUBLISH of QoS 1 or 2; gives no ticket if the node need not be asked.
    fn open(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<Option<Ticket>, CloseCause> {
        let mut publish = OpenPublish {
            packet_id,
            qos,
            counted: false,
            asked_at: now,
        };
        if qos == QoS::ExactlyOnce {
            // [MQTT-4.3.3-2 v3.1.1]
            if self.publishing.contains(packet_id) {
                // A repeat while the first is under way: its PUBREC will answer both.
                return Ok(None);
            }
            if self.session.received.contains(packet_id) {
                // [MQTT-4.3.3-10]: until PUBREL the same message, acknowledged again and not passed on again.
                self.publishes
                    .push_answered(publish, Ok(ReasonCode::Success));
                return self.acknowledge(outputs).map(|()| None);
            }
        }
        // [MQTT-4.3.2-5], [MQTT-4.3.2-2 v3.1.1]: at QoS 1 every PUBLISH is a new message.
        self.count()?;
        publish.counted = true;
        if qos == QoS::ExactlyOnce {
            self.publishing.insert(packet_id);
        }
        let number = self.publishes.ask(publish);
        Ok(Some(Ticket {
            subject: Subject::Publish,
            number,
        }))
    }

    /// Takes a place of our Receive Maximum.
    fn count(&mut self) -> Result<(), Violation> {
        // [MQTT-3.3.4-7]. Older clients were told no maximum; `wants_packets` holds them back.
        if self.terms.version.has_properties() {
            if self.receive_quota_used >= self.receive_maximum() {
                return Err(Violation::new(
                    ReasonCode::ReceiveMaximumExceeded,
                    "receive maximum exceeded",
                ));
            }
            self.receive_quota_used += 1;
        }
        Ok(())
    }

    pub(crate) fn handle_published(
        &mut self,
        number: u32,
        outcome: Result<ReasonCode, ReasonCode>,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        // A refusal without an error code would read as success.
        let outcome = match outcome {
            // PUBREC has the same table.
            Ok(reason) | Err(reason) if reason.is_error() => {
                Err(carried_by(PacketType::PubAck, reason))
            }
            Ok(reason) => Ok(carried_by(PacketType::PubAck, reason)),
            Err(_) => Err(ReasonCode::UnspecifiedError),
        };
        let Some(publish) = self.publishes.answer(number, outcome) else {
            return Ok(());
        };
        if publish.qos == QoS::ExactlyOnce {
            let packet_id = publish.packet_id;
            self.publishing.remove(packet_id);
            // [MQTT-4.3.3-9]: after an error the id stands for nothing.
            if outcome.is_ok() {
                // From here on the id stands for this message, also if the connection ends before PUBREC is sent.
                self.session.received.insert(packet_id);
            }
        }
        self.acknowledge(outputs)
    }

    /// Sends the acknowledgements that are no longer held back by an earlier one [MQTT-4.6.0-2], [MQTT-4.6.0-3],
    /// [MQTT-4.6.0-2 v3.1.1], [MQTT-4.6.0-3 v3.1.1].
    fn acknowledge(&mut self, outputs: &mut VecDeque<Output>) -> Result<(), CloseCause> {
        while let Some((publish, outcome)) = self.publishes.pop() {
            let reason = match outcome {
                Ok(reason) => reason,
                // [MQTT-3.3.5-2 v3.1.1]: acknowledge or close; an acknowledgement would be a lie.
                Err(reason) if !self.terms.version.has_properties() => {
                    return Err(CloseCause::PublishRefused(reason));
                }
                Err(reason) => reason,
            };
            // [MQTT-2.2.1-5], [MQTT-3.3.4-1], [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-2.3.1-6 v3.1.1],
            // [MQTT-3.3.4-1 v3.1.1], [MQTT-4.3.2-2 v3.1.1], [MQTT-4.3.3-2 v3.1.1]: sent once the node owns the
            // message.
            let ack = Ack::new(publish.packet_id, reason);
            let is_last = publish.qos == QoS::AtLeastOnce || reason.is_error();
            if is_last && publish.counted {
                self.uncount();
            }
            outputs.push_back(Output::Send(match publish.qos {
                QoS::ExactlyOnce => Packet::PubRec(ack),
                QoS::AtLeastOnce | QoS::AtMostOnce => Packet::PubAck(ack),
            }));
        }
        Ok(())
    }

    pub(crate) fn handle_pubrel(
        &mut self,
        packet_id: PacketId,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let known = self.session.received.contains(packet_id);
        if !known && (!self.is_resumed || self.publishing.contains(packet_id)) {
            // Released before, and the PUBCOMP was lost with an earlier connection.
            outputs.push_back(Output::Note(Note::UnknownPacketId));
            let ack = Ack::new(packet_id, ReasonCode::PacketIdentifierNotFound);
            outputs.push_back(Output::Send(Packet::PubComp(ack)));
            return Ok(());
        }
        // A session that goes on is known to the node, also if it ends with this connection.
        if !self.session.is_durable() && !self.is_resumed {
            self.complete(packet_id, outputs);
        } else if self
            .releases
            .iter()
            .all(|release| release.packet_id != packet_id)
        {
            let number = self.next_release;
            self.next_release = number.wrapping_add(1);
            self.releases.push_back(OpenRelease {
                number,
                packet_id,
                asked_at: now,
            });
            let ticket = Ticket {
                subject: Subject::Release,
                number,
            };
            outputs.push_back(Output::Release {
                ticket,
                packet_id,
                known,
            });
        }
        Ok(())
    }

    pub(crate) fn handle_released(&mut self, number: u32, outputs: &mut VecDeque<Output>) {
        let at = self
            .releases
            .iter()
            .position(|release| release.number == number);
        if let Some(OpenRelease { packet_id, .. }) = at.and_then(|at| self.releases.remove(at)) {
            self.complete(packet_id, outputs);
        }
    }

    /// The client may use the id again [MQTT-4.3.3-11], [MQTT-4.3.3-12]; whether the message has expired plays no part
    /// [MQTT-4.3.3-13].
    ///
    /// Also for an id that only earlier connections can have seen, the answer is success (section 3.7.2.1): it was
    /// released wherever it was known, and "not found" would deny what in most cases was there until now.
    fn complete(&mut self, packet_id: PacketId, outputs: &mut VecDeque<Output>) {
        self.session.received.remove(packet_id);
        self.uncount();
        outputs.push_back(Output::Send(Packet::PubComp(Ack::new(
            packet_id,
            ReasonCode::Success,
        ))));
    }

    /// Gives a place of our Receive Maximum back. A message that an earlier connection began took none.
    fn uncount(&mut self) {
        self.receive_quota_used = self.receive_quota_used.saturating_sub(1);
    }
}
