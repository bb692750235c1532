//! Messages to the client: PUBLISH within the window, and the client's acknowledgements.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Ack, Message, Packet, PacketId, PublishHeader, QoS, ReasonCode, publish_bytes};

use super::Established;
use crate::inflight::{Published, Step};
use crate::violation::Violation;
use crate::{CloseCause, Delivery, Note, Outcome, Output};

impl Established {
    /// Whether the window is open. What an earlier connection sent comes first.
    pub(crate) fn can_accept(&self, qos: QoS) -> bool {
        // [MQTT-3.3.4-9], [MQTT-4.9.0-2]: and nothing but messages waits for it [MQTT-3.3.4-10], [MQTT-4.9.0-3].
        qos == QoS::AtMostOnce
            || (self.session.inflight.waiting_len() == 0
                && self.session.inflight.len() < usize::from(self.terms.window))
    }

    /// The caller has asked [`can_accept`](Self::can_accept).
    pub(crate) fn handle_delivery(
        &mut self,
        delivery: Delivery,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        let Delivery {
            message,
            qos,
            retain,
            subscription_ids,
            token,
            expires_at,
        } = delivery;
        let mut header = PublishHeader {
            qos,
            retain,
            subscription_ids,
            expiry_interval_s: expires_at.map(|at| seconds_left(at, now)),
            // [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-2], [MQTT-4.3.1-1 v3.1.1]: without DUP.
            ..PublishHeader::default()
        };
        // [MQTT-3.3.2-5]
        let expired = expires_at.is_some_and(|at| at <= now);
        if expired || !self.fits(&header, &message) {
            outputs.push_back(match (qos, expired) {
                (QoS::AtMostOnce, true) => Output::Note(Note::QoS0Expired),
                (QoS::AtMostOnce, false) => Output::Note(Note::QoS0TooLarge),
                (_, true) => Output::Delivered {
                    token,
                    outcome: Outcome::Expired,
                },
                (_, false) => Output::Delivered {
                    token,
                    outcome: Outcome::TooLarge,
                },
            });
            return;
        }
        if qos == QoS::AtMostOnce {
            return self.deliver(header, message, outputs);
        }
        let is_bound_first = qos == QoS::ExactlyOnce && self.session.is_durable();
        let step = if is_bound_first {
            Step::Unbound
        } else {
            Step::Published
        };
        let published = Published {
            message: Arc::clone(&message),
            qos,
            retain,
            subscription_ids: header.subscription_ids.clone(),
            expires_at,
        };
        // [MQTT-2.2.1-4], [MQTT-2.3.1-4 v3.1.1], [MQTT-4.3.2-1], [MQTT-4.3.3-1], [MQTT-4.3.2-1 v3.1.1],
        // [MQTT-4.3.3-1 v3.1.1]: an id that is not in use; it stays so until the acknowledgement [MQTT-4.3.2-3], [MQTT-4.3.3-3].
        let packet_id = self.session.inflight.insert(token, step, published);
        let packet_id = packet_id.expect("the window is smaller than the ids, and it is open");
        if is_bound_first {
            self.bind(packet_id, token, now, outputs);
        } else {
            header.packet_id = Some(packet_id);
            self.deliver(header, message, outputs);
        }
    }

    /// Sends what waited in the window for its PUBLISH.
    pub(super) fn publish(
        &mut self,
        packet_id: PacketId,
        dup: bool,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        let entry = self.session.inflight.get(packet_id);
        let Some(published) = entry.and_then(|entry| entry.published()) else {
            return;
        };
        let message = Arc::clone(&published.message);
        let header = PublishHeader {
            dup,
            qos: published.qos,
            retain: published.retain,
            packet_id: Some(packet_id),
            topic_alias: None,
            subscription_ids: published.subscription_ids.clone(),
            expiry_interval_s: published.expires_at.map(|at| seconds_left(at, now).max(1)),
        };
        if self.fits(&header, &message) {
            self.session.inflight.set_step(packet_id, Step::Published);
            self.deliver(header, message, outputs);
        } else {
            self.give_up(packet_id, Outcome::TooLarge, outputs);
        }
    }

    /// Sends a PUBLISH that fits, under an alias if that helps.
    pub(super) fn deliver(
        &mut self,
        mut header: PublishHeader,
        message: Arc<Message>,
        outputs: &mut VecDeque<Output>,
    ) {
        // Setting an alias makes the packet larger, once.
        header.topic_alias = Some((NonZeroU16::MAX, true));
        header.topic_alias = match self.fits(&header, &message) {
            true => self.aliases_out.assign(&message.topic),
            false => None,
        };
        outputs.push_back(Output::Deliver { header, message });
    }

