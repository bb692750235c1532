//! SUBSCRIBE and UNSUBSCRIBE, in the order in which they came.
//!
//! ```text
//! SUBSCRIBE ──► watched by the cluster ──► in its turn: inserted ──► committed to the session, ──► answered
//!               (several at a time)                                  retained messages read
//! UNSUBSCRIBE ────────────────────────────► in its turn: ──────────► committed ──► removed, answered
//! ```
//! After the insertion the tail offers everything that commits later; so what is committed after the SUBACK reaches the subscription, and
//! what was retained before is read after the insertion. Sessions that end with their connection commit nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use magpie_cluster::{Cluster, Error, TailItem};
use magpie_codec::{QoS, ReasonCode, RetainHandling, TopicFilter};
use magpie_session::{Answer, Delivery, Session, Subscription, SubscriptionState, Ticket, Token};
use magpie_state::{ClientId, Epoch, PartitionId, Position, Record, StoredSubscription};
use tracing::debug;

use crate::clock;
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::positions::Indexes;
use crate::read::{Reading, is_kept};
use crate::subscribers::{Inserted, Subscribers};
use crate::task;

/// Filters of one SUBSCRIBE that are watched at the same time.
const WATCHES_MAX: usize = 64;
/// Pause before filters of a resumed session are watched again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The pending SUBSCRIBEs and UNSUBSCRIBEs of one connection; how many is bounded by the session.
#[derive(Debug, Default)]
pub(crate) struct Subscribing {
    pending: VecDeque<Pending>,
    /// The number of the first one.
    first: u32,
}

#[derive(Debug)]
enum Pending {
    Subscribe {
        ticket: Ticket,
        subscriptions: Vec<Subscription>,
        step: Step,
    },
    Unsubscribe {
        ticket: Ticket,
        filters: Vec<TopicFilter>,
        /// Whether the commit is under way.
        is_committing: bool,
    },
}

#[derive(Debug)]
enum Step {
    /// Waits for the cluster.
    Watching,
    /// Watched, or not, in the order of the filters; waits for its turn.
    Watched(Vec<Watched>),
    /// Inserted; waits until it is committed and what was retained is read.
    Settling {
        reasons: Vec<ReasonCode>,
        /// Those that are inserted, for the case that they cannot be kept.
        new: Vec<TopicFilter>,
    },
}

/// Log indexes that this node's tails have passed after the watch, or the reason for SUBACK.
pub(crate) type Watched = Result<Indexes, ReasonCode>;

/// What became of the part of a SUBSCRIBE or UNSUBSCRIBE that is done beside the connection task.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Whether it is committed; false: the client has a newer connection.
    committed: Result<bool, Error>,
    /// Messages that were retained when the subscriptions were inserted, in the order of the filters.
    retained: Vec<Delivery>,
}

/// What the connection is to do next.
pub(crate) enum Next {
    /// Tell the session, and then hand it these messages before any other.
    Answer(Ticket, Answer, Vec<Delivery>),
    /// The client has a newer connection.
    TakenOver,
    /// Nobody knows what was committed: only a new connection can tell.
    Unknown,
}

/// Where subscriptions take effect.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) subscribers: &'a Subscribers,
    pub(crate) handle: &'a Arc<Handle>,
    /// Of a session that outlives its connection.
    pub(crate) durable: Option<(&'a ClientId, Epoch)>,
}

/// A subscription whose retained messages are to be read.
struct WantsRetained {
    subscription: Subscription,
    /// Newer ones come from the tail.
    upto: Indexes,
}

impl Subscribing {
    /// Begins a SUBSCRIBE: its filters are watched. The outcome comes by the mailbox.
    pub(crate) fn subscribe(
        &mut self,
        place: Place<'_>,
        ticket: Ticket,
        subscriptions: Vec<Subscription>,
    ) {
        let filters = subscriptions.iter().map(|it| it.filter.clone()).collect();
        // Truncation wraps, as the numbers do.
        let number = self.first.wrapping_add(self.pending.len() as u32);
        self.pending.push_back(Pending::Subscribe {
            ticket,
            subscriptions,
            step: Step::Watching,
        });
        let watching = watch_all(
            place.cluster.clone(),
            Arc::clone(place.handle),
            filters,
            number,
        );
        task::spawn(watching);
    }

