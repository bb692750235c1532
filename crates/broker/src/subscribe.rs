//! SUBSCRIBE and UNSUBSCRIBE, in the order in which they came.
//!
//! ```text
//! SUBSCRIBE ──► watched by the cluster ──► in its turn: inserted ──► committed to the session, ──► answered
//!               (several at a time)                                  retained messages read
//! UNSUBSCRIBE ────────────────────────────► in its turn: ──────────► committed ──► removed, answered
//! ```
//! After the insertion the tail offers everything that commits later; so what is committed after the SUBACK reaches the subscription, and
//! what was retained before is read after the insertion. Sessions that end with their connection commit nothing.

mod resumed;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;

use magpie_cluster::{Cluster, Error};
use magpie_codec::{QoS, ReasonCode, RetainHandling, TopicFilter};
use magpie_session::{Answer, Subscription, SubscriptionState, Ticket};
use magpie_state::{ClientId, Epoch, Inflight, Position, Record, StoredSubscription};

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::positions::Indexes;
use crate::read::{Reading, is_kept};
use crate::retained::{self, Part, Wanted};
use crate::shares::Shares;
use crate::subscribers::{Inserted, Subscribers};
use crate::task;

pub(crate) use resumed::{Resumed, resume, resume_later, resumed};
pub(crate) use watch::{Wanted as WantedFilter, Watched};
use watch::{give_back, watch_all};

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
        /// Places in the SUBSCRIBE of filters that the client may not have, which are not among those; ascending.
        denied: Vec<usize>,
        step: Step,
    },
    Unsubscribe {
        ticket: Ticket,
        filters: Vec<TopicFilter>,
        /// Whether the commit is under way.
        is_committing: bool,
    },
    /// All retained messages are delivered, and the session is told so.
    Note,
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

/// What became of the part of a SUBSCRIBE or UNSUBSCRIBE that is done beside the connection task.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Whether it is committed; false: the client has a newer connection.
    committed: Result<bool, Error>,
    /// Messages that were retained when the subscriptions were inserted, in the order of the filters: the first of them.
    retained: Part,
    /// Filters that are stored with some to be delivered.
    unsettled: Vec<TopicFilter>,
}

/// What the connection is to do next.
pub(crate) enum Next {
    /// Tell the session, and then hand it these messages, and what is still to be read of them, before any other.
    Answer(Ticket, Answer, Part, Vec<TopicFilter>),
    /// Go on.
    Noted,
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
    pub(crate) shares: &'a Arc<Shares>,
    pub(crate) handle: &'a Arc<Handle>,
    /// Of a session that outlives its connection.
    pub(crate) durable: Option<(&'a ClientId, Epoch)>,
}

impl Subscribing {
    /// Begins a SUBSCRIBE: its filters are watched. The outcome comes by the mailbox.
    pub(crate) fn subscribe(
        &mut self,
        place: Place<'_>,
        ticket: Ticket,
        subscriptions: Vec<Subscription>,
        denied: Vec<usize>,
    ) {
        let filters = subscriptions.iter().map(wanted).collect();
        // Truncation wraps, as the numbers do.
        let number = self.first.wrapping_add(self.pending.len() as u32);
        self.pending.push_back(Pending::Subscribe {
            ticket,
            subscriptions,
            denied,
            step: Step::Watching,
        });
        let watching = watch_all(
            place.cluster.clone(),
            Arc::clone(place.shares),
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

    /// Whether nothing is pending.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Commits that the retained messages of a session are delivered. Only while nothing is pending.
    pub(crate) fn note(&mut self, place: Place<'_>, record: Record) {
        let (cluster, handle) = (place.cluster.clone(), Arc::clone(place.handle));
        self.pending.push_back(Pending::Note);
        task::spawn(note(cluster, handle, record));
    }

    /// Whether messages are to be held back: since retained ones come first, or since it is just being committed which ones the client has.
    pub(crate) fn holds_deliveries(&self) -> bool {
        matches!(
            self.pending.front(),
            Some(
                Pending::Subscribe {
                    step: Step::Settling { .. },
                    ..
                } | Pending::Unsubscribe {
                    is_committing: true,
                    ..
                }
            )
        )
    }

    /// Takes the first one on as far as it goes. To be called until `None`.
    /// `at_least_once` tells what the client has of QoS 1 and has not acknowledged.
    pub(crate) fn next(
        &mut self,
        place: Place<'_>,
        reading: &mut Reading,
        at_least_once: impl FnOnce() -> Vec<Inflight>,
    ) -> Option<Next> {
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
                    retained: Part::default(),
                    unsettled: Vec::new(),
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
                        inflight: at_least_once(),
                    };
                    place.settle(Some(record), VecDeque::new());
                    return None;
                }
                let settled = Settled {
                    committed: Ok(true),
                    retained: Part::default(),
                    unsettled: Vec::new(),
                };
                self.settled(place, reading, settled)
            }
            Pending::Note => None,
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
        if let (Pending::Note, Ok(true) | Err(_)) = (&pending, &settled.committed) {
            // If it was not committed, they come once more when the session goes on.
            return Some(Next::Noted);
        }
        let is_kept = match settled.committed {
            Ok(true) => true,
            Ok(false) => return Some(Next::TakenOver),
            Err(Error::Unknown(_)) => return Some(Next::Unknown),
            Err(_) => false,
        };
        Some(match pending {
            Pending::Subscribe {
                ticket,
                denied,
                step,
                ..
            } => {
                let Step::Settling { mut reasons, new } = step else {
                    return None;
                };
                if !is_kept {
                    for filter in &new {
                        place.remove(filter, false, reading);
                    }
                    let refused = ReasonCode::UnspecifiedError;
                    reasons
                        .iter_mut()
                        .filter(|reason| !reason.is_error())
                        .for_each(|reason| *reason = refused);
                }
                for place in denied {
                    reasons.insert(place, ReasonCode::NotAuthorized);
                }
                let answer = Answer::Subscribed(reasons);
                let retained = if is_kept {
                    settled.retained
                } else {
                    Part::default()
                };
                Next::Answer(ticket, answer, retained, settled.unsettled)
            }
            Pending::Unsubscribe {
                ticket, filters, ..
            } => {
                let reasons = if is_kept {
                    filters
                        .iter()
                        .map(|filter| place.remove(filter, self.rejoins(filter), reading))
                        .collect()
                } else {
                    vec![ReasonCode::UnspecifiedError; filters.len()]
                };
                let answer = Answer::Unsubscribed(reasons);
                Next::Answer(ticket, answer, Part::default(), Vec::new())
            }
            Pending::Note => Next::Noted,
        })
    }

