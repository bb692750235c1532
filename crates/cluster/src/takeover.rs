//! One client id, one connection that can act: attaching, and ending what was attached before (DESIGN: P3).
//!
//! ```text
//!   new node                    partition of the client            previous node
//!     │── Attach (stream) ────────────►│                                 │
//!     │◄──── epoch, superseded ────────│                                 │
//!     │── Supersede ────────────────────────────────────────────────────►│ closes, lets its appends be answered
//!     │◄──── gone ───────────────────────────────────────────────────────│
//!     │   not confirmed in time: Fence in every partition; the epoch now keeps the old connection's appends out,
//!     │   and the previous node is told again until it confirms or its life is over
//!   CONNACK
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use magpie_codec::Text;
use magpie_state::partition::Superseded;
use magpie_state::{ClientId, Epoch, PartitionId, Record, StreamId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::membership::Membership;
use crate::rpc::{Channels, Purpose};
use crate::stream::{Done, Stream};
use crate::{Attach, Attached, Error, Event, proto};

/// How long a CONNACK waits for the previous node to confirm.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);
/// Pause before a previous node that did not confirm is told again.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A node that was asked to end connections reports back within this time, or not at all.
const CLOSE_WITHIN: Duration = Duration::from_secs(15);

/// Attaches clients of this node, and ends connections that others superseded. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Takeover {
    inner: Arc<Inner>,
}

struct Inner {
    stream: StreamId,
    partitions: u16,
    streams: Vec<Stream>,
    membership: Membership,
    channels: Channels,
    events: mpsc::Sender<Event>,
    /// Clients with an attach under way, and the highest epoch that was heard to supersede it meanwhile.
    pending: Mutex<HashMap<ClientId, Pending>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Pending {
    attaches: u32,
    superseded_by: Epoch,
}

impl Takeover {
    pub(crate) fn new(
        stream: StreamId,
        streams: Vec<Stream>,
        membership: Membership,
        channels: Channels,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) -> Self {
        let partitions = u16::try_from(streams.len()).expect("at most 1024 partitions");
        let pending = Mutex::default();
        Self {
            inner: Arc::new(Inner {
                stream,
                partitions,
                streams,
                membership,
                channels,
                events,
                pending,
                stop,
            }),
        }
    }

    pub(crate) async fn attach(&self, attach: Attach) -> Result<Attached, Error> {
        let client = attach.client.clone();
        let pending = self.note_pending(&client);
        let outcome = self.attach_and_supersede(attach).await;
        let superseded_by = pending.finish();
        // Before CONNACK: is this still the newest that was heard of?
        match outcome {
            Ok(attached) if superseded_by > attached.epoch => {
                self.detach(client, attached.epoch);
                Err(Error::Unknown("a newer connection of the client took over"))
            }
            outcome => outcome,
        }
    }

    async fn attach_and_supersede(&self, attach: Attach) -> Result<Attached, Error> {
        let Attach {
            client,
            clean_start,
            session_expiry_s: _,
        } = attach;
        let record = Record::Attach {
            client: client.clone(),
            clean_start,
            // Sessions end with their connection as yet.
            session_expiry_s: 0,
            will: None,
        };
        let done = self
            .of(&client)
            .commit(&[record])
            .await
            .map_err(|_| Error::Stopping)?;
        let attached = match done {
            Done::Taken { attached, .. } => attached.first().copied(),
            Done::NotProposed => {
                return Err(Error::NotProposed("the client's partition has no leader"));
            }
            Done::Unknown => return Err(Error::Unknown("the client's partition did not answer")),
        };
        let attached =
            attached.ok_or(Error::Unknown("the partition gave no answer to an attach"))?;
        if let Some(superseded) = attached.superseded {
            let ended = self.end_previous(&client, attached.epoch, superseded);
            if let Err(error) = ended.await {
                // The connection will be closed: nobody else would let go of its attachment.
                self.detach(client, attached.epoch);
                return Err(error);
            }
        }
        Ok(Attached {
            epoch: attached.epoch,
            session_present: attached.session_present,
        })
    }

    async fn end_previous(
        &self,
        client: &ClientId,
        epoch: Epoch,
        superseded: Superseded,
    ) -> Result<(), Error> {
        let holder = superseded.holder;
        if holder.node == self.inner.stream.node && holder != self.inner.stream {
            // An earlier life of this very node: the process is gone, and its stream was ended by this one's first batch.
            return self.fence(client, epoch, holder).await;
        }
        let confirmed =
            tokio::time::timeout(CONFIRM_WITHIN, self.tell(client, epoch, holder, false)).await;
        if confirmed == Ok(Told::Gone) {
            return Ok(());
        }
        self.fence(client, epoch, holder).await?;
        let (takeover, client) = (self.clone(), client.clone());
        tokio::spawn(async move { takeover.tell_until_gone(client, epoch, holder).await });
        Ok(())
    }

    /// Keeps appends of the previous connection out of every partition.
    async fn fence(&self, client: &ClientId, epoch: Epoch, against: StreamId) -> Result<(), Error> {
        let record = [Record::Fence {
            client: client.clone(),
            epoch,
            against,
        }];
        let fences = self
            .inner
            .streams
            .iter()
            .map(|stream| stream.commit(&record));
        for done in futures::future::join_all(fences).await {
            match done.map_err(|_| Error::Stopping)? {
                Done::Taken { .. } => {}
                Done::NotProposed | Done::Unknown => {
                    return Err(Error::Unknown("a partition took no fence"));
                }
            }
        }
        Ok(())
    }

