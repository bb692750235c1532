//! Messages of QoS 1 and 2 on their way to the client, by packet id.

use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Message, PacketId, QoS};
use smallvec::SmallVec;

/// What was sent to the client and is not yet acknowledged.
///
/// An id's low bits are its place in the table, so that an acknowledgement is found without hashing or searching. Ids
/// count upwards and skip those whose place is taken; so none is used twice at a time, and a client that acknowledges
/// twice does not acknowledge the next message.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    /// The length is 0 or a power of two, and at least twice `len` up to 65,536.
    slots: Vec<Option<Entry>>,
    len: usize,
    /// The id that was given last; 0 before the first.
    last_id: u16,
    next_number: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) packet_id: PacketId,
    /// Entries were made, or released, in the order of their numbers.
    number: u64,
    /// The caller's name for the delivery.
    pub(crate) token: u64,
    pub(crate) stage: Stage,
}

/// ```text
///            PUBLISH sent          PUBREC
/// QoS 2  ──────────────► Published ──────► Released ──PUBCOMP──► done
/// QoS 1  ──────────────► Published ──────PUBACK────────────────► done
/// ```
#[derive(Debug)]
pub(crate) enum Stage {
    /// Waits for PUBACK or PUBREC; may have to be sent again on a later connection.
    Published(Published),
    /// PUBREL was sent; waits for PUBCOMP. The message is no longer needed.
    Released,
}

#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) message: Arc<Message>,
    /// 1 or 2.
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: SmallVec<[u32; 1]>,
    pub(crate) expires_at: Option<Instant>,
}

impl Inflight {
    /// The most entries at a time: one for each packet id.
    const MAX: usize = u16::MAX as usize;
    /// Places for ids 0 to 65,535; the first stays empty.
    const SLOTS_MAX: usize = Self::MAX + 1;
    const SLOTS_MIN: usize = 4;

    /// Adds a delivery under an id of its own; `None` if all ids are in use.
    pub(crate) fn insert(&mut self, token: u64, published: Published) -> Option<PacketId> {
        if self.len == Self::MAX {
            return None;
        }
        if self.slots.len() < Self::SLOTS_MAX && (self.len + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let mut packet_id = PacketId::new(self.last_id).map_or(PacketId::MIN, PacketId::next);
        // Ends, because there are fewer entries than places and ids.
        while self.slots[self.place(packet_id)].is_some() {
            packet_id = packet_id.next();
        }
        let place = self.place(packet_id);
        self.slots[place] = Some(Entry {
            packet_id,
            number: self.next_number,
            token,
            stage: Stage::Published(published),
        });
        self.last_id = packet_id.number();
        self.next_number += 1;
        self.len += 1;
        Some(packet_id)
    }

    pub(crate) fn get_mut(&mut self, id: PacketId) -> Option<&mut Entry> {
        if self.slots.is_empty() {
            return None;
        }
        let place = self.place(id);
        self.slots[place]
            .as_mut()
            .filter(|entry| entry.packet_id == id)
    }

    pub(crate) fn remove(&mut self, id: PacketId) -> Option<Entry> {
        self.get_mut(id)?;
        self.len -= 1;
        let place = self.place(id);
        self.slots[place].take()
    }

    /// Notes that PUBREC came: only PUBREL is to be sent from here on, in the order of the PUBRECs [MQTT-4.6.0-4].
    pub(crate) fn release(&mut self, id: PacketId) {
        let number = self.next_number;
        if let Some(entry) = self.get_mut(id)
            && matches!(entry.stage, Stage::Published(_))
        {
            entry.stage = Stage::Released;
            entry.number = number;
            self.next_number += 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All ids: those published in the order in which they were made, those released in the order of their release.
    pub(crate) fn ids_in_order(&self) -> Vec<PacketId> {
        let mut entries: Vec<&Entry> = self.slots.iter().flatten().collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        entries.into_iter().map(|entry| entry.packet_id).collect()
    }

    /// Gives memory back if nothing is on its way.
    pub(crate) fn shrink(&mut self) {
        if self.len == 0 {
            self.slots = Vec::new();
        }
    }

    fn place(&self, id: PacketId) -> usize {
        usize::from(id.number()) & (self.slots.len() - 1)
    }

    /// Doubles the table. Entries that were apart stay apart: their places differ in the old bits already.
    fn grow(&mut self) {
        let len = (self.slots.len() * 2).max(Self::SLOTS_MIN);
        let mut old = std::mem::replace(&mut self.slots, Vec::with_capacity(len));
        self.slots.resize_with(len, || None);
        for entry in old.drain(..).flatten() {
            let place = self.place(entry.packet_id);
            self.slots[place] = Some(entry);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use magpie_codec::TopicName;
    use proptest::prelude::*;

    use super::*;

    fn published() -> Published {
        let message = Message {
            topic: TopicName::from_static("t"),
            payload: "".into(),
            properties: None,
        };
        Published {
            message: Arc::new(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: SmallVec::new(),
            expires_at: None,
        }
    }

    #[test]
    fn ids_wrap_and_skip_what_is_in_use() {
        let mut inflight = Inflight::default();
        let stuck = inflight.insert(7, published()).unwrap();
        assert_eq!(stuck.number(), 1);
        for turn in 0..200_000_u64 {
            let id = inflight.insert(turn, published()).unwrap();
            assert_ne!(id, stuck);
            assert_eq!(inflight.remove(id).unwrap().token, turn);
        }
        assert_eq!(inflight.slots.len(), 4);
        assert_eq!(inflight.remove(stuck).unwrap().token, 7);
    }

    #[test]
    fn every_id_can_be_in_use_and_no_more() {
        let mut inflight = Inflight::default();
        for _ in 0..65_535 {
            assert!(inflight.insert(0, published()).is_some());
        }
        assert_eq!(inflight.insert(0, published()), None);
        inflight.remove(PacketId::new(4711).unwrap()).unwrap();
        assert_eq!(inflight.insert(0, published()), PacketId::new(4711));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400)) {
            let mut inflight = Inflight::default();
            let mut model: BTreeMap<u64, PacketId> = BTreeMap::new();
            for (token, (insert, index)) in operations.into_iter().enumerate() {
                let token = token as u64;
                if insert || model.is_empty() {
                    let id = inflight.insert(token, published()).unwrap();
                    prop_assert!(model.values().all(|used| *used != id));
                    model.insert(token, id);
                } else {
                    let token = *index.get(&model.keys().copied().collect::<Vec<_>>());
                    let id = model.remove(&token).unwrap();
                    prop_assert_eq!(inflight.remove(id).unwrap().token, token);
                    prop_assert!(inflight.remove(id).is_none());
                }
                prop_assert_eq!(inflight.len(), model.len());
                prop_assert_eq!(inflight.ids_in_order(), model.values().copied().collect::<Vec<_>>());
            }
        }
    }
}
