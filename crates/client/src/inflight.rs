//! What was sent and waits for an acknowledgement, by Packet Identifier.

use std::collections::HashMap;

use magpie_codec::{Ack, PacketId, PacketType, ReasonCode, SubAck, UnsubAck};
use tokio::sync::oneshot;

use crate::Error;

/// Tells the user how it ended. Dropped unsent when the connection ends first.
pub(crate) type Done<T> = oneshot::Sender<Result<T, Error>>;

/// Own packets on their way.
///
/// ```text
/// QoS 1:  PubAck ──PUBACK──> done
/// QoS 2:  PubRec ──PUBREC──> PubComp ──PUBCOMP──> done      PUBREC with an error: done
/// ```
pub(crate) struct Inflight {
    waiting: HashMap<PacketId, Waiting>,
    next: PacketId,
    /// Messages among `waiting`; the others do not count for the Receive Maximum.
    messages: usize,
    /// The server's Receive Maximum [MQTT-3.3.4-9].
    messages_max: usize,
}

pub(crate) enum Waiting {
    PubAck(Done<ReasonCode>),
    PubRec(Done<ReasonCode>),
    PubComp(Done<ReasonCode>),
    SubAck(Done<SubAck>),
    UnsubAck(Done<UnsubAck>),
}

impl Waiting {
    const fn is_message(&self) -> bool {
        matches!(self, Self::PubAck(_) | Self::PubRec(_) | Self::PubComp(_))
    }
}

impl Inflight {
    pub(crate) fn new(messages_max: u16) -> Self {
        Self {
            waiting: HashMap::new(),
            next: PacketId::MIN,
            messages: 0,
            messages_max: usize::from(messages_max),
        }
    }

    /// Whether one more message may be sent.
    pub(crate) fn has_room(&self) -> bool {
        // One identifier is always left for a SUBSCRIBE or UNSUBSCRIBE, of which one at a time is taken.
        self.messages < self.messages_max && self.waiting.len() < usize::from(u16::MAX) - 1
    }

    /// Whether all identifiers are in use.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.waiting.len() >= usize::from(u16::MAX)
    }

    /// An identifier that nothing on its way uses [MQTT-2.2.1-3]. Not to be called when
    /// [exhausted](Self::is_exhausted).
    pub(crate) fn free_packet_id(&mut self) -> PacketId {
        assert!(
            !self.is_exhausted(),
            "the caller checks for a free identifier"
        );
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.next();
        }
        let packet_id = self.next;
        self.next = packet_id.next();
        packet_id
    }

    pub(crate) fn insert(&mut self, packet_id: PacketId, waiting: Waiting) {
        self.messages += usize::from(waiting.is_message());
        self.waiting.insert(packet_id, waiting);
    }

    /// Takes PUBACK, PUBREC or PUBCOMP; whether PUBREL must follow.
    pub(crate) fn handle_ack(&mut self, packet: PacketType, ack: Ack) -> Result<bool, Error> {
        match (packet, self.waiting.remove(&ack.packet_id)) {
            (PacketType::PubRec, Some(Waiting::PubRec(done))) if !ack.reason.is_error() => {
                self.waiting.insert(ack.packet_id, Waiting::PubComp(done));
                Ok(true)
            }
            (PacketType::PubAck, Some(Waiting::PubAck(done)))
            | (PacketType::PubRec, Some(Waiting::PubRec(done)))
            | (PacketType::PubComp, Some(Waiting::PubComp(done))) => {
                self.messages -= 1;
                // The user may have lost interest.
                let _ = done.send(outcome("PUBLISH", ack));
                Ok(false)
            }
            // Of a session's earlier connection; the server only wants to be done with it.
            (PacketType::PubRec, None) => Ok(!ack.reason.is_error()),
            (_, None) => Ok(false),
            (_, Some(_)) => Err(Error::Unexpected(packet)),
        }
    }

    pub(crate) fn handle_suback(&mut self, suback: SubAck) -> Result<(), Error> {
        match self.waiting.remove(&suback.packet_id) {
            Some(Waiting::SubAck(done)) => {
                let _ = done.send(Ok(suback));
                Ok(())
            }
            _ => Err(Error::Unexpected(PacketType::SubAck)),
        }
    }

    pub(crate) fn handle_unsuback(&mut self, unsuback: UnsubAck) -> Result<(), Error> {
        match self.waiting.remove(&unsuback.packet_id) {
            Some(Waiting::UnsubAck(done)) => {
                let _ = done.send(Ok(unsuback));
                Ok(())
            }
            _ => Err(Error::Unexpected(PacketType::UnsubAck)),
        }
    }
}

fn outcome(packet: &'static str, ack: Ack) -> Result<ReasonCode, Error> {
    if !ack.reason.is_error() {
        return Ok(ack.reason);
    }
    Err(Error::Rejected {
        packet,
        reason: ack.reason,
        detail: ack
            .properties
            .and_then(|properties| properties.reason_string),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn identifiers_are_used_again_only_when_free() {
        let mut inflight = Inflight::new(u16::MAX);
        let first = inflight.free_packet_id();
        let (done, _) = oneshot::channel();
        inflight.insert(first, Waiting::PubAck(done));
        for number in 2..=u16::MAX {
            assert_eq!(inflight.free_packet_id().number(), number);
        }
        assert_eq!(inflight.free_packet_id().number(), 2);
        inflight
            .handle_ack(PacketType::PubAck, Ack::new(first, ReasonCode::Success))
            .unwrap();
        inflight.next = PacketId::MIN;
        assert_eq!(inflight.free_packet_id(), first);
    }

    /// [MQTT-4.9.0-2] [MQTT-4.9.0-3]: a QoS 2 message counts until PUBCOMP, or until a PUBREC that refuses it.
    #[test]
    fn the_receive_maximum_counts_messages_until_their_last_acknowledgement() {
        let mut inflight = Inflight::new(1);
        let packet_id = inflight.free_packet_id();
        let (done, mut outcome) = oneshot::channel();
        inflight.insert(packet_id, Waiting::PubRec(done));
        assert!(!inflight.has_room());
        assert!(
            inflight
                .handle_ack(PacketType::PubRec, Ack::new(packet_id, ReasonCode::Success))
                .unwrap()
        );
        assert!(!inflight.has_room());
        assert!(
            !inflight
                .handle_ack(
                    PacketType::PubComp,
                    Ack::new(packet_id, ReasonCode::Success)
                )
                .unwrap()
        );
        assert!(inflight.has_room());
        assert_eq!(outcome.try_recv().unwrap().unwrap(), ReasonCode::Success);

        let (done, mut outcome) = oneshot::channel();
        inflight.insert(packet_id, Waiting::PubRec(done));
        assert!(
            !inflight
                .handle_ack(
                    PacketType::PubRec,
                    Ack::new(packet_id, ReasonCode::QuotaExceeded)
                )
                .unwrap()
        );
        assert!(inflight.has_room());
        let error = outcome.try_recv().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server refuses the PUBLISH: quota exceeded"
        );
    }
}