    /// Begins an UNSUBSCRIBE.
    pub(crate) fn unsubscribe(&mut self, ticket: Ticket, filters: Vec<TopicFilter>) {
        self.pending.push_back(Pending::Unsubscribe {
            ticket,
            filters,
            is_committing: false,
        });
    }

    /// The filters of the SUBSCRIBE with this number are watched, or not.
    pub(crate) fn watched(&mut self, number: u32, watched: Vec<Watched>) {
        let at = number.wrapping_sub(self.first) as usize;
        if let Some(Pending::Subscribe { step, .. }) = self.pending.get_mut(at) {
            *step = Step::Watched(watched);
        }
    }

    /// Whether messages are to be held back, since retained ones come first.
    pub(crate) fn holds_deliveries(&self) -> bool {
        matches!(
            self.pending.front(),
            Some(Pending::Subscribe {
                step: Step::Settling { .. },
                ..
            })
        )
    }

    /// Takes the first one on as far as it goes. To be called until `None`.
    pub(crate) fn next(&mut self, place: Place<'_>, reading: &mut Reading) -> Option<Next> {
        match self.pending.front_mut()? {
            Pending::Subscribe {
                subscriptions,
                step,
                ..
            } => {
                let Step::Watched(watched) = step else {
                    return None;
                };
                let watched = std::mem::take(watched);
                let inserting = place.insert_all(subscriptions, watched, reading);
                let Inserting {
                    reasons,
                    new,
                    commit,
                    retained,
                } = inserting;
                *step = Step::Settling { reasons, new };
                if commit.is_some() || !retained.is_empty() {
                    place.settle(commit, retained);
                    return None;
                }
                let settled = Settled {
                    committed: Ok(true),
                    retained: Vec::new(),
                };
                self.settled(place, reading, settled)
            }
            Pending::Unsubscribe {
                filters,
                is_committing,
                ..
            } => {
                if *is_committing {
                    return None;
                }
                *is_committing = true;
                if let Some((client, epoch)) = place.durable {
                    let record = Record::Unsubscribe {
                        client: client.clone(),
                        epoch,
                        filters: filters.clone(),
                    };
                    place.settle(Some(record), Vec::new());
                    return None;
                }
                let settled = Settled {
                    committed: Ok(true),
                    retained: Vec::new(),
                };
                self.settled(place, reading, settled)
            }
        }
    }

    /// The first one is settled.
    pub(crate) fn settled(
        &mut self,
        place: Place<'_>,
        reading: &mut Reading,
        settled: Settled,
    ) -> Option<Next> {
        self.first = self.first.wrapping_add(1);
        let pending = self.pending.pop_front()?;
        let is_kept = match settled.committed {
            Ok(true) => true,
            Ok(false) => return Some(Next::TakenOver),
            Err(Error::Unknown(_)) => return Some(Next::Unknown),
            Err(_) => false,
        };
        Some(match pending {
            Pending::Subscribe { ticket, step, .. } => {
                let Step::Settling { mut reasons, new } = step else {
                    return None;
                };
                if !is_kept {
                    for filter in &new {
                        place.remove(filter, reading);
                    }
                    let refused = ReasonCode::UnspecifiedError;
                    reasons
                        .iter_mut()
                        .filter(|reason| !reason.is_error())
                        .for_each(|reason| *reason = refused);
                }
                Next::Answer(ticket, Answer::Subscribed(reasons), settled.retained)
            }
            Pending::Unsubscribe {
                ticket, filters, ..
            } => {
                let reasons = if is_kept {
                    filters
                        .iter()
                        .map(|filter| place.remove(filter, reading))
                        .collect()
                } else {
                    vec![ReasonCode::UnspecifiedError; filters.len()]
                };
                Next::Answer(ticket, Answer::Unsubscribed(reasons), Vec::new())
            }
        })
    }

    /// The connection is closed: gives back what was watched for SUBSCRIBEs that did not take effect.
    pub(crate) fn close(self, place: Place<'_>) {
        for pending in self.pending {
            if let Pending::Subscribe {
                subscriptions,
                step: Step::Watched(watched),
                ..
            } = pending
            {
                let filters: Vec<_> = subscriptions.into_iter().map(|it| it.filter).collect();
                give_back(place.cluster, place.handle, &filters, &watched);
            }
        }
        for filter in place.subscribers.remove_all(place.handle) {
            place.leave(&filter);
        }
    }
}