    /// Whether a SUBSCRIBE that waits is for this filter of a share group. It has joined already, or does: to leave now would end that.
    fn rejoins(&self, filter: &TopicFilter) -> bool {
        let is_for = |pending: &Pending| match pending {
            Pending::Subscribe { subscriptions, .. } => {
                subscriptions.iter().any(|it| it.filter == *filter)
            }
            _ => false,
        };
        filter.is_shared() && self.pending.iter().any(is_for)
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
                let filters: Vec<_> = subscriptions.iter().map(wanted).collect();
                let Place {
                    cluster,
                    shares,
                    handle,
                    ..
                } = place;
                give_back(cluster, shares, handle, &filters, &watched);
            }
        }
        for filter in place.subscribers.remove_all(place.handle) {
            place.cluster.unwatch(&filter);
        }
    }
}

/// A SUBSCRIBE whose filters were inserted.
struct Inserting {
    reasons: Vec<ReasonCode>,
    new: Vec<TopicFilter>,
    commit: Option<Record>,
    retained: VecDeque<Wanted>,
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
            retained: VecDeque::new(),
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
                let wanted = Wanted::new(subscription.clone(), inserted.after);
                inserting.retained.push_back(wanted);
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

    fn settle(self, commit: Option<Record>, retained: VecDeque<Wanted>) {
        let (cluster, handle) = (self.cluster.clone(), Arc::clone(self.handle));
        task::spawn(settle(cluster, handle, commit, retained));
    }

    /// `rejoins`: a later SUBSCRIBE has joined the share group by now.
    fn remove(self, filter: &TopicFilter, rejoins: bool, reading: &mut Reading) -> ReasonCode {
        reading.forget_since(filter);
        reading.subscriptions_changed();
        if !self.subscribers.remove(self.handle, filter) {
            return ReasonCode::NoSubscriptionExisted;
        }
        if rejoins {
            self.cluster.unwatch(filter);
        } else {
            self.leave(filter);
        }
        ReasonCode::Success
    }

    /// After a failed watch. A join may have been committed all the same; it stays if there was a subscription before.
    fn give_up(self, filter: &TopicFilter) {
        if filter.is_shared() && !self.subscribers.contains(self.handle, filter) {
            self.shares.leave(self.handle, filter);
        }
    }

    fn leave(self, filter: &TopicFilter) {
        if filter.is_shared() {
            self.shares.leave(self.handle, filter);
        }
        self.cluster.unwatch(filter);
    }
}

fn wanted(subscription: &Subscription) -> WantedFilter {
    (subscription.filter.clone(), subscription.options.qos)
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11], [MQTT-3.3.1-6 v3.1.1]; a shared subscription gets none [section 4.8.2].
fn wants_retained(subscription: &Subscription) -> bool {
    !subscription.filter.is_shared()
        && match subscription.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !subscription.replaces,
            RetainHandling::DoNotSend => false,
        }
}

async fn note(cluster: Cluster, handle: Arc<Handle>, record: Record) {
    let Some(client) = handle.client() else {
        return;
    };
    let committed = cluster.commit(client, record).await;
    let _ = handle.mailbox.post(Post::Settled(Box::new(Settled {
        committed,
        retained: Part::default(),
        unsettled: Vec::new(),
    })));
}

async fn settle(
    cluster: Cluster,
    handle: Arc<Handle>,
    mut commit: Option<Record>,
    wanted: VecDeque<Wanted>,
) {
    let Some(client) = handle.client() else {
        return;
    };
    // First: whether there are some is committed.
    let (retained, error) = match retained::read(&cluster, client, wanted).await {
        Ok(part) => (part, None),
        Err((error, _)) => (Part::default(), Some(error)),
    };
    let mut unsettled = Vec::new();
    if let Some(Record::Subscribe { subscriptions, .. }) = &mut commit {
        unsettled = retained.note(subscriptions);
    }
    let committed = match (error, commit) {
        // Without its retained messages a subscription is not what was asked for.
        (Some(error), _) => Err(error),
        (None, Some(record)) => cluster.commit(client, record).await,
        (None, None) => Ok(true),
    };
    // A connection that is gone needs no answer; what was committed is its session's.
    let _ = handle.mailbox.post(Post::Settled(Box::new(Settled {
        committed,
        retained,
        unsettled,
    })));
}
