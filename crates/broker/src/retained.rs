//! Retained messages for the subscriptions of a connection: read part by part, as the client takes them, before anything else is delivered.
//!
//! A session that outlives its connection has in its stored subscription whether there are some to be delivered, in place of Retain
//! Handling: [`RetainHandling::Send`] from the SUBSCRIBE until all of them are acknowledged, [`RetainHandling::DoNotSend`] from then on. If
//! the connection breaks in between, the next one reads them again, as of where the subscription began.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use magpie_cluster::{Cluster, Error, TailItem};
use magpie_codec::{QoS, RetainHandling, TopicFilter, TopicName};
use magpie_session::{Delivery, Session, Subscription, SubscriptionState, Token};
use magpie_state::partition::StoredSession;
use magpie_state::{ClientId, Epoch, PartitionId, Record, StoredSubscription};
use tracing::debug;

use crate::clock;
use crate::deliver::UNTRACKED;
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::positions::Indexes;
use crate::read::is_kept;
use crate::task;

/// A part ends with the page that reaches this many messages ...
const PART_MESSAGES: usize = 256;
/// ... or bytes of topics and payloads.
const PART_BYTES: usize = 256 << 10;
/// Pause after a read that failed.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// In the partition of a [`Token`]: not the message at that place of the log, but a copy of it. Far above every number of a partition.
const COPY: u16 = 0x8000;

/// What is to come of the retained messages, and what has come and is not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// By different filters, so there are no more than subscriptions; but for those of a part that is being read.
    wanted: VecDeque<Wanted>,
    /// No more than a part.
    ready: VecDeque<Delivery>,
    is_under_way: bool,
    /// Of QoS 1 and 2, not acknowledged.
    open: usize,
    /// Whose stored subscriptions say that there are some to be delivered.
    unsettled: Vec<TopicFilter>,
}

/// A subscription whose retained messages are to be read.
#[derive(Debug)]
pub(crate) struct Wanted {
    subscription: Subscription,
    /// Partitions that are left, the present one last. What is above these indexes comes from the tail.
    upto: Indexes,
    /// Of the present partition, those up to this topic were read.
    after: Option<TopicName>,
}

/// Some retained messages.
#[derive(Debug, Default)]
pub(crate) struct Part {
    deliveries: Vec<Delivery>,
    /// What is still to be read.
    rest: VecDeque<Wanted>,
}

impl Retained {
    /// Of a session that goes on: those that an earlier connection has not delivered to the end.
    pub(crate) fn resume(stored: &StoredSession) -> Option<Box<Self>> {
        let pending = stored.subscriptions.iter().filter(|stored| {
            let options = stored.options;
            let state = SubscriptionState {
                options,
                id: stored.id,
            };
            is_kept(&stored.filter, &state) && options.retain_handling == RetainHandling::Send
        });
        let wanted: VecDeque<_> = pending.map(Wanted::again).collect();
        (!wanted.is_empty()).then(|| {
            let filters = wanted.iter().map(|it| it.subscription.filter.clone());
            Box::new(Self {
                unsettled: filters.collect(),
                wanted,
                ..Self::default()
            })
        })
    }

    /// A SUBSCRIBE is answered: the first of its messages, and what else is wanted. `unsettled`: filters that are stored with some to be
    /// delivered.
    pub(crate) fn want(&mut self, part: Part, unsettled: Vec<TopicFilter>) {
        self.unsettled.retain(|filter| !unsettled.contains(filter));
        self.unsettled.extend(unsettled);
        for wanted in &part.rest {
            let filter = &wanted.subscription.filter;
            if wanted.subscription.replaces {
                // Asked for again before they were read.
                self.wanted.retain(|it| it.subscription.filter != *filter);
            }
        }
        self.make_ready(part.deliveries);
        self.wanted.extend(part.rest);
    }

    /// A part was read.
    pub(crate) fn take(&mut self, part: Part) {
        self.is_under_way = false;
        self.make_ready(part.deliveries);
        let newer = std::mem::replace(&mut self.wanted, part.rest);
        let is_asked_again = |older: &Wanted| {
            let mut newer = newer.iter();
            newer.any(|it| it.subscription.filter == older.subscription.filter)
        };
        self.wanted.retain(|older| !is_asked_again(older));
        self.wanted.extend(newer);
    }

    fn make_ready(&mut self, deliveries: Vec<Delivery>) {
        let is_open = |delivery: &&Delivery| delivery.qos > QoS::AtMostOnce;
        self.open += deliveries.iter().filter(is_open).count();
        self.ready.extend(deliveries);
    }

    /// Whether other messages have to wait.
    pub(crate) fn come_first(&self) -> bool {
        !self.ready.is_empty() || !self.wanted.is_empty() || self.is_under_way
    }

    /// The next one's QoS.
    pub(crate) fn next_qos(&self) -> Option<QoS> {
        self.ready.front().map(|delivery| delivery.qos)
    }

    /// Takes the next one.
    pub(crate) fn next(&mut self) -> Option<Delivery> {
        self.ready.pop_front()
    }

