//! A session goes on: what the client did not acknowledge on an earlier connection is sent again.

use std::collections::VecDeque;
use std::time::Instant;

use magpie_codec::{Ack, Packet, PacketId, ReasonCode};

use super::Established;
use crate::Output;
use crate::inflight::Step;

impl Established {
    /// Sends again what is unacknowledged, with its original packet ids [MQTT-4.4.0-1], [MQTT-4.4.0-1 v3.1.1], in its
    /// original order [MQTT-4.6.0-1], [MQTT-4.6.0-1 v3.1.1], as far as the client's Receive Maximum allows. The rest follows by and by.
    pub(crate) fn resume(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let in_order = self.session.inflight.in_order();
        let ids: Vec<_> = in_order
            .iter()
            .map(|entry| (entry.packet_id, entry.step()))
            .collect();
        for (packet_id, step) in ids {
            match step {
                Step::Released => {
                    outputs.push_back(Output::Send(Packet::PubRel(Ack::new(
                        packet_id,
                        ReasonCode::Success,
                    ))));
                }
                // A PUBREC that the node did not know was as good as none: the client answers the repeat with another.
                Step::Waiting | Step::Published | Step::Received => {
                    self.session.inflight.set_step(packet_id, Step::Waiting);
                    self.resends.push_back(packet_id);
                }
                // Removed when the earlier connection closed.
                Step::Unbound => {}
            }
        }
        self.send_again(now, outputs);
    }

    /// Sends again what the window has room for.
    pub(super) fn send_again(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        while !self.resends.is_empty() {
            let inflight = &self.session.inflight;
            let under_way = inflight.len() - inflight.waiting_len();
            if under_way >= usize::from(self.terms.window) {
                return;
            }
            if let Some(packet_id) = self.resends.pop_front() {
                self.resend(packet_id, now, outputs);
            }
        }
    }

    fn resend(&mut self, packet_id: PacketId, now: Instant, outputs: &mut VecDeque<Output>) {
        let entry = self.session.inflight.get(packet_id);
        // Acknowledged meanwhile.
        if entry.is_none_or(|entry| entry.step() != Step::Waiting) {
            return;
        }
        // Also if it has expired meanwhile: its delivery had begun, and what had begun is sent again [MQTT-4.4.0-1],
        // [MQTT-4.3.3-7]. DUP says so [MQTT-3.3.1-1], [MQTT-3.3.1-1 v3.1.1].
        self.publish(packet_id, true, now, outputs);
    }
}