/// A SUBSCRIBE whose filters were inserted.
struct Inserting {
    reasons: Vec<ReasonCode>,
    new: Vec<TopicFilter>,
    commit: Option<Record>,
    retained: Vec<WantsRetained>,
}

impl Place<'_> {
    fn insert_all(
        self,
        subscriptions: &[Subscription],
        watched: Vec<Watched>,
        reading: &mut Reading,
    ) -> Inserting {
        let mut inserting = Inserting {
            reasons: Vec::with_capacity(subscriptions.len()),
            new: Vec::new(),
            commit: None,
            retained: Vec::new(),
        };
        let mut stored = Vec::new();
        for (subscription, watched) in subscriptions.iter().zip(watched) {
            let inserted = match self.insert(subscription, watched) {
                Ok(inserted) => inserted,
                Err(reason) => {
                    inserting.reasons.push(reason);
                    continue;
                }
            };
            inserting
                .reasons
                .push(ReasonCode::granted(subscription.options.qos));
            if !inserted.is_replaced {
                inserting.new.push(subscription.filter.clone());
            }
            if self.durable.is_some() {
                stored.push(self.note(subscription, &inserted, reading));
            }
            if wants_retained(subscription) {
                inserting.retained.push(WantsRetained {
                    subscription: subscription.clone(),
                    upto: inserted.after,
                });
            }
        }
        if let (Some((client, epoch)), false) = (self.durable, stored.is_empty()) {
            inserting.commit = Some(Record::Subscribe {
                client: client.clone(),
                epoch,
                subscriptions: stored,
            });
        }
        inserting
    }

    fn insert(self, subscription: &Subscription, watched: Watched) -> Result<Inserted, ReasonCode> {
        let Subscription {
            filter,
            options,
            id,
            ..
        } = subscription;
        let passed = watched.inspect_err(|_| self.give_up(filter))?;
        if !filter.is_shared() && options.qos > QoS::AtMostOnce {
            // Before the tail can offer anything for it.
            let begun = self.subscribers.positions.begun(filter, &passed);
            self.handle.mailbox.with_lanes(|lanes| {
                for (partition, index) in &begun {
                    lanes.insert(*partition, Position::end_of(*index));
                }
            });
        }
        let inserted = self
            .subscribers
            .insert(self.handle, filter, *options, *id, &passed)
            .inspect_err(|_| self.leave(filter))?;
        if inserted.is_replaced {
            // The subscription that was there has its own watch; this one was only for the barrier.
            self.cluster.unwatch(filter);
        }
        Ok(inserted)
    }

    /// Inserts a subscription of a session that goes on, unless a SUBSCRIBE of this connection came first. Above the indexes that are
    /// returned, everything is offered to it.
    fn insert_resumed(
        self,
        subscription: &Subscription,
        watched: Watched,
    ) -> Result<Indexes, ReasonCode> {
        let filter = &subscription.filter;
        if let (true, Ok(passed)) = (self.subscribers.contains(self.handle, filter), &watched) {
            self.cluster.unwatch(filter);
            return Ok(self.subscribers.positions.begun(filter, passed));
        }
        Ok(self.insert(subscription, watched)?.after)
    }

    /// Begins to keep a subscription's place in the logs; gives what is to be committed of it.
    fn note(
        self,
        subscription: &Subscription,
        inserted: &Inserted,
        reading: &mut Reading,
    ) -> StoredSubscription {
        let Subscription {
            filter,
            options,
            id,
            ..
        } = subscription;
        let since: Vec<_> = inserted
            .after
            .iter()
            .map(|(partition, index)| (*partition, Position::end_of(*index)))
            .collect();
        if is_kept(
            filter,
            &SubscriptionState {
                options: *options,
                id: *id,
            },
        ) {
            reading.note_since(filter, since.clone());
        } else {
            // Should its QoS rise later, it begins then.
            reading.forget_since(filter);
        }
        reading.subscriptions_changed();
        StoredSubscription {
            filter: filter.clone(),
            options: *options,
            id: *id,
            since,
        }
    }

    fn settle(self, commit: Option<Record>, retained: Vec<WantsRetained>) {
        let (cluster, handle) = (self.cluster.clone(), Arc::clone(self.handle));
        task::spawn(settle(cluster, handle, commit, retained));
    }

    fn remove(self, filter: &TopicFilter, reading: &mut Reading) -> ReasonCode {
        reading.forget_since(filter);
        reading.subscriptions_changed();
        if !self.subscribers.remove(self.handle, filter) {
            return ReasonCode::NoSubscriptionExisted;
        }
        self.leave(filter);
        ReasonCode::Success
    }

    /// After a failed watch. A join may have been committed all the same; it stays if there was a subscription before.
    fn give_up(self, filter: &TopicFilter) {
        if filter.is_shared() && !self.subscribers.contains(self.handle, filter) {
            self.cluster.leave_share(filter, self.handle.member());
        }
    }

    fn leave(self, filter: &TopicFilter) {
        leave(self.cluster, self.handle, filter);
    }
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]; a shared subscription gets none [section 4.8.2].
fn wants_retained(subscription: &Subscription) -> bool {
    !subscription.filter.is_shared()
        && match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !subscription.replaces,
            RetainHandling::DoNotSend => false,
        }
}

