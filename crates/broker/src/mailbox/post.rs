//! The answers that come by mailbox.

use magpie_auth::{Identity, Refusal};
use magpie_cluster::{DirectOutcome, Submitted};
use magpie_codec::ReasonCode;
use magpie_session::{Eviction, Ticket};

use crate::attach::Begun;
use crate::fetch::Fetched;
use crate::read::Read;
use crate::retained::Part;
use crate::subscribe::{Resumed, Settled, Watched};

/// An answer for the connection task.
#[derive(Debug)]
pub(crate) enum Post {
    /// A submission to a partition ended; the tickets are in the order of its records.
    Published {
        tickets: Vec<Ticket>,
        submitted: Submitted,
    },
    /// A submission of what is to be retained of QoS 0 ended, however.
    Kept,
    /// Messages of the direct class were received by all nodes concerned, or not.
    Forwarded {
        tickets: Vec<Ticket>,
        outcome: DirectOutcome,
    },
    /// Who the client is, or why it is not let in.
    Authenticated {
        ticket: Ticket,
        result: Result<Box<Identity>, Refusal>,
    },
    /// The client's subscriptions are to be looked at under the newest rules.
    RulesChanged,
    /// The cluster's answer to an attach.
    Attached {
        ticket: Ticket,
        result: Result<Box<Begun>, ReasonCode>,
    },
    /// The filters of a SUBSCRIBE are watched, or not; in its order.
    Watched { number: u32, watched: Vec<Watched> },
    /// The first pending SUBSCRIBE or UNSUBSCRIBE is committed, or not.
    Settled(Box<Settled>),
    /// Some retained messages were read.
    Retained(Box<Part>),
    /// The filters of a session that goes on are watched, or not.
    Resumed(Box<Resumed>),
    /// A read of the log came back.
    Read(Box<Read>),
    /// What the session wanted to be made safe of its QoS 2 deliveries is so, or not: then the connection must end.
    Stored {
        tickets: Vec<Ticket>,
        answer: Stored,
        is_stored: Result<(), Eviction>,
    },
    /// Messages of share groups were fetched.
    Fetched(Box<Fetched>),
    /// A packet id of an inbound QoS 2 message is released, or nobody knows.
    Released { ticket: Ticket, is_released: bool },
}

/// What was made safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Bindings,
    Receipts,
}
