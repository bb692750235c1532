//! Messages of QoS 1 and 2 on their way to the client, by packet id.

use std::sync::Arc;
use std::time::Instant;

use magpie_codec::{Message, PacketId, QoS};
use smallvec::SmallVec;

use crate::Token;

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
    waiting_len: usize,
    /// The id that was given last; 0 before the first.
    last_id: u16,
    next_number: u64,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) packet_id: PacketId,
    /// Entries were made, or released, in the order of their numbers.
    number: u64,
    pub(crate) token: Token,
    step: Step,
    /// Until it is released.
    published: Option<Published>,
}

/// ```text
///                    answer           PUBREC            answer
/// QoS 2, durable  Unbound ──► Published ──► Received ──► Released ──PUBCOMP──► done
/// QoS 2                       Published ─────────PUBREC► Released ──PUBCOMP──► done
/// QoS 1                       Published ──────────────────────────────PUBACK──► done
/// ```
///
/// On a resumed session, what is not released begins at `Waiting` and goes on to `Published` when the window has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Waits until the node knows its packet id. Never sent.
    Unbound,
    /// Sent by an earlier connection, not yet by this one.
    Waiting,
    /// Waits for PUBACK or PUBREC.
    Published,
    /// PUBREC came; waits until the node knows.
    Received,
    /// PUBREL was sent; waits for PUBCOMP. The message is no longer needed.
    Released,
}

/// A message of QoS 1 or 2 that may have to be sent again.
#[derive(Debug, Clone)]
pub struct Published {
    /// The message.
    pub message: Arc<Message>,
    /// 1 or 2.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The identifiers of the matching subscriptions.
    pub subscription_ids: SmallVec<[u32; 1]>,
    /// When the message expires, if ever.
    pub expires_at: Option<Instant>,
}

impl Entry {
    pub(crate) fn step(&self) -> Step {
        self.step
    }

    /// Until it is released.
    pub(crate) fn published(&self) -> Option<&Published> {
        self.published.as_ref()
    }

    /// 1 or 2.
    pub(crate) fn qos(&self) -> QoS {
        // Only QoS 2 is released.
        self.published
            .as_ref()
            .map_or(QoS::ExactlyOnce, |published| published.qos)
    }
}

impl Inflight {
    /// The most entries at a time: one for each packet id.
    const MAX: usize = u16::MAX as usize;
    /// Places for ids 0 to 65,535; the first stays empty.
    const SLOTS_MAX: usize = Self::MAX + 1;
    const SLOTS_MIN: usize = 4;

    /// Adds a delivery under an id of its own; `None` if all ids are in use.
    pub(crate) fn insert(
        &mut self,
        token: Token,
        step: Step,
        published: Published,
    ) -> Option<PacketId> {
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
        self.put(packet_id, token, step, Some(published));
        Some(packet_id)
    }

    /// Adds what an earlier connection sent under this id, or (`None`) released. Says whether the id was free.
    pub(crate) fn restore(
        &mut self,
        packet_id: PacketId,
        token: Token,
        published: Option<Published>,
    ) -> bool {
        // The id was given by a table like this one, whose entries had places of their own: this one grows as large.
        while self.slots.is_empty() || self.slots[self.place(packet_id)].is_some() {
            if self.get(packet_id).is_some() || self.slots.len() >= Self::SLOTS_MAX {
                return false;
            }
            self.grow();
        }
        let step = if published.is_some() {
            Step::Waiting
        } else {
            Step::Released
        };
        self.put(packet_id, token, step, published);
        true
    }

    fn put(&mut self, packet_id: PacketId, token: Token, step: Step, published: Option<Published>) {
        let place = self.place(packet_id);
        self.slots[place] = Some(Entry {
            packet_id,
            number: self.next_number,
            token,
            step,
            published,
        });
        self.last_id = packet_id.number();
        self.next_number += 1;
        self.len += 1;
        self.waiting_len += usize::from(step == Step::Waiting);
    }

