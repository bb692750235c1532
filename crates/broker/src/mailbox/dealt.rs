//! What share groups deal to the connection.

use magpie_session::Delivery;
use magpie_state::PartitionId;
use magpie_state::partition::Dealt;

use super::{Mailbox, Wakes, Weight};
use crate::shared::SharedMessages;

impl Mailbox {
    /// Pushes a message that a share group has dealt to the connection, or notes that it is to be fetched: without room, or without
    /// `delivery`. Its token is given here.
    pub(crate) fn deliver_shared(
        &self,
        partition: PartitionId,
        dealt: &Dealt,
        delivery: Option<Delivery>,
        wakes: &mut Wakes,
    ) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        // Its group learns from its parting that it does not have this.
        if inner.closed {
            return;
        }
        let shared = inner.shared.get_or_insert_default();
        let Some(token) = shared.offer(partition, dealt) else {
            return;
        };
        let has_room = |weight: Weight| {
            inner.held.messages < self.messages_max
                && (inner.held.messages == 0 || inner.held.bytes + weight.bytes <= self.bytes_max)
        };
        match delivery {
            Some(delivery) if !shared.has_waiting() && has_room(Weight::of(&delivery)) => {
                inner.held += Weight::of(&delivery);
                inner.deliveries.push_back(Delivery { token, ..delivery });
                if inner.waits_for_deliveries {
                    wakes.add(inner.waker.take());
                }
            }
            _ => {
                shared.defer(token);
                if !std::mem::replace(&mut inner.has_unfetched, true) {
                    wakes.add(inner.waker.take());
                }
            }
        }
    }

    /// For the task: puts messages of share groups, that were fetched, where the others come.
    pub(crate) fn put_fetched(&self, deliveries: impl Iterator<Item = Delivery>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(shared) = &mut inner.shared else {
            return;
        };
        for delivery in deliveries {
            if shared.queue(delivery.token) {
                inner.held += Weight::of(&delivery);
                inner.deliveries.push_back(delivery);
            }
        }
    }

    /// For the task, when it is attached: what an earlier connection of the session has of share groups.
    pub(crate) fn set_shared(&self, shared: SharedMessages) {
        self.lock().shared = Some(Box::new(shared));
    }

    /// Looks at what share groups have dealt, or changes it. `None` if there is nothing.
    pub(crate) fn with_shared<T>(&self, with: impl FnOnce(&mut SharedMessages) -> T) -> Option<T> {
        let mut inner = self.lock();
        inner.shared.as_deref_mut().map(with)
    }
}