    /// Whether the client takes a packet of this size [MQTT-3.1.2-24], [MQTT-3.1.2-25].
    pub(super) fn fits(&self, header: &PublishHeader, message: &Message) -> bool {
        let Some(max) = self.terms.packet_bytes_max else {
            return true;
        };
        publish_bytes(self.terms.version, header, message)
            .is_ok_and(|bytes| u32::try_from(bytes).is_ok_and(|bytes| bytes <= max.get()))
    }

    pub(crate) fn handle_puback(
        &mut self,
        ack: &Ack,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        match self.sent(ack.packet_id) {
            Some((_, QoS::AtLeastOnce)) => self.finish(ack, now, outputs),
            Some(_) => return Err(Violation::protocol_error("PUBACK for a QoS 2 message").into()),
            None => outputs.push_back(Output::Note(Note::UnknownPacketId)),
        }
        Ok(())
    }

    pub(crate) fn handle_pubrec(
        &mut self,
        ack: &Ack,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        let packet_id = ack.packet_id;
        let pubrel = |reason| Output::Send(Packet::PubRel(Ack::new(packet_id, reason)));
        match self.sent(packet_id) {
            Some((_, QoS::AtLeastOnce)) => {
                return Err(Violation::protocol_error("PUBREC for a QoS 1 message").into());
            }
            // A repeat, whatever it says: the answer to the first will be the answer to both.
            Some((Step::Received, _)) => {}
            // [MQTT-4.3.3-4], [MQTT-4.4.0-2]: an error ends it here.
            Some(_) if ack.reason.is_error() => self.finish(ack, now, outputs),
            Some((Step::Released, _)) => outputs.push_back(pubrel(ReasonCode::Success)),
            Some(_) if self.session.is_durable() => self.receive(packet_id, now, outputs),
            Some(_) => {
                // The message is not needed again [MQTT-4.3.3-5], [MQTT-4.3.3-6].
                self.session.inflight.release(packet_id);
                outputs.push_back(pubrel(ReasonCode::Success));
            }
            None => {
                outputs.push_back(Output::Note(Note::UnknownPacketId));
                if !ack.reason.is_error() {
                    outputs.push_back(pubrel(ReasonCode::PacketIdentifierNotFound));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn handle_pubcomp(
        &mut self,
        ack: &Ack,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), CloseCause> {
        match self.sent(ack.packet_id) {
            Some((Step::Released, _)) => self.finish(ack, now, outputs),
            Some(_) => {
                return Err(Violation::protocol_error(
                    "PUBCOMP for a message that was not released",
                )
                .into());
            }
            None => outputs.push_back(Output::Note(Note::UnknownPacketId)),
        }
        Ok(())
    }

    /// What the client may acknowledge under this id. An id whose PUBLISH never left is none.
    fn sent(&self, packet_id: PacketId) -> Option<(Step, QoS)> {
        let entry = self.session.inflight.get(packet_id)?;
        (entry.step() != Step::Unbound).then(|| (entry.step(), entry.qos()))
    }

    /// A delivery is done: its id and its place in the window are free.
    fn finish(&mut self, ack: &Ack, now: Instant, outputs: &mut VecDeque<Output>) {
        if let Some(entry) = self.session.inflight.remove(ack.packet_id) {
            // A PUBCOMP that does not know the id comes from a client that completed it before.
            let refused =
                ack.reason.is_error() && ack.reason != ReasonCode::PacketIdentifierNotFound;
            let outcome = if refused {
                Outcome::Refused(ack.reason)
            } else {
                Outcome::Acknowledged
            };
            outputs.push_back(Output::Delivered {
                token: entry.token,
                outcome,
            });
        }
        self.send_again(now, outputs);
    }

    /// Tells the node that a delivery ended without the client.
    pub(super) fn give_up(
        &mut self,
        packet_id: PacketId,
        outcome: Outcome,
        outputs: &mut VecDeque<Output>,
    ) {
        if let Some(entry) = self.session.inflight.remove(packet_id) {
            outputs.push_back(Output::Delivered {
                token: entry.token,
                outcome,
            });
        }
    }
}

/// Seconds until `at`, rounded up: 1 at least, unless it has passed [MQTT-3.3.2-6].
fn seconds_left(at: Instant, now: Instant) -> u32 {
    let left = at.saturating_duration_since(now);
    let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
