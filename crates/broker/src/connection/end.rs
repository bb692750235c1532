//! The end of a connection: what it held is given back, its Will is published, and its last packets are written.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use magpie_cluster::Detach;
use magpie_codec::Will;
use magpie_session::CloseCause;
use tokio::io::AsyncWriteExt;
use tokio_util::io::poll_read_buf;
use tracing::debug;

use super::{Driver, End};
use crate::mailbox::Post;
use crate::{attach, buffers};

impl Driver {
    /// Ends the connection. Nothing of it is left when this returns.
    pub(super) async fn end(mut self: Box<Self>, end: End) {
        let End { cause, will } = end;
        self.node.metrics.closed(cause);
        debug!(client = self.handle.client().map(tracing::field::display), remote = %self.handle.remote, ?cause, "connection closed");
        // What is on its way into the cluster's queue and not acknowledged is dropped; the client repeats.
        self.submitting = None;
        for post in self.handle.mailbox.close() {
            self.undo(post);
        }
        std::mem::take(&mut self.subscribing).close(Self::place(&self.node, &self.handle));
        self.publish_will(will).await;
        let says_goodbye = !matches!(cause, CloseCause::ByClient(_) | CloseCause::Lost);
        if says_goodbye {
            self.say_goodbye().await;
        }
        self.leave().await;
    }

    /// Takes back what an answer, that came too late, has brought about.
    fn undo(&mut self, post: Post) {
        match post {
            Post::Watched { number, outcomes } => self.subscribing.watched(number, outcomes),
            Post::Attached { .. } => {
                if let Some(client) = self.handle.client() {
                    attach::undo(&self.node.cluster, client, post);
                }
            }
            Post::Published { .. } | Post::Forwarded { .. } => {}
        }
    }

    /// [MQTT-3.1.2-8]: the session decided whether there is one to publish.
    async fn publish_will(&mut self, will: Option<Box<Will>>) {
        if let (Some(will), Some(publisher)) = (will, &mut self.publisher) {
            let deadline = self.node.config.session.publish_deadline;
            let publishing = publisher.publish_will(&self.node.cluster, *will);
            if tokio::time::timeout(deadline, publishing).await.is_err() {
                debug!("the will was not published in time");
            }
        }
    }

    /// Writes what is left, and then waits a moment for the client to close its side: closing over bytes that were not read would
    /// reset the connection, and the client would never see the reason.
    async fn say_goodbye(&mut self) {
        let timeout = self.node.config.connection.close_timeout;
        let Self { out, socket, .. } = self;
        let closing = async {
            poll_fn(|cx| out.poll_flush(cx, socket)).await?;
            socket.shutdown().await?;
            poll_fn(|cx| {
                loop {
                    let mut ignored = buffers::take_read();
                    let read = poll_read_buf(Pin::new(&mut *socket), cx, &mut ignored);
                    buffers::give_read(ignored);
                    if ready!(read)? == 0 {
                        return Poll::Ready(std::io::Result::Ok(()));
                    }
                }
            })
            .await
        };
        // An error means that the client is gone already.
        let is_slow = tokio::time::timeout(timeout, closing).await.is_err() && !self.out.is_empty();
        if is_slow {
            self.node.metrics.slow_closes.increment(1);
        }
    }

    /// Leaves the registry once nothing can be appended any more: until then a newer connection elsewhere must wait for this one.
    async fn leave(mut self: Box<Self>) {
        self.append = None;
        let Some(client) = self.handle.client() else {
            return;
        };
        poll_fn(|cx| self.handle.mailbox.poll_appended(cx)).await;
        if let Some(epoch) = self.handle.epoch() {
            self.node.cluster.detach(Detach {
                client: client.clone(),
                epoch,
                // The will was published from here.
                is_clean: true,
                session_expiry_s: None,
                last: None,
            });
        }
        self.node.registry.leave(client, &self.handle);
    }
}
