//! One client id, one connection that can act: attaching, and ending what was attached before (DESIGN: P3).
//!
//! ```text
//!   new node                    partition of the client            previous node
//!     │── Attach (stream) ────────────►│                                 │
//!     │◄──── epoch, superseded ────────│                                 │
//!     │── Supersede ────────────────────────────────────────────────────►│ closes, lets its appends be answered
//!     │◄──── gone, how far the session had got ──────────────────────────│
//!     │   not confirmed in time: Fence in every partition; the epoch now keeps the old connection's appends out,
//!     │   and the previous node is told again until it confirms or its life is over. What it answers meanwhile counts
//!     │── the session, as recorded ───►│
//!   CONNACK
//! ```
//!
//! An attachment outlives its connection until nothing that the connection submitted can commit any more ([`detaching`]). So a newer
//! connection always finds what it has to keep out.

mod detaching;
mod handover;
mod load;
mod pending;
mod quota;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_codec::Text;
use magpie_state::partition::Superseded;
use magpie_state::{ClientId, Departure, Epoch, PartitionId, Record, SessionProgress, StreamId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::groups::Groups;
use crate::leaders::Leaders;
use crate::membership::Membership;
use crate::rpc::{Channels, MESSAGE_BYTES_MAX, Purpose};
use crate::stream::{Done, Stream};
use crate::{Attach, Attached, Detach, Error, Event, Handover, proto};
use detaching::Detaching;
use pending::Pending;

/// How long a CONNACK waits for the previous node to confirm.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);
/// How long the answer to a newer attach waits for an older one of this node.
const THROUGH_WITHIN: Duration = Duration::from_millis(300);
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
    /// Sessions that one user may have in the cluster; 0: any number.
    pub(crate) user_sessions_max: u64,
    pub(crate) stop: CancellationToken,
}

struct Inner {
    parts: TakeoverParts,
    partitions: u16,
    detaching: Detaching,
    pending: Pending,
}

impl Takeover {
    pub(crate) fn new(parts: TakeoverParts) -> Self {
        let partitions = u16::try_from(parts.streams.len()).expect("at most 1024 partitions");
        Self {
            inner: Arc::new(Inner {
                parts,
                partitions,
                detaching: Detaching::default(),
                pending: Pending::default(),
            }),
        }
    }

    /// Attaches. What was begun goes on to its end when nobody waits for it any more: only then is it safe to let go of it again.
    pub(crate) async fn attach(&self, attach: Attach) -> Result<Attached, Error> {
        let (client, takeover) = (attach.client.clone(), self.clone());
        let (tell, mut told) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = takeover.attach_to_the_end(attach).await;
            if let Err(Ok(attached)) = tell.send(outcome) {
                takeover.detach(attached.undo(client));
            }
        });
        let within = self.inner.parts.deadline + CONFIRM_WITHIN;
        if let Ok(outcome) = tokio::time::timeout(within, &mut told).await {
            return outcome.unwrap_or(Err(Error::Stopping));
        }
        told.close();
        // Told at the last moment.
        told.try_recv()
            .unwrap_or(Err(Error::Unknown("the attach takes too long")))
    }

    async fn attach_to_the_end(&self, attach: Attach) -> Result<Attached, Error> {
        let (client, owner) = (attach.client.clone(), attach.owner.clone());
        let attaching = self.inner.pending.begin(&client);
        let answer = self.commit_attach(attach).await?;
        let epoch = answer.epoch;
        attaching.has(epoch);
        if let Some(owner) = owner
            && answer.owned > 0
            && self.is_over_quota(&owner, &client, answer.owned).await
        {
            metrics::counter!("magpie_user_sessions_refused_total").increment(1);
            // Nobody had a session here before: it ends as if it had never been.
            self.detach(Detach {
                client,
                epoch,
                departure: Departure::Unused,
                session_expiry_s: Some(0),
                last: None,
            });
            return Err(Error::Full("user_sessions_max"));
        }
        let mut attached = Attached {
            epoch,
            incarnation: epoch,
            session: None,
        };
        let mut outcome = self.take_over(&client, answer, &mut attached).await;
        // Before CONNACK: is this still the newest that was heard of?
        if attaching.superseded_by() > epoch {
            outcome = Err(taken_over());
        }
        match outcome {
            Ok(()) => Ok(attached),
            Err(error) => {
                // The connection will be closed: nobody else would let go of its attachment.
                self.detach(attached.undo(client));
                Err(error)
            }
        }
    }

    async fn commit_attach(
        &self,
        attach: Attach,
    ) -> Result<magpie_state::partition::Attached, Error> {
        let Attach {
            client,
            clean_start,
            session_expiry_s,
            will,
            owner,
        } = attach;
        let stream = self.of(&client);
        let record = Record::Attach {
            client,
            clean_start,
            session_expiry_s,
            will,
            owner,
        };
        let done = stream
            .commit_for_certain(&[record])
            .await
            .map_err(|_| Error::Stopping)?;
        let answer = match done {
            Done::Taken {
                attached,
                refused,
                foreign,
                ..
            } => {
                if !foreign.is_empty() {
                    return Err(Error::Foreign);
                }
                if attached.is_empty() && !refused.is_empty() {
                    metrics::counter!("magpie_sessions_refused_total").increment(1);
                    return Err(Error::Full("sessions_max, or outbox_bytes_max"));
                }
                attached.first().copied()
            }
            Done::NotProposed => {
                return Err(Error::NotProposed("the client's partition has no leader"));
            }
            Done::Unknown => return Err(Error::Unknown("the client's partition did not answer")),
        };
        answer.ok_or(Error::Unknown("the partition gave no answer to an attach"))
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
        let mut telling = pin!(self.tell(client, epoch, holder, false));
        let told = tokio::time::timeout(CONFIRM_WITHIN, &mut telling).await;
        let mut told = told.ok();
        let is_gone = told.as_ref().is_some_and(|told| told.is_gone);
        if !is_gone {
            let mut fencing = pin!(self.fence(client, epoch, holder));
            loop {
                tokio::select! {
                    biased;
                    // What comes late counts, and nobody waits for it.
                    late = &mut telling, if told.is_none() => told = Some(late),
                    raised = &mut fencing => break raised?,
                }
            }
            let (takeover, client) = (self.clone(), client.clone());
            tokio::spawn(async move { takeover.tell_until_gone(client, epoch, holder).await });
        }
        let left = told.and_then(|told| told.left);
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

    /// Keeps appends of the previous connection out of every partition; tries until it has, or until the life that may send them is over.
    async fn fence(&self, client: &ClientId, epoch: Epoch, against: StreamId) -> Result<(), Error> {
        let record = [Record::Fence {
            client: client.clone(),
            epoch,
            against,
        }];
        let membership = &self.inner.parts.membership;
        let fences = self.streams().iter().map(async |stream| {
            loop {
                match stream.commit(&record).await.map_err(|_| Error::Stopping)? {
                    Done::Taken { .. } => return Ok(()),
                    Done::NotProposed | Done::Unknown => {}
                }
                if membership.is_over(against) {
                    // Every leader that knows it takes nothing more from there.
                    return Ok(());
                }
            }
        });
        futures::future::try_join_all(fences).await.map(|_| ())
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
        if !self
            .inner
            .pending
            .through(client, epoch, THROUGH_WITHIN)
            .await
        {
            // What an older attach of this node superseded is not kept out yet. A fence of the newer one does that.
            return Told {
                is_gone: false,
                left,
            };
        }
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
        self.inner.pending.note_superseded(&client, epoch);
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
