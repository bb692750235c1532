//! Tickets: how a question to the node and its answer find each other.

/// Names one question to the node. Not used again on its connection.
///
/// Opaque and cheap to copy; the node keeps it with its work and hands it back by
/// [`Connection::handle_answer`](crate::Connection::handle_answer). An answer to a ticket that is not open (answered
/// before, or of another kind) is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) subject: Subject,
    pub(crate) number: u32,
}

/// What a [`Ticket`] asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Authenticate,
    Attach,
    /// The number is the place in the order of the client's QoS 1 and 2 PUBLISHes.
    Publish,
    /// The number counts the connection's releases.
    Release,
    /// The number is the place in the order of the QoS 2 deliveries.
    Bind,
    /// The number is the place in the order of the client's first PUBRECs.
    Received,
    /// The number is the place in the order of the client's SUBSCRIBEs and UNSUBSCRIBEs.
    Subscribe,
}
