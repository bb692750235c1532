//! SUBSCRIBE and UNSUBSCRIBE, in the order in which they came.
//!
//! A new filter is first watched by the cluster, beside the connection task; then the task inserts it, and only then answers: what is
//! committed after the SUBACK reaches the subscription. Several SUBSCRIBEs are watched at the same time, but they take effect in their
//! order, and so does an UNSUBSCRIBE between them.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future;
use magpie_cluster::{Cluster, Error};
use magpie_codec::{ReasonCode, TopicFilter};
use magpie_session::{Answer, Subscription, Ticket};
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::subscribers::{Inserted, Subscribers};
use crate::task;

/// Filters of one SUBSCRIBE that are watched at the same time.
const WATCHES_MAX: usize = 64;

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
        /// In the order of `subscriptions`, once known.
        outcomes: Option<Vec<Result<(), ReasonCode>>>,
    },
    Unsubscribe {
        ticket: Ticket,
        filters: Vec<TopicFilter>,
    },
}

/// Where subscriptions take effect.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) subscribers: &'a Subscribers,
    pub(crate) handle: &'a Arc<Handle>,
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
            outcomes: None,
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
        self.pending
            .push_back(Pending::Unsubscribe { ticket, filters });
    }

    /// The filters of the SUBSCRIBE with this number are watched, or not.
    pub(crate) fn watched(&mut self, number: u32, watched: Vec<Result<(), ReasonCode>>) {
        let at = number.wrapping_sub(self.first) as usize;
        if let Some(Pending::Subscribe { outcomes, .. }) = self.pending.get_mut(at) {
            *outcomes = Some(watched);
        }
    }

    /// The answer to the first one, if it can take effect now. To be called until `None`.
    pub(crate) fn next_answer(&mut self, place: Place<'_>) -> Option<(Ticket, Answer)> {
        if let Pending::Subscribe { outcomes: None, .. } = self.pending.front()? {
            return None;
        }
        self.first = self.first.wrapping_add(1);
        Some(match self.pending.pop_front()? {
            Pending::Subscribe {
                ticket,
                subscriptions,
                outcomes,
            } => {
                let watched = subscriptions.iter().zip(outcomes.unwrap_or_default());
                let reasons = watched
                    .map(|(it, watched)| place.insert(it, watched))
                    .collect();
                (ticket, Answer::Subscribed(reasons))
            }
            Pending::Unsubscribe { ticket, filters } => {
                let reasons = filters.iter().map(|filter| place.remove(filter)).collect();
                (ticket, Answer::Unsubscribed(reasons))
            }
        })
    }

    /// The connection is closed: gives back what was watched for SUBSCRIBEs that did not take effect.
    pub(crate) fn close(self, place: Place<'_>) {
        for pending in self.pending {
            if let Pending::Subscribe {
                subscriptions,
                outcomes: Some(outcomes),
                ..
            } = pending
            {
                let filters: Vec<_> = subscriptions.into_iter().map(|it| it.filter).collect();
                give_back(place.cluster, place.handle, &filters, &outcomes);
            }
        }
        for filter in place.subscribers.remove_all(place.handle) {
            place.leave(&filter);
        }
    }
}

impl Place<'_> {
    fn insert(self, subscription: &Subscription, watched: Result<(), ReasonCode>) -> ReasonCode {
        let Subscription {
            filter,
            options,
            id,
            ..
        } = subscription;
        if let Err(reason) = watched {
            self.give_up(filter);
            return reason;
        }
        match self.subscribers.insert(self.handle, filter, *options, *id) {
            Ok(Inserted::New) => ReasonCode::granted(options.qos),
            Ok(Inserted::Replaced) => {
                // The subscription that was there has its own watch; this one was only for the barrier.
                self.cluster.unwatch(filter);
                ReasonCode::granted(options.qos)
            }
            Err(reason) => {
                self.leave(filter);
                reason
            }
        }
    }

    fn remove(self, filter: &TopicFilter) -> ReasonCode {
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

fn leave(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) {
    if filter.is_shared() {
        cluster.leave_share(filter, handle.member());
    }
    cluster.unwatch(filter);
}

async fn watch_all(cluster: Cluster, handle: Arc<Handle>, filters: Vec<TopicFilter>, number: u32) {
    let mut outcomes = Vec::with_capacity(filters.len());
    for some in filters.chunks(WATCHES_MAX) {
        let watching = some.iter().map(|filter| watch(&cluster, &handle, filter));
        let watched = future::join_all(watching).await.into_iter();
        outcomes.extend(watched.map(|it| it.map_err(|error| refusal(&error))));
    }
    if let Err(Post::Watched { outcomes, .. }) =
        handle.mailbox.post(Post::Watched { number, outcomes })
    {
        give_back(&cluster, &handle, &filters, &outcomes);
    }
}

async fn watch(cluster: &Cluster, handle: &Handle, filter: &TopicFilter) -> Result<(), Error> {
    let barrier = cluster.watch(filter).await?;
    let passed = cluster.passed(barrier).await;
    let joined = match passed {
        Ok(()) if filter.is_shared() => cluster.join_share(filter, handle.member()).await,
        passed => passed,
    };
    joined.inspect_err(|_| cluster.unwatch(filter))
}

/// Gives back what was watched and joined, since the connection is gone.
fn give_back(
    cluster: &Cluster,
    handle: &Handle,
    filters: &[TopicFilter],
    outcomes: &[Result<(), ReasonCode>],
) {
    for (filter, outcome) in filters.iter().zip(outcomes) {
        match outcome {
            Ok(()) => leave(cluster, handle, filter),
            Err(_) if filter.is_shared() => cluster.leave_share(filter, handle.member()),
            Err(_) => {}
        }
    }
}

fn refusal(error: &Error) -> ReasonCode {
    debug!(%error, "subscription refused");
    match error {
        Error::Refused(_) => ReasonCode::QuotaExceeded,
        _ => ReasonCode::UnspecifiedError,
    }
}
