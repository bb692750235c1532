//! Tells the other nodes for which filters this node has online subscribers: the routes of the direct class.
//!
//! Only the first and the last subscriber of a filter on this node matter; share groups also tell how many members there are. Changes are
//! batched into one control command; the last unsubscription of a filter lingers, since phones come back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use magpie_codec::TopicFilter;
use magpie_state::control::{ControlAnswer, ControlCommand, MemberState, RouteChange};
use magpie_state::{NodeId, StreamId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::membership::Membership;
use crate::proto;
use crate::rpc::{Channels, Purpose};

/// Changes in one command.
const CHANGES_MAX: usize = 1000;
/// The longest wait for another node to apply a route: the direct class promises no more.
const VISIBLE_WITHIN: Duration = Duration::from_millis(200);
/// Pause before a command is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The filters of this node, as they are and as the others know them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Routes {
    inner: Arc<Inner>,
}

struct Inner {
    stream: StreamId,
    membership: Membership,
    channels: Channels,
    linger: Duration,
    table: Mutex<Table>,
    more: Notify,
    /// Tickets up to this one are visible on every live node, or were waited for long enough.
    visible: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    /// Subscribers now, and what the others were told.
    filters: HashMap<TopicFilter, Route>,
    /// Filters whose number differs from what was told.
    dirty: HashSet<TopicFilter>,
    /// Filters whose last subscriber went, oldest first: told when the linger is over.
    lingering: VecDeque<(Instant, TopicFilter)>,
    /// The last ticket given out.
    ticket: u64,
    /// A refusal was logged.
    has_refusals: bool,
}

#[derive(Default)]
struct Route {
    subscribers: u32,
    told: u32,
    is_lingering: bool,
    /// The others' table has no room for it. Tried again when the number of subscribers changes.
    is_refused: bool,
}

impl Routes {
    pub(crate) fn start(
        stream: StreamId,
        membership: Membership,
        channels: Channels,
        linger: Duration,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner {
            stream,
            membership,
            channels,
            linger,
            table: Mutex::default(),
            more: Notify::new(),
            visible: watch::Sender::new(0),
        };
        let routes = Self {
            inner: Arc::new(inner),
        };
        let task = routes.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        routes
    }

    /// Counts one more subscriber; the ticket is for [`visible`](Self::visible).
    pub(crate) fn add(&self, filter: &TopicFilter) -> u64 {
        let mut table = self.lock();
        let route = table.filters.entry(filter.clone()).or_default();
        route.subscribers += 1;
        let tell = route.is_news(filter);
        if !tell {
            // The first subscriber's change may still be on its way.
            return table.ticket;
        }
        table.dirty.insert(filter.clone());
        table.ticket += 1;
        let ticket = table.ticket;
        drop(table);
        self.inner.more.notify_one();
        ticket
    }

    /// Counts one less.
    pub(crate) fn remove(&self, filter: &TopicFilter) {
        let mut table = self.lock();
        let Some(route) = table.filters.get_mut(filter) else {
            return;
        };
        route.subscribers = route.subscribers.saturating_sub(1);
        if route.subscribers == 0 && !filter.is_shared() {
            if std::mem::replace(&mut route.is_lingering, true) {
                return;
            }
            let due = Instant::now() + self.inner.linger;
            table.lingering.push_back((due, filter.clone()));
        } else if route.is_news(filter) {
            // A share group's members are handed messages by number: that they are fewer must be known soon.
            table.dirty.insert(filter.clone());
        }
        drop(table);
        self.inner.more.notify_one();
    }

    /// Whether the others had no room for the route of a filter.
    pub(crate) fn is_refused(&self, filter: &TopicFilter) -> bool {
        let table = self.lock();
        let route = table.filters.get(filter);
        route.is_some_and(|route| route.is_refused)
    }

    /// Resolves when a ticket's route is applied on every live node, or when it was waited for long enough.
    pub(crate) async fn visible(&self, ticket: u64) {
        let mut visible = self.inner.visible.subscribe();
        let reached = visible.wait_for(|upto| *upto >= ticket);
        // A route that takes longer is told to the others all the same.
        let _ = tokio::time::timeout(2 * VISIBLE_WITHIN, reached).await;
    }