    /// The previous node still holds a connection that can do nothing any more: it is told to end it until it has, or is over.
    async fn tell_until_gone(&self, client: ClientId, epoch: Epoch, holder: StreamId) {
        loop {
            if self.inner.membership.state(|state| state.is_over(holder)) {
                return;
            }
            match self.tell(&client, epoch, holder, true).await {
                Told::Gone => return,
                Told::Unreachable => {}
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(TELL_AGAIN_AFTER) => {}
            }
        }
    }

    async fn tell(&self, client: &ClientId, epoch: Epoch, holder: StreamId, fenced: bool) -> Told {
        if holder == self.inner.stream {
            return if self.end_held(client, epoch, fenced).await {
                Told::Gone
            } else {
                Told::Unreachable
            };
        }
        let channel = self.inner.channels.to(holder.node, Purpose::Control);
        let mut client_of_peer = proto::sessions_client::SessionsClient::new(channel);
        let request = proto::SupersedeRequest {
            client: client.to_string(),
            epoch: epoch.0,
            fenced,
        };
        let mut request = Request::new(request);
        request.set_timeout(CLOSE_WITHIN);
        match client_of_peer.supersede(request).await {
            Ok(reply) if reply.get_ref().gone => Told::Gone,
            _ => Told::Unreachable,
        }
    }

    /// Ends what this node holds of a client below an epoch; true once nothing of it can be appended any more.
    async fn end_held(&self, client: &ClientId, epoch: Epoch, fenced: bool) -> bool {
        if !self.end_here(client.clone(), epoch).await {
            return false;
        }
        if fenced {
            // Behind everything that the connection had queued: streams keep their order.
            self.lower_fences(client.clone(), epoch).await;
            return true;
        }
        // A batch that was given up may still commit: then only a fence keeps it out.
        !self.inner.streams.iter().any(Stream::is_overdue)
    }

    /// Ends this node's connections of a client below an epoch; true once they are closed, and their submissions answered.
    async fn end_here(&self, client: ClientId, epoch: Epoch) -> bool {
        self.note_superseded(&client, epoch);
        let (gone, is_gone) = oneshot::channel();
        if self
            .inner
            .events
            .send(Event::Supersede {
                client,
                epoch,
                gone,
            })
            .await
            .is_err()
        {
            return false;
        }
        matches!(
            tokio::time::timeout(CLOSE_WITHIN, is_gone).await,
            Ok(Ok(()))
        )
    }

    async fn lower_fences(&self, client: ClientId, epoch: Epoch) {
        let record = [Record::Unfence { client, epoch }];
        let lowered = self
            .inner
            .streams
            .iter()
            .map(|stream| stream.commit(&record));
        futures::future::join_all(lowered).await;
    }

    fn of(&self, client: &ClientId) -> &Stream {
        let PartitionId(partition) = magpie_state::partition_of(&client.0, self.inner.partitions);
        &self.inner.streams[usize::from(partition)]
    }

    /// Detaches a connection that is gone.
    pub(crate) fn detach(&self, client: ClientId, epoch: Epoch) {
        let takeover = self.clone();
        tokio::spawn(async move {
            let record = [Record::Detach {
                client: client.clone(),
                epoch,
                is_clean: true,
                session_expiry_s: None,
                last: None,
            }];
            loop {
                match takeover.of(&client).commit(&record).await {
                    Ok(Done::Taken { .. }) | Err(_) => return,
                    // Repeating is harmless: a newer attachment stays.
                    Ok(Done::NotProposed | Done::Unknown) => {}
                }
            }
        });
    }

    fn note_pending(&self, client: &ClientId) -> PendingAttach {
        self.pending().entry(client.clone()).or_default().attaches += 1;
        PendingAttach {
            takeover: self.clone(),
            client: Some(client.clone()),
        }
    }

    fn note_superseded(&self, client: &ClientId, epoch: Epoch) {
        if let Some(pending) = self.pending().get_mut(client) {
            pending.superseded_by = pending.superseded_by.max(epoch);
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<ClientId, Pending>> {
        self.inner
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Gone,
    Unreachable,
}

/// An attach under way; dropped when its caller gives up.
struct PendingAttach {
    takeover: Takeover,
    client: Option<ClientId>,
}

impl PendingAttach {
    /// The attach is through: the highest epoch that was heard of meanwhile.
    fn finish(mut self) -> Epoch {
        self.client
            .take()
            .map(|client| self.end(&client))
            .unwrap_or_default()
    }

    fn end(&self, client: &ClientId) -> Epoch {
        let mut all = self.takeover.pending();
        let Some(pending) = all.get_mut(client) else {
            return Epoch::default();
        };
        let superseded_by = pending.superseded_by;
        pending.attaches -= 1;
        if pending.attaches == 0 {
            all.remove(client);
        }
        superseded_by
    }
}

impl Drop for PendingAttach {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.end(&client);
        }
    }
}

#[tonic::async_trait]
impl proto::sessions_server::Sessions for Takeover {
    async fn supersede(
        &self,
        request: Request<proto::SupersedeRequest>,
    ) -> Result<Response<proto::SupersedeReply>, Status> {
        let proto::SupersedeRequest {
            client,
            epoch,
            fenced,
        } = request.into_inner();
        let client =
            Text::try_from(client).map_err(|_| Status::invalid_argument("not a client id"))?;
        let (client, epoch) = (ClientId(client), Epoch(epoch));
        let gone = self.end_held(&client, epoch, fenced).await;
        Ok(Response::new(proto::SupersedeReply { gone }))
    }
}