    pub(crate) fn get(&self, id: PacketId) -> Option<&Entry> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.place(id)]
            .as_ref()
            .filter(|entry| entry.packet_id == id)
    }

    fn get_mut(&mut self, id: PacketId) -> Option<&mut Entry> {
        self.get(id)?;
        let place = self.place(id);
        self.slots[place].as_mut()
    }

    pub(crate) fn remove(&mut self, id: PacketId) -> Option<Entry> {
        self.get(id)?;
        let place = self.place(id);
        let entry = self.slots[place].take()?;
        self.len -= 1;
        self.waiting_len -= usize::from(entry.step == Step::Waiting);
        Some(entry)
    }

    /// Takes an entry that is not released to another step before its release.
    pub(crate) fn set_step(&mut self, id: PacketId, step: Step) {
        debug_assert!(step != Step::Released, "released by `release`");
        if let Some(entry) = self.get_mut(id) {
            let before = std::mem::replace(&mut entry.step, step);
            self.waiting_len += usize::from(step == Step::Waiting);
            self.waiting_len -= usize::from(before == Step::Waiting);
        }
    }

    /// Notes that only PUBREL is to be sent from here on, in the order of the calls [MQTT-4.6.0-4].
    pub(crate) fn release(&mut self, id: PacketId) {
        let number = self.next_number;
        if let Some(entry) = self.get_mut(id)
            && entry.step != Step::Released
        {
            entry.published = None;
            entry.number = number;
            let before = std::mem::replace(&mut entry.step, Step::Released);
            self.waiting_len -= usize::from(before == Step::Waiting);
            self.next_number += 1;
        }
    }

    /// Forgets what was never sent.
    pub(crate) fn remove_unbound(&mut self) {
        for slot in &mut self.slots {
            if slot
                .as_ref()
                .is_some_and(|entry| entry.step == Step::Unbound)
            {
                *slot = None;
                self.len -= 1;
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Entries that an earlier connection sent and this one has not sent again.
    pub(crate) fn waiting_len(&self) -> usize {
        self.waiting_len
    }

    /// Those published in the order in which they were made, those released in the order of their release.
    pub(crate) fn in_order(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.slots.iter().flatten().collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        entries
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

    fn token(position: u64) -> Token {
        Token {
            partition: 0,
            position,
        }
    }

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

    fn insert(inflight: &mut Inflight, position: u64) -> Option<PacketId> {
        inflight.insert(token(position), Step::Published, published())
    }

    #[test]
    fn restored_ids_keep_their_places_and_are_not_given_again() {
        let mut inflight = Inflight::default();
        for number in [3, 70, 5] {
            let id = PacketId::new(number).unwrap();
            assert!(inflight.restore(id, token(u64::from(number)), Some(published())));
            assert!(!inflight.restore(id, token(0), None), "restored twice");
        }
        let released = PacketId::new(4).unwrap();
        assert!(inflight.restore(released, token(4), None));
        assert_eq!(inflight.waiting_len(), 3);
        let order: Vec<_> = inflight
            .in_order()
            .iter()
            .map(|entry| entry.token.position)
            .collect();
        assert_eq!(order, [3, 70, 5, 4]);
        for _ in 0..100_000 {
            let id = insert(&mut inflight, 0).unwrap();
            assert!(![3, 70, 5, 4].contains(&id.number()));
            inflight.remove(id).unwrap();
        }
        // Ids that differ in the highest bit only.
        let far = PacketId::new(3 + (1 << 15)).unwrap();
        assert!(inflight.restore(far, token(1), None));
        assert_eq!(inflight.remove(far).unwrap().token, token(1));
    }

    #[test]
    fn ids_wrap_and_skip_what_is_in_use() {
        let mut inflight = Inflight::default();
        let stuck = insert(&mut inflight, 7).unwrap();
        assert_eq!(stuck.number(), 1);
        for turn in 0..200_000_u64 {
            let id = insert(&mut inflight, turn).unwrap();
            assert_ne!(id, stuck);
            assert_eq!(inflight.remove(id).unwrap().token, token(turn));
        }
        assert_eq!(inflight.slots.len(), 4);
        assert_eq!(inflight.remove(stuck).unwrap().token, token(7));
    }

    #[test]
    fn every_id_can_be_in_use_and_no_more() {
        let mut inflight = Inflight::default();
        for _ in 0..65_535 {
            assert!(insert(&mut inflight, 0).is_some());
        }
        assert_eq!(insert(&mut inflight, 0), None);
        inflight.remove(PacketId::new(4711).unwrap()).unwrap();
        assert_eq!(insert(&mut inflight, 0), PacketId::new(4711));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(operations in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..400)) {
            let mut inflight = Inflight::default();
            let mut model: BTreeMap<u64, PacketId> = BTreeMap::new();
            for (token, (is_insert, index)) in operations.into_iter().enumerate() {
                let token = token as u64;
                if is_insert || model.is_empty() {
                    let id = insert(&mut inflight, token).unwrap();
                    prop_assert!(model.values().all(|used| *used != id));
                    model.insert(token, id);
                } else {
                    let token = *index.get(&model.keys().copied().collect::<Vec<_>>());
                    let id = model.remove(&token).unwrap();
                    prop_assert_eq!(inflight.remove(id).unwrap().token.position, token);
                    prop_assert!(inflight.remove(id).is_none());
                }
                prop_assert_eq!(inflight.len(), model.len());
                let ids: Vec<_> = inflight.in_order().iter().map(|entry| entry.packet_id).collect();
                prop_assert_eq!(ids, model.values().copied().collect::<Vec<_>>());
            }
        }
    }
}
