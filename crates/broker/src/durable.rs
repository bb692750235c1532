//! What a connection keeps safe of a session that outlives it: the packet ids of its QoS 2 deliveries, and those that its client released.

use std::sync::Arc;

use bytes::BytesMut;
use magpie_cluster::{Cluster, Submitted};
use magpie_codec::PacketId;
use magpie_session::{Answer, Eviction, Ticket, Token};
use magpie_state::{Binding, ClientId, Epoch, PartitionId, Position, Record};

use crate::handle::Handle;
use crate::mailbox::{Post, Stored};
use crate::shared::Place;

/// The session of an attached connection, as far as it outlives it.
#[derive(Debug)]
pub(crate) struct Durable {
    pub(crate) client: ClientId,
    pub(crate) epoch: Epoch,
    /// Epoch of the attach that began the session.
    pub(crate) incarnation: Epoch,
    pub(crate) keeping: Keeping,
    /// While the filters of a session that goes on are inserted: from where on the tails offer everything.
    pub(crate) offered: Vec<(PartitionId, Position)>,
}

/// What is to be made safe at the end of the burst.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    bindings: Vec<Binding>,
    binds: Vec<Ticket>,
    receipts: Vec<PacketId>,
    receives: Vec<Ticket>,
}

impl Durable {
    pub(crate) fn new(client: ClientId, epoch: Epoch, incarnation: Epoch) -> Self {
        Self {
            client,
            epoch,
            incarnation,
            keeping: Keeping::default(),
            offered: Vec::new(),
        }
    }

    /// Ends a burst: what was collected is to be committed. The future, if any, must be driven to its end before the next burst ends.
    pub(crate) fn end_burst(
        &mut self,
        cluster: &Cluster,
        handle: &Arc<Handle>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Keeping {
            bindings,
            binds,
            receipts,
            receives,
        } = std::mem::take(&mut self.keeping);
        if binds.is_empty() && receives.is_empty() {
            return None;
        }
        let mut submissions = Vec::new();
        if !binds.is_empty() {
            let record = Record::Bind {
                client: self.client.clone(),
                epoch: self.epoch,
                bindings,
            };
            submissions.push((record, binds, Stored::Bindings));
        }
        if !receives.is_empty() {
            let record = Record::Received {
                client: self.client.clone(),
                epoch: self.epoch,
                packet_ids: receipts,
            };
            submissions.push((record, receives, Stored::Receipts));
        }
        let (cluster, handle, client) = (cluster.clone(), Arc::clone(handle), self.client.clone());
        Some(async move {
            for (record, tickets, answer) in submissions {
                let mut records = BytesMut::new();
                record.encode(&mut records);
                let handle = Arc::clone(&handle);
                let done = move |submitted: Submitted| {
                    // The connection may be gone: then nobody waits.
                    let _ = handle.mailbox.post(Post::Stored {
                        tickets,
                        answer,
                        is_stored: is_stored(&submitted),
                    });
                };
                // A stopping node answers nothing.
                if cluster
                    .submit_session(&client, records.freeze(), 1, Box::new(done))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        })
    }

    /// Lets a packet id of an inbound QoS 2 message go, in the partition that knows it, or in all.
    pub(crate) fn release(
        &self,
        cluster: &Cluster,
        handle: &Arc<Handle>,
        ticket: Ticket,
        packet_id: PacketId,
        partition: Option<PartitionId>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (cluster, handle) = (cluster.clone(), Arc::clone(handle));
        let (client, session) = (self.client.clone(), self.incarnation);
        async move {
            let released = cluster
                .release(&client, session, Some(packet_id), partition)
                .await;
            let _ = handle.mailbox.post(Post::Released {
                ticket,
                is_released: released.is_ok(),
            });
        }
    }
}

impl Keeping {
    /// A delivery that a share group has dealt.
    pub(crate) fn bind_shared(&mut self, ticket: Ticket, packet_id: PacketId, place: Place) {
        let (partition, membership, position) = place;
        self.binds.push(ticket);
        self.bindings.push(Binding {
            packet_id,
            partition,
            position,
            share: Some(membership),
        });
    }

    pub(crate) fn bind(&mut self, ticket: Ticket, packet_id: PacketId, token: Token) {
        self.binds.push(ticket);
        self.bindings.push(Binding {
            packet_id,
            partition: PartitionId(token.partition),
            position: Position(token.position),
            share: None,
        });
    }

    pub(crate) fn received(&mut self, ticket: Ticket, packet_id: PacketId) {
        self.receives.push(ticket);
        self.receipts.push(packet_id);
    }
}

/// What the connection is closed with if it is not.
fn is_stored(submitted: &Submitted) -> Result<(), Eviction> {
    match submitted {
        Submitted::Committed { refused, .. } if refused.is_empty() => Ok(()),
        Submitted::Committed { .. } | Submitted::Full { .. } => Err(Eviction::TakenOver),
        Submitted::NotProposed | Submitted::NoRoom | Submitted::Unknown => Err(Eviction::Busy),
    }
}

impl From<Stored> for Answer {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Bindings => Self::Bound,
            Stored::Receipts => Self::ReceivedStored,
        }
    }
}
