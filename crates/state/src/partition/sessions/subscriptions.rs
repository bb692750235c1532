//! Subscriptions of stored Sessions.

use magpie_codec::TopicFilter;

use super::super::Changed;
use super::session::Subscription;
use super::{Sessions, Superseded, key};
use crate::{ClientId, Epoch, Inflight, StoredSubscription};

impl Sessions {
    pub(in super::super) fn subscribe(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        subscriptions: &[StoredSubscription],
        changed: &mut Changed,
    ) -> Result<(), Superseded> {
        let number = self.acting(client, epoch)?;
        let session = self.table.at_mut(number);
        if !session.is_durable || subscriptions.is_empty() {
            return Ok(());
        }
        changed.insert(key(&client.0));
        let mut all = std::mem::take(&mut session.subscriptions).into_vec();
        for stored in subscriptions {
            let mut new = Subscription::new(stored);
            let at = all.binary_search_by(|it| it.filter.cmp(&new.filter));
            if let Ok(at) = at
                && (all[at].options.qos > magpie_codec::QoS::AtMostOnce
                    || new.options.qos == magpie_codec::QoS::AtMostOnce)
            {
                // [MQTT-3.8.4-4], [MQTT-3.8.4-3 v3.1.1]: nothing is lost by a replacement. At QoS 0 nothing was waiting.
                new.since = std::mem::take(&mut all[at].since);
            }
            if new.holds_messages() {
                self.interest.add(&stored.filter, number);
            } else {
                self.interest.remove(&stored.filter, number);
            }
            match at {
                // [MQTT-3.8.4-3]
                Ok(at) => all[at] = new,
                Err(at) => all.insert(at, new),
            }
        }
        session.subscriptions = all.into();
        Ok(())
    }

    pub(in super::super) fn unsubscribe(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        filters: &[TopicFilter],
        inflight: &[Inflight],
        changed: &mut Changed,
    ) -> Result<(), Superseded> {
        let number = self.acting(client, epoch)?;
        if self.table.at(number).is_durable && !inflight.is_empty() {
            changed.insert(key(&client.0));
            self.enter_inflight(number, inflight);
        }
        let session = self.table.at_mut(number);
        let mut all = std::mem::take(&mut session.subscriptions).into_vec();
        for filter in filters {
            if let Ok(at) = all.binary_search_by(|it| (*it.filter).cmp(filter.as_str())) {
                all.remove(at);
                self.interest.remove(filter, number);
                changed.insert(key(&client.0));
            }
        }
        session.subscriptions = all.into();
        Ok(())
    }
}
