//! Making a connection its client's only one, and finding the session that it goes on with. The work is done beside the connection task,
//! which is told by its mailbox.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use magpie_cluster::{Attach, Attached, Cluster, Error, TailItem};
use magpie_codec::ReasonCode;
use magpie_session::Ticket;
use magpie_state::partition::StoredSession;
use magpie_state::{ClientId, PartitionId, Position, Stage};
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;
use crate::retained::is_in_no_log;

/// What an attach brought.
pub(crate) struct Begun {
    pub(crate) attached: Attached,
    /// Of the session that goes on: the messages that were sent and not acknowledged.
    pub(crate) unacknowledged: HashMap<(PartitionId, Position), TailItem>,
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
pub(crate) async fn run(cluster: Cluster, handle: Arc<Handle>, attach: Attach, ticket: Ticket) {
    let client = attach.client.clone();
    let result = begin(&cluster, attach).await.map(Box::new);
    let result = result.map_err(|error| refusal(&error));
    if let Err(post) = handle.mailbox.post(Post::Attached { ticket, result }) {
        undo(&cluster, &client, post);
    }
}

async fn begin(cluster: &Cluster, attach: Attach) -> Result<Begun, Error> {
    let client = attach.client.clone();
    let attached = cluster.attach(attach).await?;
    let unacknowledged = match &attached.session {
        Some(session) => read_unacknowledged(cluster, session).await,
        None => Ok(HashMap::new()),
    };
    match unacknowledged {
        Ok(unacknowledged) => Ok(Begun {
            attached,
            unacknowledged,
        }),
        Err(error) => {
            cluster.detach(attached.undo(client));
            Err(error)
        }
    }
}

/// The messages that are to be sent again under their packet ids, by their places.
async fn read_unacknowledged(
    cluster: &Cluster,
    session: &StoredSession,
) -> Result<HashMap<(PartitionId, Position), TailItem>, Error> {
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
