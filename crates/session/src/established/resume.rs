//! A session goes on: what the client did not acknowledge on an earlier connection is sent again.

use std::collections::VecDeque;
use std::time::Instant;

use magpie_codec::{Ack, Packet, PacketId, PublishHeader, QoS, ReasonCode};

use super::Established;
use super::deliver::seconds_left;
use crate::inflight::Stage;
use crate::{Outcome, Output};

impl Established {
    /// Sends again what is unacknowledged, with its original packet ids [MQTT-4.4.0-1], in its original order
    /// [MQTT-4.6.0-1], as far as the client's Receive Maximum allows. The rest follows by and by.
    pub(crate) fn resume(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        for packet_id in self.session.inflight.ids_in_order() {
            match self
                .session
                .inflight
                .get_mut(packet_id)
                .map(|entry| &entry.stage)
            {
                Some(Stage::Released) => {
                    outputs.push_back(Output::Send(Packet::PubRel(Ack::new(
                        packet_id,
                        ReasonCode::Success,
                    ))));
                }
                Some(Stage::Published(_)) => self.resends.push_back(packet_id),
                None => {}
            }
        }
        self.send_again(now, outputs);
    }

    /// Sends again what the window has room for.
    pub(super) fn send_again(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        while !self.resends.is_empty() {
            let under_way = self
                .session
                .inflight
                .len()
                .saturating_sub(self.resends.len());
            if under_way >= usize::from(self.terms.window) {
                return;
            }
            if let Some(packet_id) = self.resends.pop_front() {
                self.resend(packet_id, now, outputs);
            }
        }
    }

    fn resend(&mut self, packet_id: PacketId, now: Instant, outputs: &mut VecDeque<Output>) {
        let Some(Stage::Published(published)) = self
            .session
            .inflight
            .get_mut(packet_id)
            .map(|entry| &entry.stage)
        else {
            return;
        };
        // At QoS 2 the client may have it already and waits for PUBREL, so only QoS 1 can be given up.
        let expired =
            published.qos == QoS::AtLeastOnce && published.expires_at.is_some_and(|at| at <= now);
        let message = published.message.clone();
        let header = PublishHeader {
            // [MQTT-3.3.1-1]
            dup: true,
            qos: published.qos,
            retain: published.retain,
            packet_id: Some(packet_id),
            topic_alias: None,
            subscription_ids: published.subscription_ids.clone(),
            expiry_interval_s: published.expires_at.map(|at| seconds_left(at, now).max(1)),
        };
        if expired {
            self.give_up(packet_id, Outcome::Expired, outputs);
        } else if !self.fits(&header, &message) {
            self.give_up(packet_id, Outcome::TooLarge, outputs);
        } else {
            self.deliver(header, message, outputs);
        }
    }
}
