//! The end of a connection: what it held is given back, what is to be kept of its session is handed on, and its last packets are written.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use magpie_cluster::{Detach, Handover};
use magpie_failpoint::fail_point;
use magpie_session::CloseCause;
use magpie_state::{Departure, SessionProgress};
use tokio::io::AsyncWriteExt;
use tokio_util::io::poll_read_buf;
use tracing::debug;

use super::{Driver, End};
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::node::Shared;
use crate::resume::progress_at_end;
use crate::shared::SharedMessages;
use crate::stream::Stream;
use crate::write_buffer::WriteBuffer;
use crate::{attach, buffers};

impl Driver {
    /// Ends the connection. Nothing of it is left when this returns.
    pub(super) async fn end(mut self: Box<Self>, end: End) {
        let cause = end.cause;
        self.node.metrics.closed(cause);
        debug!(client = self.handle.client().map(tracing::field::display), remote = %self.handle.peer.remote, ?cause, "connection closed");
        // What is on its way into the cluster's queue and not acknowledged is dropped; the client repeats.
        self.submitting = None;
        self.keeping = None;
        let cluster = &self.node.cluster;
        let publisher = self.publisher.as_mut();
        let rest = publisher.and_then(|publisher| publisher.take_rest(cluster));
        let (posts, last) = self.close_mailbox();
        // Before anything is given back that could part with the groups, too, and know less.
        let sent = self.handle.mailbox.with_shared(|shared| shared.sent());
        let sent = sent.unwrap_or_default();
        self.node.shares.part(&self.handle, Some(&sent));
        for post in posts {
            self.undo(post);
        }
        let place = Self::place(&self.node, &self.handle, None);
        std::mem::take(&mut self.subscribing).close(place);
        if let (Some(last), Some(epoch)) = (&last, self.handle.epoch()) {
            self.handle.mailbox.leave(Handover {
                epoch,
                progress: Box::new(last.clone()),
            });
        }
        let Self {
            node,
            handle,
            socket,
            mut out,
            append,
            ..
        } = *self;
        // Its client may be slow to go; a newer connection does not wait for that.
        drop(append);
        let leaving = async {
            if let Some(rest) = rest {
                // Nobody was told that it is kept: a queue that is full is not waited for longer than a client that is slow.
                let _ = tokio::time::timeout(node.config.connection.close_timeout, rest).await;
            }
            leave(&node, &handle, end, last).await;
        };
        let says_goodbye = match cause {
            CloseCause::Lost => false,
            // TLS and WebSocket have a goodbye of their own.
            CloseCause::ByClient(_) => !matches!(socket, Stream::Tcp(_)),
            _ => true,
        };
        if says_goodbye {
            let goodbye = say_goodbye(&node, socket, &mut out);
            tokio::join!(leaving, goodbye);
        } else {
            drop(socket);
            leaving.await;
        }
    }

    /// Takes nothing more. Gives the answers that were not seen, and how far the session is.
    fn close_mailbox(&mut self) -> (Vec<Post>, Option<SessionProgress>) {
        let (node, handle) = (Arc::clone(&self.node), Arc::clone(&self.handle));
        node.durables.end(&handle, || {
            // Before the mailbox closes: everything up to here was offered to it.
            let passed = node.subscribers.positions.all_passed();
            let (posts, lanes) = handle.mailbox.close(&mut self.taken.finished);
            let last = match (self.session.session(), &lanes) {
                (Some(session), Some(lanes)) => {
                    let progress = |shared: Option<&SharedMessages>| {
                        progress_at_end(session, lanes, shared, &passed)
                    };
                    let with_shared = handle.mailbox.with_shared(|shared| progress(Some(shared)));
                    Some(with_shared.unwrap_or_else(|| progress(None)))
                }
                _ => None,
            };
            let cursors = last.as_ref().map(|last| last.cursors.clone());
            ((posts, last), cursors)
        })
    }

    /// Takes back what an answer, that came too late, has brought about.
    fn undo(&mut self, post: Post) {
        match post {
            Post::Watched { number, watched } => self.subscribing.watched(number, watched),
            Post::Resumed(resumed) => {
                let place = Self::place(&self.node, &self.handle, None);
                resumed.undo(place);
            }
            Post::Attached { .. } => {
                if let Some(client) = self.handle.client() {
                    attach::undo(&self.node.cluster, client, post);
                }
            }
            Post::Published { .. }
            | Post::Kept
            | Post::Authenticated { .. }
            | Post::RulesChanged
            | Post::Forwarded { .. }
            | Post::Settled(_)
            | Post::Retained(_)
            | Post::Read(_)
            | Post::Fetched(_)
            | Post::Stored { .. }
            | Post::Released { .. } => {}
        }
    }
}

/// Writes what is left, and then waits a moment for the client to close its side: closing over bytes that were not read would reset the
/// connection, and the client would never see the reason.
async fn say_goodbye(node: &Shared, mut socket: Stream, out: &mut WriteBuffer) {
    let closing = async {
        poll_fn(|cx| out.poll_flush(cx, &mut socket)).await?;
        socket.shutdown().await?;
        poll_fn(|cx| {
            loop {
                let mut ignored = buffers::take_read();
                let read = poll_read_buf(Pin::new(&mut socket), cx, &mut ignored);
                buffers::give_read(ignored);
                if ready!(read)? == 0 {
                    return Poll::Ready(std::io::Result::Ok(()));
                }
            }
        })
        .await
    };
    // An error means that the client is gone already.
    let timeout = node.config.connection.close_timeout;
    let is_slow = tokio::time::timeout(timeout, closing).await.is_err() && !out.is_empty();
    if is_slow {
        node.metrics.slow_closes.increment(1);
    }
}

/// Leaves the registry once nothing can be appended any more: until then a newer connection elsewhere must wait for this one. What is left of
/// the session goes to that one, or into the session's partition.
async fn leave(node: &Shared, handle: &Arc<Handle>, end: End, last: Option<SessionProgress>) {
    let Some(client) = handle.client() else {
        return;
    };
    poll_fn(|cx| handle.mailbox.poll_appended(cx)).await;
    if let Some(epoch) = handle.epoch() {
        fail_point!("detach", handle.about());
        node.cluster.detach(Detach {
            client: client.clone(),
            epoch,
            departure: if end.will_discarded {
                Departure::Clean
            } else {
                Departure::Unclean
            },
            session_expiry_s: end.session_expiry_s,
            last: last.map(Box::new),
        });
    }
    // Behind the detach: from there a node that takes over now gets what is left.
    node.registry.leave(client, handle);
}
