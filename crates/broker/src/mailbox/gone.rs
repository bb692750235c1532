//! When a connection is gone: once its mailbox is closed, and nothing can append messages for it any more. Then a newer connection of its
//! client may go on with what it left.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use magpie_cluster::{Handover, Submitted};
use magpie_session::Ticket;
use tokio::sync::oneshot;

use super::{Mailbox, Post, wake};

impl Mailbox {
    /// Counts something that may append messages for this connection until it is dropped.
    pub(crate) fn begin_append(self: &Arc<Self>) -> Append {
        self.lock().appends += 1;
        Append {
            mailbox: Arc::clone(self),
            tickets: Vec::new(),
            is_answered: false,
        }
    }

    /// Drops `gone` when the connection is closed and can append nothing more.
    pub(crate) fn when_gone(&self, gone: Arc<Gone>) {
        let mut inner = self.lock();
        if let Some(left) = &inner.left {
            gone.leave(left);
        }
        if !(inner.closed && inner.appends == 0) {
            inner.gone.push(gone);
        }
    }

    /// For the task after [`close`](Self::close): what it leaves of its session, for a newer connection that waits for it.
    pub(crate) fn leave(&self, handover: Handover) {
        let mut inner = self.lock();
        inner.gone.iter().for_each(|gone| gone.leave(&handover));
        inner.left = Some(Box::new(handover));
    }

    /// For the task after [`close`](Self::close): waits until nothing can be appended any more.
    pub(crate) fn poll_appended(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.appends == 0 {
            return Poll::Ready(());
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn end_append(&self, post: Option<Post>) {
        let (waker, gone) = {
            let mut inner = self.lock();
            inner.appends -= 1;
            if !inner.closed {
                inner.posts.extend(post);
            }
            let is_gone = inner.closed && inner.appends == 0;
            let gone = if is_gone {
                std::mem::take(&mut inner.gone)
            } else {
                Vec::new()
            };
            (inner.waker.take(), gone)
        };
        drop(gone);
        wake(waker);
    }
}

/// Something that may still append messages for a connection: a submission that is not answered, or the connection task itself,
/// which may publish the Will. A connection is gone when all of them are.
#[derive(Debug)]
pub(crate) struct Append {
    mailbox: Arc<Mailbox>,
    tickets: Vec<Ticket>,
    is_answered: bool,
}

impl Append {
    /// For a submission: the tickets to be answered with its outcome, in the order of its records.
    pub(crate) fn with_tickets(mut self, tickets: Vec<Ticket>) -> Self {
        self.tickets = tickets;
        self
    }

    /// The outcome of the submission.
    pub(crate) fn answer(mut self, submitted: Submitted) {
        self.end(submitted);
    }

    fn end(&mut self, submitted: Submitted) {
        self.is_answered = true;
        let tickets = std::mem::take(&mut self.tickets);
        let post = (!tickets.is_empty()).then_some(Post::Published { tickets, submitted });
        self.mailbox.end_append(post);
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        // A submission that nobody answers was dropped by a stopping node: its outcome is not known.
        if !self.is_answered {
            self.end(Submitted::Unknown);
        }
    }
}

/// Tells the cluster, when the last holder drops it, that connections are gone, and what the newest of them left of its session.
#[derive(Debug)]
pub(crate) struct Gone {
    tell: Option<oneshot::Sender<Option<Handover>>>,
    left: Mutex<Option<Handover>>,
}

impl Gone {
    pub(crate) fn new(tell: oneshot::Sender<Option<Handover>>) -> Arc<Self> {
        Arc::new(Self {
            tell: Some(tell),
            left: Mutex::default(),
        })
    }

    fn leave(&self, handover: &Handover) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.as_ref().is_none_or(|left| left.epoch < handover.epoch) {
            *left = Some(handover.clone());
        }
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more: the cluster gave up waiting.
            let _ = tell.send(left.take());
        }
    }
}