async fn settle(
    cluster: Cluster,
    handle: Arc<Handle>,
    commit: Option<Record>,
    wanted: Vec<WantsRetained>,
) {
    let Some(client) = handle.client() else {
        return;
    };
    let committing = async {
        match commit {
            Some(record) => cluster.commit(client, record).await,
            None => Ok(true),
        }
    };
    let reading = async {
        let mut retained = Vec::new();
        for wanted in wanted {
            retained.extend(read_retained(&cluster, client, wanted).await?);
        }
        Ok::<_, Error>(retained)
    };
    let (committed, retained) = tokio::join!(committing, reading);
    let settled = match retained {
        Ok(retained) => Settled {
            committed,
            retained,
        },
        // Without its retained messages a subscription is not what was asked for.
        Err(error) => Settled {
            committed: match committed {
                Ok(true) => Err(Error::Unknown("retained messages cannot be read")),
                other => {
                    debug!(%error, "retained messages cannot be read");
                    other
                }
            },
            retained: Vec::new(),
        },
    };
    // A connection that is gone needs no answer; what was committed is its session's.
    let _ = handle.mailbox.post(Post::Settled(Box::new(settled)));
}

/// The retained messages for a subscription, as they were when it was inserted: newer ones come from the tail.
async fn read_retained(
    cluster: &Cluster,
    client: &ClientId,
    wanted: WantsRetained,
) -> Result<Vec<Delivery>, Error> {
    let WantsRetained { subscription, upto } = wanted;
    let no_local = subscription.options.no_local;
    let reads = upto.iter().map(async |(partition, index)| {
        let mut deliveries = Vec::new();
        let mut after = None;
        loop {
            let page = cluster
                .retained(*partition, &subscription.filter, *index, after.as_ref())
                .await?;
            let items = page.items.into_iter();
            // [MQTT-3.8.3-3]
            let is_own = |item: &TailItem| no_local && item.publisher == *client;
            let old = items.filter(|item| item.position.index() <= *index && !is_own(item));
            deliveries.extend(old.map(|item| retained(&subscription, *partition, item)));
            after = page.next;
            if after.is_none() {
                return Ok(deliveries);
            }
        }
    });
    let deliveries: Vec<Vec<Delivery>> = future::try_join_all(reads).await?;
    Ok(deliveries.into_iter().flatten().collect())
}

fn retained(subscription: &Subscription, partition: PartitionId, item: TailItem) -> Delivery {
    Delivery {
        expires_at: clock::expires_at(&item.message, item.published_ms),
        message: item.message,
        qos: item.qos.min(subscription.options.qos),
        // [MQTT-3.3.1-8]
        retain: true,
        subscription_ids: subscription.id.into_iter().collect(),
        token: Token {
            partition: partition.0,
            position: item.position.0,
        },
    }
}

fn leave(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) {
    if filter.is_shared() {
        cluster.leave_share(filter, handle.member());
    }
    cluster.unwatch(filter);
}

async fn watch_all(cluster: Cluster, handle: Arc<Handle>, filters: Vec<TopicFilter>, number: u32) {
    let watched = watch_some(&cluster, &handle, &filters).await;
    if let Err(Post::Watched { watched, .. }) =
        handle.mailbox.post(Post::Watched { number, watched })
    {
        give_back(&cluster, &handle, &filters, &watched);
    }
}

