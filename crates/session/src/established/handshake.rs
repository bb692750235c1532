//! QoS 2 to a client whose session outlives its connection: each step is made safe before the client can see it, so that
//! whoever resumes the session goes on with the same packet id.
//!
//! ```text
//! delivery ──► Output::Bind ──answer──► PUBLISH     PUBREC ──► Output::Received ──answer──► PUBREL     PUBCOMP ──► done
//! ```

use std::collections::VecDeque;
use std::time::Instant;

use magpie_codec::{Ack, Packet, PacketId, ReasonCode};

use super::Established;
use crate::in_order::InOrder;
use crate::inflight::Step;
use crate::ticket::Subject;
use crate::{Outcome, Output, Ticket, Token};

/// The open questions about QoS 2 deliveries: at most as many as the window has room for.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Deliveries whose packet id the node does not know yet, in their order.
    binds: InOrder<Asked, ()>,
    /// PUBRECs that the node does not know yet, in their order.
    receives: InOrder<Asked, ()>,
}

#[derive(Debug)]
struct Asked {
    packet_id: PacketId,
    asked_at: Instant,
}

impl Handshakes {
    /// When the oldest open question was asked.
    pub(super) fn oldest_asked_at(&self) -> Option<Instant> {
        let bind = self.binds.front().map(|asked| asked.asked_at);
        let receive = self.receives.front().map(|asked| asked.asked_at);
        bind.into_iter().chain(receive).min()
    }

    pub(super) fn shrink(&mut self) {
        self.binds.shrink();
        self.receives.shrink();
    }
}

impl Established {
    /// Asks that a delivery be bound to its packet id.
    pub(super) fn bind(
        &mut self,
        packet_id: PacketId,
        token: Token,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        let asked = Asked {
            packet_id,
            asked_at: now,
        };
        let ticket = Ticket {
            subject: Subject::Bind,
            number: self.handshakes.get_or_insert_default().binds.ask(asked),
        };
        outputs.push_back(Output::Bind {
            ticket,
            packet_id,
            token,
        });
    }

    /// Sends the PUBLISHes that are no longer held back by an earlier one: in the order of the deliveries
    /// [MQTT-4.6.0-5].
    pub(super) fn handle_bound(
        &mut self,
        number: u32,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(handshakes) = &mut self.handshakes else {
            return;
        };
        handshakes.binds.answer(number, ());
        while let Some((Asked { packet_id, .. }, ())) =
            self.handshakes.as_mut().and_then(|it| it.binds.pop())
        {
            let expires_at = self
                .session
                .inflight
                .get(packet_id)
                .and_then(|entry| entry.published()?.expires_at);
            // [MQTT-3.3.2-5]
            if expires_at.is_some_and(|at| at <= now) {
                self.give_up(packet_id, Outcome::Expired, outputs);
            } else {
                self.publish(packet_id, false, now, outputs);
            }
        }
    }

    /// Asks that the client's PUBREC be made safe.
    pub(super) fn receive(
        &mut self,
        packet_id: PacketId,
        now: Instant,
        outputs: &mut VecDeque<Output>,
    ) {
        self.session.inflight.set_step(packet_id, Step::Received);
        let asked = Asked {
            packet_id,
            asked_at: now,
        };
        let ticket = Ticket {
            subject: Subject::Received,
            number: self.handshakes.get_or_insert_default().receives.ask(asked),
        };
        outputs.push_back(Output::Received { ticket, packet_id });
    }

    /// Sends the PUBRELs that are no longer held back by an earlier one: in the order of the PUBRECs [MQTT-4.6.0-4],
    /// [MQTT-4.6.0-4 v3.1.1].
    pub(super) fn handle_received_stored(&mut self, number: u32, outputs: &mut VecDeque<Output>) {
        let Some(handshakes) = &mut self.handshakes else {
            return;
        };
        handshakes.receives.answer(number, ());
        while let Some((Asked { packet_id, .. }, ())) = handshakes.receives.pop() {
            self.session.inflight.release(packet_id);
            outputs.push_back(Output::Send(Packet::PubRel(Ack::new(
                packet_id,
                ReasonCode::Success,
            ))));
        }
    }
}
