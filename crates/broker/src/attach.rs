//! Making a connection its client's only one. The work is done beside the connection task, which is told by its mailbox.

use std::sync::Arc;

use magpie_cluster::{Attach, Cluster, Error};
use magpie_codec::ReasonCode;
use magpie_session::Ticket;
use magpie_state::ClientId;
use tracing::debug;

use crate::handle::Handle;
use crate::mailbox::Post;

/// Attaches, and posts the answer. A connection that is gone by then is detached again.
pub(crate) async fn run(cluster: Cluster, handle: Arc<Handle>, attach: Attach, ticket: Ticket) {
    let client = attach.client.clone();
    let result = cluster
        .attach(attach)
        .await
        .map_err(|error| refusal(&error));
    if let Err(post) = handle.mailbox.post(Post::Attached { ticket, result }) {
        undo(&cluster, &client, post);
    }
}

/// Takes back an attachment that its connection did not live to see.
pub(crate) fn undo(cluster: &Cluster, client: &ClientId, post: Post) {
    if let Post::Attached {
        result: Ok(attached),
        ..
    } = post
    {
        cluster.detach(attached.undo(client.clone()));
    }
}

fn refusal(error: &Error) -> ReasonCode {
    debug!(%error, "attach refused");
    ReasonCode::ServerUnavailable
}