async fn watch_some(cluster: &Cluster, handle: &Handle, filters: &[TopicFilter]) -> Vec<Watched> {
    let mut outcomes = Vec::with_capacity(filters.len());
    for some in filters.chunks(WATCHES_MAX) {
        let watching = some.iter().map(|filter| watch(cluster, handle, filter));
        let watched = future::join_all(watching).await.into_iter();
        outcomes.extend(watched.map(|it| it.map_err(|error| refusal(&error))));
    }
    outcomes
}

async fn watch(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) -> Result<Indexes, Error> {
    let barrier = cluster.watch(filter).await?;
    let indexes = barrier.indexes().to_vec();
    let passed = cluster.passed(barrier).await;
    let joined = match passed {
        Ok(()) if filter.is_shared() => cluster.join_share(filter, handle.member()).await,
        passed => passed,
    };
    joined
        .map(|()| indexes)
        .inspect_err(|_| cluster.unwatch(filter))
}

/// Gives back what was watched and joined, since the connection is gone.
fn give_back(cluster: &Cluster, handle: &Handle, filters: &[TopicFilter], watched: &[Watched]) {
    for (filter, watched) in filters.iter().zip(watched) {
        match watched {
            Ok(_) => leave(cluster, handle, filter),
            Err(_) if filter.is_shared() => cluster.leave_share(filter, handle.member()),
            Err(_) => {}
        }
    }
}

/// Filters of a resumed session that are watched now, or not, in their order.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) filters: Vec<TopicFilter>,
    pub(crate) watched: Vec<Watched>,
}

impl Resumed {
    /// The connection is gone.
    pub(crate) fn undo(self, place: Place<'_>) {
        give_back(place.cluster, place.handle, &self.filters, &self.watched);
    }
}

/// Watches the filters of a session that goes on; the outcome comes by the mailbox.
pub(crate) fn resume(place: Place<'_>, filters: Vec<TopicFilter>) {
    task::spawn(watch_resumed(
        place.cluster.clone(),
        Arc::clone(place.handle),
        filters,
        Duration::ZERO,
    ));
}

/// The same for those that could not be watched.
pub(crate) fn resume_later(place: Place<'_>, filters: Vec<TopicFilter>) {
    task::spawn(watch_resumed(
        place.cluster.clone(),
        Arc::clone(place.handle),
        filters,
        RETRY_AFTER,
    ));
}

async fn watch_resumed(
    cluster: Cluster,
    handle: Arc<Handle>,
    filters: Vec<TopicFilter>,
    after: Duration,
) {
    tokio::time::sleep(after).await;
    if handle.mailbox.is_closed() {
        return;
    }
    let watched = watch_some(&cluster, &handle, &filters).await;
    let resumed = Box::new(Resumed { filters, watched });
    if let Err(Post::Resumed(resumed)) = handle.mailbox.post(Post::Resumed(resumed)) {
        let Resumed { filters, watched } = *resumed;
        give_back(&cluster, &handle, &filters, &watched);
    }
}

/// The filters of a resumed session take effect on this node; gives those that could not be watched, to be tried again. `offered` tells
/// from where on the tails offer everything for those that could.
pub(crate) fn resumed(
    place: Place<'_>,
    session: &Session,
    resumed: Resumed,
    offered: &mut Vec<(PartitionId, Position)>,
) -> Vec<TopicFilter> {
    let Resumed { filters, watched } = resumed;
    let mut again = Vec::new();
    for (filter, watched) in filters.into_iter().zip(watched) {
        let Some(state) = session.subscription(&filter) else {
            // Unsubscribed meanwhile.
            give_back(place.cluster, place.handle, &[filter], &[watched]);
            continue;
        };
        let subscription = Subscription {
            filter,
            options: state.options,
            id: state.id,
            replaces: false,
        };
        match place.insert_resumed(&subscription, watched) {
            Ok(after) => after.into_iter().for_each(|(partition, index)| {
                let after = Position::end_of(index);
                match offered.iter_mut().find(|(of, _)| *of == partition) {
                    Some((_, known)) => *known = after.max(*known),
                    None => offered.push((partition, after)),
                }
            }),
            Err(reason) => {
                debug!(
                    ?reason,
                    "a filter of a resumed session cannot be watched now"
                );
                again.push(subscription.filter);
            }
        }
    }
    again
}

fn refusal(error: &Error) -> ReasonCode {
    debug!(%error, "subscription refused");
    match error {
        Error::Refused(_) => ReasonCode::QuotaExceeded,
        _ => ReasonCode::UnspecifiedError,
    }
}