    /// A copy is acknowledged, or has expired.
    pub(crate) fn finish(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Reads on, if there is need and room.
    pub(crate) fn read_on(&mut self, cluster: &Cluster, handle: &Arc<Handle>, session: &Session) {
        if self.is_under_way || !self.ready.is_empty() {
            return;
        }
        // Unsubscribed meanwhile.
        self.wanted
            .retain(|it| session.subscription(&it.subscription.filter).is_some());
        if !self.wanted.is_empty() {
            self.is_under_way = true;
            let wanted = std::mem::take(&mut self.wanted);
            task::spawn(read_later(cluster.clone(), Arc::clone(handle), wanted));
        }
    }

    /// Nothing is left to be done.
    pub(crate) fn is_over(&self) -> bool {
        !self.come_first() && self.open == 0 && self.unsettled.is_empty()
    }

    /// When all are acknowledged: what is to be committed of it, once. To be asked while no SUBSCRIBE or UNSUBSCRIBE is under way, since it
    /// would undo that.
    pub(crate) fn settle(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        session: &Session,
    ) -> Option<Record> {
        if self.come_first() || self.open > 0 {
            return None;
        }
        let settled = std::mem::take(&mut self.unsettled).into_iter();
        let settled = settled.filter_map(|filter| {
            let state = session.subscription(&filter)?;
            is_kept(&filter, state).then(|| {
                let mut stored = StoredSubscription {
                    filter,
                    options: state.options,
                    id: state.id,
                    // Where it began stays.
                    since: Vec::new(),
                };
                stored.options.retain_handling = RetainHandling::DoNotSend;
                stored
            })
        });
        let subscriptions: Vec<_> = settled.collect();
        (!subscriptions.is_empty()).then(|| Record::Subscribe {
            client: client.clone(),
            epoch,
            subscriptions,
        })
    }
}

impl Wanted {
    pub(crate) fn new(subscription: Subscription, upto: Indexes) -> Self {
        Self {
            subscription,
            upto,
            after: None,
        }
    }

    fn again(stored: &StoredSubscription) -> Self {
        let subscription = Subscription {
            filter: stored.filter.clone(),
            options: stored.options,
            id: stored.id,
            replaces: false,
        };
        let since = stored.since.iter();
        let upto = since.map(|(partition, position)| (*partition, position.index()));
        Self::new(subscription, upto.collect())
    }
}

impl Part {
    pub(crate) fn is_empty(&self) -> bool {
        self.deliveries.is_empty() && self.rest.is_empty()
    }

    /// Notes in the stored subscriptions of a SUBSCRIBE whether there are some to be delivered; gives the filters of those.
    pub(crate) fn note(&self, stored: &mut [StoredSubscription]) -> Vec<TopicFilter> {
        let mut unsettled = Vec::new();
        for stored in stored {
            let is_one = |it: &Wanted| it.subscription.filter == stored.filter;
            let has_read = self
                .deliveries
                .iter()
                .any(|it| it.qos > QoS::AtMostOnce && stored.filter.matches(&it.message.topic));
            let may_come = stored.options.qos > QoS::AtMostOnce && !stored.filter.is_shared();
            stored.options.retain_handling =
                if may_come && (has_read || self.rest.iter().any(is_one)) {
                    unsettled.push(stored.filter.clone());
                    RetainHandling::Send
                } else {
                    RetainHandling::DoNotSend
                };
        }
        unsettled
    }
}

/// Whether a delivery is a copy of a retained message, of this connection.
pub(crate) const fn is_copy(token: Token) -> bool {
    token.partition & COPY != 0 && token.partition != UNTRACKED.partition
}

/// Whether what was sent is in no log, so that it cannot be sent again: a copy of a retained message, or one of the direct class.
pub(crate) const fn is_in_no_log(partition: u16) -> bool {
    partition & COPY != 0
}

/// Reads the first ones of what is wanted, as they were when the subscriptions were inserted.
pub(crate) async fn read(
    cluster: &Cluster,
    client: &ClientId,
    mut wanted: VecDeque<Wanted>,
) -> Result<Part, (Error, VecDeque<Wanted>)> {
    let (mut deliveries, mut bytes) = (Vec::new(), 0);
    while let Some(first) = wanted.front_mut() {
        if deliveries.len() >= PART_MESSAGES || bytes >= PART_BYTES {
            break;
        }
        let Some((partition, index)) = first.upto.last().copied() else {
            wanted.pop_front();
            continue;
        };
        let filter = &first.subscription.filter;
        let page = cluster
            .retained(partition, filter, index, first.after.as_ref())
            .await;
        let page = match page {
            Ok(page) => page,
            Err(_) if !deliveries.is_empty() => break,
            Err(error) => return Err((error, wanted)),
        };
        let subscription = &first.subscription;
        // [MQTT-3.8.3-3]
        let is_own = |item: &TailItem| subscription.options.no_local && item.publisher == *client;
        let items = page.items.into_iter();
        let old = items.filter(|item| item.position.index() <= index && !is_own(item));
        for item in old {
            bytes += item.message.bytes();
            deliveries.push(delivery(subscription, partition, item));
        }
        first.after = page.next;
        if first.after.is_none() {
            first.upto.pop();
        }
    }
    Ok(Part {
        deliveries,
        rest: wanted,
    })
}

async fn read_later(cluster: Cluster, handle: Arc<Handle>, wanted: VecDeque<Wanted>) {
    let Some(client) = handle.client() else {
        return;
    };
    let part = match read(&cluster, client, wanted).await {
        Ok(part) => part,
        Err((error, rest)) => {
            debug!(%error, "retained messages cannot be read now");
            tokio::time::sleep(RETRY_AFTER).await;
            Part {
                rest,
                ..Part::default()
            }
        }
    };
    // A connection that is gone needs none.
    let _ = handle.mailbox.post(Post::Retained(Box::new(part)));
}

fn delivery(subscription: &Subscription, partition: PartitionId, item: TailItem) -> Delivery {
    Delivery {
        expires_at: clock::expires_at(&item.message, item.published_ms),
        message: item.message,
        qos: item.qos.min(subscription.options.qos),
        // [MQTT-3.3.1-8 v3.1.1]
        retain: true,
        subscription_ids: subscription.id.into_iter().collect(),
        token: Token {
            partition: partition.0 | COPY,
            position: item.position.0,
        },
    }
}