    async fn run(self) {
        loop {
            let due = self.take_due();
            let (changes, ticket) = self.take_changes();
            if changes.is_empty() {
                self.inner
                    .visible
                    .send_modify(|visible| *visible = ticket.max(*visible));
                tokio::select! {
                    () = self.inner.more.notified() => {}
                    () = sleep_until(due) => {}
                }
                continue;
            }
            match self.tell(&changes).await {
                Some((index, refused)) => {
                    self.refused(&changes, &refused);
                    self.told(changes);
                    let _ =
                        tokio::time::timeout(VISIBLE_WITHIN, self.applied_everywhere(index)).await;
                    self.inner
                        .visible
                        .send_modify(|visible| *visible = ticket.max(*visible));
                }
                None => {
                    self.not_told(changes);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Makes filters whose linger is over dirty; returns when the next one is.
    fn take_due(&self) -> Option<Instant> {
        let mut table = self.lock();
        let now = Instant::now();
        while let Some((due, filter)) = table.lingering.front() {
            if *due > now {
                return Some(*due);
            }
            let filter = filter.clone();
            table.lingering.pop_front();
            if let Some(route) = table.filters.get_mut(&filter) {
                route.is_lingering = false;
                if route.subscribers == 0 {
                    table.dirty.insert(filter);
                }
            }
        }
        None
    }

    /// What the others are to be told next, and the ticket that it fulfils.
    fn take_changes(&self) -> (Vec<RouteChange>, u64) {
        let mut guard = self.lock();
        let table = &mut *guard;
        let taken: Vec<TopicFilter> = table.dirty.iter().take(CHANGES_MAX).cloned().collect();
        let mut changes = Vec::with_capacity(taken.len());
        for filter in taken {
            table.dirty.remove(&filter);
            if let Some(route) = table.filters.get_mut(&filter) {
                // Counted as told from here on, so that what changes meanwhile is news again.
                route.told = route.worth(&filter);
                route.is_refused = false;
                changes.push(RouteChange {
                    members: route.told,
                    filter,
                });
            }
        }
        // With more to tell than fits, the last ticket has to wait for the next command.
        let ticket = if table.dirty.is_empty() {
            table.ticket
        } else {
            0
        };
        (changes, ticket)
    }

    /// Index of the control log, and the ordinals of the changes that did not fit.
    async fn tell(&self, changes: &[RouteChange]) -> Option<(u64, Vec<u32>)> {
        let StreamId { node, incarnation } = self.inner.stream;
        let command = ControlCommand::Routes {
            node,
            incarnation,
            changes: changes.to_vec(),
        };
        match self.inner.membership.propose(command).await {
            Ok((index, ControlAnswer::Done)) => Some((index, Vec::new())),
            Ok((index, ControlAnswer::RoutesRefused { ordinals })) => Some((index, ordinals)),
            Ok((_, answer)) => {
                tracing::warn!(?answer, "the other nodes do not take this node's routes");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "routes not told yet");
                None
            }
        }
    }

    /// Notes which routes the others do not have.
    fn refused(&self, changes: &[RouteChange], ordinals: &[u32]) {
        let mut table = self.lock();
        for change in ordinals.iter().filter_map(|at| changes.get(*at as usize)) {
            metrics::counter!("magpie_routes_refused_total").increment(1);
            if let Some(route) = table.filters.get_mut(&change.filter) {
                route.told = 0;
                route.is_refused = true;
            }
            if !std::mem::replace(&mut table.has_refusals, true) {
                // Once: there may be as many as there are clients.
                tracing::warn!(
                    filter = %change.filter,
                    "the cluster's table of routes has no room for a filter: its subscription is refused, as are others like it"
                );
            }
        }
    }

    /// Forgets filters of which nothing is left.
    fn told(&self, changes: Vec<RouteChange>) {
        let mut table = self.lock();
        for RouteChange { filter, members } in changes {
            let route = table.filters.get(&filter);
            if members == 0 && route.is_some_and(|route| route.subscribers == 0 && route.told == 0)
            {
                table.filters.remove(&filter);
            }
        }
    }

    fn not_told(&self, changes: Vec<RouteChange>) {
        self.lock()
            .dirty
            .extend(changes.into_iter().map(|change| change.filter));
    }

    /// Resolves when every other live member has applied an index of the control log.
    async fn applied_everywhere(&self, index: u64) {
        let ours = self.inner.stream.node;
        let others: Vec<NodeId> = self.inner.membership.state(|state| {
            let live = state
                .members()
                .values()
                .filter(|member| member.state == MemberState::Up);
            live.map(|member| member.id)
                .filter(|node| *node != ours)
                .collect()
        });
        let asked = others.into_iter().map(async |node| {
            let channel = self.inner.channels.to(node, Purpose::Control);
            let mut client = proto::links_client::LinksClient::new(channel);
            // A node that does not answer is waited for no longer than the caller does.
            let _ = client.applied(proto::AppliedRequest { index }).await;
        });
        futures::future::join_all(asked).await;
        self.inner.membership.wait_applied(index).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    /// What the others are told: members of a share group, or whether there is anybody.
    fn worth(&self, filter: &TopicFilter) -> u32 {
        if filter.is_shared() {
            self.subscribers
        } else {
            self.subscribers.min(1)
        }
    }

    fn is_news(&self, filter: &TopicFilter) -> bool {
        self.worth(filter) != self.told
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
