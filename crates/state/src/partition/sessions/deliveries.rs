//! Outbound QoS 2: which message a Packet Identifier stands for, and whether the client has it.

use std::collections::HashSet;

use magpie_codec::{PacketId, QoS};

use super::super::Changed;
use super::{Sessions, Superseded, cursors, key};
use crate::{
    Binding, ClientId, Cursor, Epoch, Inflight, MembershipId, PartitionId, Position, Stage,
};

type Delivery = (PartitionId, Position, Option<MembershipId>);

impl Sessions {
    pub(in super::super) fn bind(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        bindings: &[Binding],
        changed: &mut Changed,
    ) -> Result<(), Superseded> {
        let number = self.acting(client, epoch)?;
        if !self.table.at(number).is_durable || bindings.is_empty() {
            return Ok(());
        }
        changed.insert(key(&client.0));
        let bound = bindings.iter().map(|binding| Inflight {
            packet_id: binding.packet_id,
            partition: binding.partition,
            position: binding.position,
            qos: QoS::ExactlyOnce,
            stage: Stage::Published,
            share: binding.share,
        });
        self.enter_inflight(number, &bound.collect::<Vec<_>>());
        Ok(())
    }

    /// What the client has, or is about to get, under these identifiers.
    pub(super) fn enter_inflight(&mut self, number: u32, new: &[Inflight]) {
        let cursors = self.cursors(self.table.at(number));
        let reused: HashSet<PacketId> = new.iter().map(|it| it.packet_id).collect();
        let bound: HashSet<Delivery> = new.iter().map(Inflight::delivery).collect();
        let session = self.table.at_mut(number);
        let mut inflight = session.inflight().to_vec();
        // An identifier that is used anew was free: its message is done, and must not be sent again under another one.
        let is_replaced = |it: &Inflight| {
            it.stage != Stage::Done
                && reused.contains(&it.packet_id)
                && !bound.contains(&it.delivery())
        };
        let replaced = inflight.iter_mut().filter(|it| is_replaced(it));
        let mut done = Vec::new();
        for it in replaced {
            if it.share.is_some() {
                // Its group may not know yet.
                it.stage = Stage::Done;
            } else {
                done.push(Cursor {
                    partition: it.partition,
                    floor: Position::START,
                    done: vec![it.position],
                });
            }
        }
        if !done.is_empty() {
            let mut own = session.cursors.to_vec();
            cursors::merge(&mut own, &done);
            self.entries_cut += cursors::cut(&mut own);
            session.cursors = own.into();
        }
        inflight.retain(|it| {
            if it.stage == Stage::Done {
                return true;
            }
            !reused.contains(&it.packet_id)
                // Bound anew under another identifier: the first one was never sent.
                && !bound.contains(&it.delivery())
                && !cursors::is_over(&cursors, it)
        });
        inflight.extend_from_slice(new);
        session.set_inflight(inflight);
        self.note_inflight(number);
    }

    pub(in super::super) fn received(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        packet_ids: &[PacketId],
        changed: &mut Changed,
    ) -> Result<(), Superseded> {
        let number = self.acting(client, epoch)?;
        let session = self.table.at_mut(number);
        let Some(rare) = &mut session.rare else {
            return Ok(());
        };
        changed.insert(key(&client.0));
        let packet_ids: HashSet<PacketId> = packet_ids.iter().copied().collect();
        for inflight in &mut rare.inflight {
            if inflight.qos == QoS::ExactlyOnce
                && inflight.stage == Stage::Published
                && packet_ids.contains(&inflight.packet_id)
            {
                inflight.stage = Stage::Released;
            }
        }
        Ok(())
    }

    /// Forgets shared deliveries that their groups know to be done.
    pub(in super::super) fn settle(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        deliveries: &[(PartitionId, MembershipId, Position)],
        changed: &mut Changed,
    ) {
        let Ok(number) = self.acting(client, epoch) else {
            return;
        };
        changed.insert(key(&client.0));
        let settled: HashSet<Delivery> = deliveries
            .iter()
            .map(|(partition, membership, position)| (*partition, *position, Some(*membership)))
            .collect();
        let session = self.table.at_mut(number);
        let mut inflight = session.inflight().to_vec();
        inflight.retain(|it| !settled.contains(&it.delivery()));
        session.set_inflight(inflight);
        self.note_inflight(number);
    }

    /// What is in flight of a Session may have changed.
    pub(super) fn note_inflight(&mut self, number: u32) {
        if self.table.at(number).inflight().is_empty() {
            self.inflight.remove(&number);
        } else {
            self.inflight.insert(number);
        }
    }
}
