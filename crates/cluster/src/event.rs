//! What the cluster asks of the node that it runs on.

use magpie_state::{ClientId, Epoch};
use tokio::sync::{mpsc, oneshot};

use crate::{Direct, Handover};

/// Requests to this node, in order of arrival. Bounded; the broker must keep draining it.
pub type Events = mpsc::Receiver<Event>;

/// One request.
pub enum Event {
    /// End every connection and pending attach of `client` whose epoch is below `epoch` (v5 reason 0x8E).
    Supersede {
        /// Whose connection.
        client: ClientId,
        /// The newer attachment.
        epoch: Epoch,
        /// Answered when the connection can append nothing more: closed, and its submissions answered; with how far the session had got, if
        /// there was one and it is known whole. Of several connections, that of the highest epoch. Dropping it means not confirmed.
        gone: oneshot::Sender<Option<Handover>>,
    },
    /// Messages of the direct class from another node, to be delivered to local subscribers. Received counts as delivered: the cluster
    /// acknowledges when `taken` is sent.
    Direct {
        /// In the order in which the other node sent them.
        messages: Vec<Direct>,
        /// Send once the messages are in the mailboxes.
        taken: oneshot::Sender<()>,
    },
    /// Without a quorum for so long that the cluster may have declared this node down: close every client connection.
    CloseAll {
        /// For the log and the DISCONNECT.
        why: &'static str,
    },
}
