//! Making a connection its client's only one, and finding the session that it goes on with. The work is done beside the connection task,
//! which is told by its mailbox.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use magpie_audit::What;
use magpie_cluster::{Attach, Attached, Cluster, Error, TailItem};
use magpie_codec::{ReasonCode, TopicFilter};
use magpie_session::Ticket;
use magpie_state::partition::StoredSession;
use magpie_state::{ClientId, Epoch, PartitionId, Position, Record, Stage, StoredSubscription};
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::node::Shared;
use crate::retained::is_in_no_log;

/// What an attach brought.
pub(crate) struct Begun {
    pub(crate) attached: Attached,
    /// Of the session that goes on: the messages that were sent and not acknowledged.
    pub(crate) unacknowledged: HashMap<(PartitionId, Position), TailItem>,
    /// Shared subscriptions that were taken from it.
    pub(crate) left: Vec<TopicFilter>,
}

impl fmt::Debug for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun")
            .field("epoch", &self.attached.epoch)
            .field("session_present", &self.attached.session.is_some())
            .finish_non_exhaustive()
    }
}

/// Attaches, and posts the answer. A connection that is gone by then is detached again.
pub(crate) async fn run(node: Arc<Shared>, handle: Arc<Handle>, attach: Attach, ticket: Ticket) {
    let client = attach.client.clone();
    let cluster = &node.cluster;
    let result = begin(&node, &handle, attach).await.map(Box::new);
    if let Err(Error::Foreign) = result {
        let why = "the session belongs to another user";
        node.access.refused(What::Connect, why, &handle, None);
    }
    let result = result.map_err(|error| refusal(&error));
    if let Err(post) = handle.mailbox.post(Post::Attached { ticket, result }) {
        undo(cluster, &client, post);
    }
}

async fn begin(node: &Shared, handle: &Handle, attach: Attach) -> Result<Begun, Error> {
    let client = attach.client.clone();
    let cluster = &node.cluster;
    let mut attached = cluster.attach(attach).await?;
    let epoch = attached.epoch;
    let gone_on = match &mut attached.session {
        Some(session) => go_on(node, handle, &client, epoch, session).await,
        None => Ok((Vec::new(), HashMap::new())),
    };
    match gone_on {
        Ok((left, unacknowledged)) => Ok(Begun {
            attached,
            unacknowledged,
            left,
        }),
        Err(error) => {
            cluster.detach(attached.undo(client));
            Err(error)
        }
    }
}

type Unacknowledged = HashMap<(PartitionId, Position), TailItem>;

/// Reads what a session needs to go on, and takes from it what its client may not read any more: subscriptions, and messages that were
/// sent and not acknowledged, which count as delivered. Gives the shared ones of those subscriptions.
async fn go_on(
    node: &Shared,
    handle: &Handle,
    client: &ClientId,
    epoch: Epoch,
    session: &mut StoredSession,
) -> Result<(Vec<TopicFilter>, Unacknowledged), Error> {
    let policy = node.access.policy();
    let identity = handle.identity();
    let may_subscribe = |filter: &TopicFilter| {
        let subject = identity.as_ref().map(|identity| &identity.subject);
        subject.is_some_and(|subject| policy.may_subscribe(subject, filter.filter()))
    };
    let is_denied = |it: &StoredSubscription| !may_subscribe(&it.filter);
    let denied = session.subscriptions.extract_if(.., |it| is_denied(it));
    let denied: Vec<TopicFilter> = denied.map(|it| it.filter).collect();
    if !denied.is_empty() {
        let filter = denied.first().map(TopicFilter::as_str);
        let why = "no rule allows a stored subscription any more";
        node.access.refused(What::Stay, why, handle, filter);
        let record = Record::Unsubscribe {
            client: client.clone(),
            epoch,
            filters: denied.clone(),
            inflight: Vec::new(),
        };
        if !node.cluster.commit(client, record).await? {
            return Err(Error::Unknown("a newer connection of the client took over"));
        }
    }
    let mut unacknowledged = read_unacknowledged(&node.cluster, session).await?;
    unacknowledged.retain(|_, item| {
        let subject = identity.as_ref().map(|identity| &identity.subject);
        subject.is_some_and(|subject| policy.may_read(subject, item.message.topic.as_str()))
    });
    let left = denied.into_iter().filter(TopicFilter::is_shared);
    Ok((left.collect(), unacknowledged))
}

/// The messages that are to be sent again under their packet ids, by their places.
async fn read_unacknowledged(
    cluster: &Cluster,
    session: &StoredSession,
) -> Result<Unacknowledged, Error> {
    let mut by_partition: HashMap<PartitionId, Vec<Position>> = HashMap::new();
    for inflight in &session.inflight {
        if inflight.stage == Stage::Published && !is_in_no_log(inflight.partition.0) {
            let positions = by_partition.entry(inflight.partition).or_default();
            positions.push(inflight.position);
        }
    }
    let mut messages = HashMap::new();
    for (partition, mut positions) in by_partition {
        positions.sort_unstable();
        for item in cluster.fetch_at(partition, positions).await? {
            messages.insert((partition, item.position), item);
        }
    }
    Ok(messages)
}

/// Takes back an attachment that its connection did not live to see.
pub(crate) fn undo(cluster: &Cluster, client: &ClientId, post: Post) {
    if let Post::Attached {
        result: Ok(begun), ..
    } = post
    {
        cluster.detach(begun.attached.undo(client.clone()));
    }
}

fn refusal(error: &Error) -> ReasonCode {
    debug!(%error, "attach refused");
    match error {
        Error::Full(_) => ReasonCode::QuotaExceeded,
        // Whatever Clean Start says; v3.1.1: 5.
        Error::Foreign => ReasonCode::NotAuthorized,
        _ => ReasonCode::ServerUnavailable,
    }
}
