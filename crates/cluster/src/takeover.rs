//! One client id, one connection that can act: attaching, and ending what was attached before (DESIGN: P3).
//!
//! ```text
//!   new node                    partition of the client            previous node
//!     │── Attach (stream) ────────────►│                                 │
//!     │◄──── epoch, superseded ────────│                                 │
//!     │── Supersede ────────────────────────────────────────────────────►│ closes, lets its appends be answered
//!     │◄──── gone, how far the session had got ──────────────────────────│
//!     │   not confirmed in time: Fence in every partition; the epoch now keeps the old connection's appends out,
//!     │   and the previous node is told again until it confirms or its life is over
//!     │── the session, as recorded ───►│
//!   CONNACK
//! ```
//!
//! An attachment outlives its connection until nothing that the connection submitted can commit any more ([`detaching`]). So a newer
//! connection always finds what it has to keep out.

mod detaching;
mod handover;
mod load;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_codec::Text;
use magpie_state::partition::Superseded;
use magpie_state::{ClientId, Epoch, PartitionId, Record, SessionProgress, StreamId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::membership::Membership;
use crate::rpc::{Channels, MESSAGE_BYTES_MAX, Purpose};
use crate::stream::{Done, Stream};
use crate::{Attach, Attached, Error, Event, Handover, proto};
use detaching::Detaching;

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

/// What takeovers need to know of their node.
pub(crate) struct TakeoverParts {
    /// This node, in this life.
    pub(crate) stream: StreamId,
    /// Into each partition.
    pub(crate) streams: Vec<Stream>,
    pub(crate) membership: Membership,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) channels: Channels,
    pub(crate) events: mpsc::Sender<Event>,
    /// Bound on the wait for a stored session.
    pub(crate) deadline: Duration,
    pub(crate) stop: CancellationToken,
}

struct Inner {
    parts: TakeoverParts,
    partitions: u16,
    detaching: Detaching,
    /// Clients with an attach under way, and the highest epoch that was heard to supersede it meanwhile.
    pending: Mutex<HashMap<ClientId, Pending>>,
}

#[derive(Default)]
struct Pending {
    attaches: u32,
    superseded_by: Epoch,
}

impl Takeover {
    pub(crate) fn new(parts: TakeoverParts) -> Self {
        let partitions = u16::try_from(parts.streams.len()).expect("at most 1024 partitions");
        Self {
            inner: Arc::new(Inner {
                parts,
                partitions,
                detaching: Detaching::default(),
                pending: Mutex::default(),
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
                self.detach(attached.undo(client));
                Err(taken_over())
            }
            outcome => outcome,
        }
    }

    async fn attach_and_supersede(&self, attach: Attach) -> Result<Attached, Error> {
        let Attach {
            client,
            clean_start,
            session_expiry_s,
            will,
        } = attach;
        let record = Record::Attach {
            client: client.clone(),
            clean_start,
            session_expiry_s,
            will,
        };
        let done = self
            .of(&client)
            .commit(&[record])
            .await
            .map_err(|_| Error::Stopping)?;
        let answer = match done {
            Done::Taken { attached, .. } => attached.first().copied(),
            Done::NotProposed => {
                return Err(Error::NotProposed("the client's partition has no leader"));
            }
            Done::Unknown => return Err(Error::Unknown("the client's partition did not answer")),
        };
        let answer = answer.ok_or(Error::Unknown("the partition gave no answer to an attach"))?;
        let mut attached = Attached {
            epoch: answer.epoch,
            incarnation: answer.epoch,
            session: None,
        };
        match self.take_over(&client, answer, &mut attached).await {
            Ok(()) => Ok(attached),
            Err(error) => {
                // The connection will be closed: nobody else would let go of its attachment.
                self.detach(attached.undo(client));
                Err(error)
            }
        }
    }

    /// Ends what was attached before, and gets the session.
    async fn take_over(
        &self,
        client: &ClientId,
        answer: magpie_state::partition::Attached,
        attached: &mut Attached,
    ) -> Result<(), Error> {
        let epoch = answer.epoch;
        let handed_over = match answer.superseded {
            Some(superseded) => self.end_previous(client, epoch, superseded).await?,
            None => None,
        };
        if answer.session_present {
            let mut session = self.load(client, epoch).await?;
            if let Some(progress) = handed_over {
                handover::merge(&mut session, *progress);
            }
            attached.incarnation = session.session;
            attached.session = Some(session);
        }
        Ok(())
    }

    /// Sees to it that the previous connection can do nothing any more; what it handed over, if it could be asked.
    async fn end_previous(
        &self,
        client: &ClientId,
        epoch: Epoch,
        superseded: Superseded,
    ) -> Result<Option<Box<SessionProgress>>, Error> {
        let holder = superseded.holder;
        let ours = self.inner.parts.stream;
        if holder.node == ours.node && holder != ours {
            // An earlier life of this very node: the process is gone, and its stream was ended by this one's first batch.
            self.fence(client, epoch, holder).await?;
            return Ok(None);
        }
        let telling = self.tell(client, epoch, holder, false);
        let told = tokio::time::timeout(CONFIRM_WITHIN, telling).await;
        let Told { is_gone, left } = told.unwrap_or_default();
        if !is_gone {
            self.fence(client, epoch, holder).await?;
            let (takeover, client) = (self.clone(), client.clone());
            tokio::spawn(async move { takeover.tell_until_gone(client, epoch, holder).await });
        }
        // Of another connection it says nothing about the session that was attached last.
        let left = left.filter(|left| left.epoch == superseded.epoch);
        let how = match (&left, is_gone) {
            (Some(_), _) => "handed_over",
            (None, true) => "confirmed",
            (None, false) => "fenced",
        };
        metrics::counter!("magpie_takeovers_total", "how" => how).increment(1);
        Ok(left.map(|left| left.progress))
    }

    /// Keeps appends of the previous connection out of every partition.
    async fn fence(&self, client: &ClientId, epoch: Epoch, against: StreamId) -> Result<(), Error> {
        let record = [Record::Fence {
            client: client.clone(),
            epoch,
            against,
        }];
        let fences = self.streams().iter().map(|stream| stream.commit(&record));
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
        let parts = &self.inner.parts;
        loop {
            if parts.membership.state(|state| state.is_over(holder)) {
                return;
            }
            if self.tell(&client, epoch, holder, true).await.is_gone {
                return;
            }
            tokio::select! {
                () = parts.stop.cancelled() => return,
                () = tokio::time::sleep(TELL_AGAIN_AFTER) => {}
            }
        }
    }

    async fn tell(&self, client: &ClientId, epoch: Epoch, holder: StreamId, fenced: bool) -> Told {
        if holder == self.inner.parts.stream {
            return self.end_held(client, epoch, fenced).await;
        }
        let channel = self.inner.parts.channels.to(holder.node, Purpose::Control);
        let mut client_of_peer = proto::sessions_client::SessionsClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = proto::SupersedeRequest {
            client: client.to_string(),
            epoch: epoch.0,
            fenced,
        };
        let mut request = Request::new(request);
        request.set_timeout(CLOSE_WITHIN);
        match client_of_peer.supersede(request).await {
            Ok(reply) => Told::from(reply.into_inner()),
            Err(_) => Told::default(),
        }
    }

    /// Ends what this node holds of a client below an epoch: whether nothing of it can be appended any more, and what it left.
    async fn end_held(&self, client: &ClientId, epoch: Epoch, fenced: bool) -> Told {
        let Some(left) = self.end_here(client.clone(), epoch).await else {
            return Told::default();
        };
        // A connection that went by itself left it with its detach.
        let left = left
            .into_iter()
            .chain(self.inner.detaching.left(client, epoch))
            .max_by_key(|left| left.epoch);
        if fenced {
            // Behind everything that the connection had queued: streams keep their order.
            self.lower_fences(client.clone(), epoch).await;
        }
        // What was given up may still commit: then only a fence keeps it out.
        let is_overdue = |stream: &Stream| stream.is_overdue(client);
        let is_gone = fenced || !self.streams().iter().any(is_overdue);
        Told { is_gone, left }
    }

    /// Ends this node's connections of a client below an epoch: what the newest of them left, once they are closed and their submissions
    /// answered. `None`: not confirmed.
    async fn end_here(&self, client: ClientId, epoch: Epoch) -> Option<Option<Handover>> {
        self.note_superseded(&client, epoch);
        let (gone, is_gone) = oneshot::channel();
        let event = Event::Supersede {
            client,
            epoch,
            gone,
        };
        self.inner.parts.events.send(event).await.ok()?;
        tokio::time::timeout(CLOSE_WITHIN, is_gone).await.ok()?.ok()
    }

    async fn lower_fences(&self, client: ClientId, epoch: Epoch) {
        let record = [Record::Unfence { client, epoch }];
        let lowered = self.streams().iter().map(|stream| stream.commit(&record));
        futures::future::join_all(lowered).await;
    }

    fn of(&self, client: &ClientId) -> &Stream {
        &self.streams()[usize::from(self.partition_of(client).0)]
    }

    fn partition_of(&self, client: &ClientId) -> PartitionId {
        magpie_state::partition_of(&client.0, self.inner.partitions)
    }

    fn streams(&self) -> &[Stream] {
        &self.inner.parts.streams
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

/// What the previous node says; by default nothing.
#[derive(Debug, Default)]
struct Told {
    /// The connection is closed, and nothing of it can be appended any more.
    is_gone: bool,
    /// How far its session had got.
    left: Option<Handover>,
}

impl From<proto::SupersedeReply> for Told {
    fn from(reply: proto::SupersedeReply) -> Self {
        let proto::SupersedeReply {
            gone,
            mut last,
            last_epoch,
        } = reply;
        let progress = match last.is_empty() {
            true => None,
            false => SessionProgress::decode(&mut last).ok(),
        };
        Self {
            is_gone: gone,
            left: progress.map(|progress| Handover {
                epoch: Epoch(last_epoch),
                progress: Box::new(progress),
            }),
        }
    }
}

impl From<Told> for proto::SupersedeReply {
    fn from(told: Told) -> Self {
        let (last, last_epoch) = match told.left {
            Some(Handover { epoch, progress }) => {
                let mut bytes = BytesMut::new();
                progress.encode(&mut bytes);
                (bytes.freeze(), epoch.0)
            }
            None => (Bytes::new(), 0),
        };
        Self {
            gone: told.is_gone,
            last,
            last_epoch,
        }
    }
}

fn taken_over() -> Error {
    Error::Unknown("a newer connection of the client took over")
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

impl Takeover {
    /// Another node attached a client of this one.
    pub(crate) async fn supersede(
        &self,
        request: proto::SupersedeRequest,
    ) -> Result<proto::SupersedeReply, Status> {
        let proto::SupersedeRequest {
            client,
            epoch,
            fenced,
        } = request;
        let client =
            Text::try_from(client).map_err(|_| Status::invalid_argument("not a client id"))?;
        let told = self.end_held(&ClientId(client), Epoch(epoch), fenced).await;
        Ok(told.into())
    }
}
