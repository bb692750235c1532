//! A client's session, cluster-wide: attaching a connection to it, what it commits, and letting go of it.
//!
//! A session lives in the partition of its client identifier. Everything a connection does to it travels in this node's stream there,
//! under the epoch of the attachment, so that a connection which was taken over can change nothing any more.

use bytes::Bytes;
use magpie_codec::{PacketId, Text};
use magpie_state::partition::StoredSession;
use magpie_state::{ClientId, Departure, Epoch, PartitionId, Record, SessionProgress, StoredWill};

use crate::handle::Cluster;
use crate::stream::{Done, OnDone, Records};
use crate::{Error, Submitted};

/// Request to make a connection the client's only one.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Whose.
    pub client: ClientId,
    /// Clean Start / Clean Session.
    pub clean_start: bool,
    /// Session Expiry Interval, seconds.
    pub session_expiry_s: u32,
    /// Will Message, which the partition publishes when the attachment ends without a clean [`Detach`].
    pub will: Option<Box<StoredWill>>,
    /// User name that the client has shown to be its own: nobody else may have the session then.
    pub owner: Option<Text>,
}

/// The attachment.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Fence for everything this connection does from now on.
    pub epoch: Epoch,
    /// Which life of the session it is: the epoch of the attachment that began it. What names a session beyond its connections, such as
    /// the packet identifiers of its QoS 2 publishes.
    pub incarnation: Epoch,
    /// What is resumed, with what the previous node handed over; `None`: no session was present.
    pub session: Option<Box<StoredSession>>,
}

/// Request to let go of a connection's session.
#[derive(Debug, Clone)]
pub struct Detach {
    /// Whose.
    pub client: ClientId,
    /// Of the connection.
    pub epoch: Epoch,
    /// What it means for the will.
    pub departure: Departure,
    /// Session Expiry Interval of the DISCONNECT, seconds.
    pub session_expiry_s: Option<u32>,
    /// How far the session has got, if the connection knows it whole.
    pub last: Option<Box<SessionProgress>>,
}

/// What a node gives to the next one of a session that it no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Of the connection that ended.
    pub epoch: Epoch,
    /// How far it had got.
    pub progress: Box<SessionProgress>,
}

impl Attached {
    /// Takes back an attachment that no connection has used: its will is discarded, a delayed one that it interrupted goes on, and what the
    /// previous node handed over is kept.
    #[must_use]
    pub fn undo(self, client: ClientId) -> Detach {
        let last = self.session.map(|session| {
            Box::new(SessionProgress {
                cursors: session.cursors,
                inflight: session.inflight,
            })
        });
        Detach {
            client,
            epoch: self.epoch,
            departure: Departure::Unused,
            session_expiry_s: None,
            last,
        }
    }
}

impl Detach {
    pub(crate) fn into_record(self) -> Record {
        let Self {
            client,
            epoch,
            departure,
            session_expiry_s,
            last,
        } = self;
        Record::Detach {
            client,
            epoch,
            departure,
            session_expiry_s,
            last,
        }
    }
}

impl Cluster {
    /// Makes a connection the client's only one, cluster-wide. A previous connection elsewhere has been closed, or can get nothing
    /// acknowledged any more, when this returns; what it handed over is in the session.
    ///
    /// # Errors
    /// [`Error::NotProposed`], [`Error::Unknown`] (close). The connection is attached to nothing then.
    pub async fn attach(&self, attach: Attach) -> Result<Attached, Error> {
        self.parts().takeover.attach(attach).await
    }

    /// A connection is gone, and everything that it submitted is answered. Queued, repeated until committed or the node stops. It waits for
    /// what the client submitted and was told [`Submitted::Unknown`] of: until then a newer connection finds the attachment, and keeps it
    /// out.
    ///
    /// From the return of this call on, a node that takes the session over gets `last` from here. So call this before the connection
    /// leaves the register that [`Event::Supersede`](crate::Event::Supersede) is answered from.
    pub fn detach(&self, detach: Detach) {
        self.parts().takeover.detach(detach);
    }

    /// Returns when every [`detach`](Self::detach) so far is committed: a node that stops then leaves its clients' sessions as they were, with
    /// their packet identifiers. Waits as long as it takes partitions to commit.
    pub async fn detached(&self) {
        if let Some(formed) = self.inner.formed.get() {
            formed.takeover.detached().await;
        }
    }

    /// The partition that holds the session of a client.
    #[must_use]
    pub fn session_partition(&self, client: &ClientId) -> PartitionId {
        magpie_state::partition_of(&client.0, self.partitions())
    }

    /// Commits a [`Record::Subscribe`] or [`Record::Unsubscribe`] of a session. False: refused, since the client has a newer connection;
    /// this one must end.
    ///
    /// # Errors
    /// [`Error::NotProposed`]; [`Error::Unknown`], after which the connection must end; [`Error::Stopping`].
    pub async fn commit(&self, client: &ClientId, record: Record) -> Result<bool, Error> {
        let stream = self.stream(self.session_partition(client));
        match stream
            .commit(&[record])
            .await
            .map_err(|_| Error::Stopping)?
        {
            Done::Taken { refused, .. } => Ok(refused.is_empty()),
            Done::NotProposed => Err(Error::NotProposed("the client's partition has no leader")),
            Done::Unknown => Err(Error::Unknown("the client's partition did not answer")),
        }
    }

    /// Queues steps of a session's QoS 2 deliveries ([`Record::Bind`], [`Record::Received`]), encoded one after the other, for its partition.
    /// As [`submit`](Self::submit), but not refused for want of room on the disk: they are what makes room.
    ///
    /// # Errors
    /// [`Error::Stopping`]; `done` is then not called.
    pub async fn submit_session(
        &self,
        client: &ClientId,
        records: Bytes,
        count: u32,
        done: Box<dyn FnOnce(Submitted) + Send>,
    ) -> Result<(), Error> {
        let records = Records {
            bytes: records,
            count,
            has_control: true,
            is_patient: false,
            // What is given up is refused by its epoch if it commits too late.
            client: None,
        };
        let stream = self.stream(self.session_partition(client));
        stream
            .submit(records, answer_with(done))
            .await
            .map_err(|_| Error::Stopping)
    }

    /// Commits a [`Record::Progress`] of this node's sessions in `partition`. Repeating one is harmless.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); nobody's connection has to end for it.
    pub async fn report_progress(
        &self,
        partition: PartitionId,
        progress: Record,
    ) -> Result<(), Error> {
        metrics::counter!("magpie_session_progress_total").increment(1);
        let done = self.stream(partition).commit(&[progress]).await;
        match done.map_err(|_| Error::Stopping)? {
            Done::Taken { .. } => Ok(()),
            Done::NotProposed => Err(Error::NotProposed("the partition has no leader")),
            Done::Unknown => Err(Error::Unknown("the partition did not answer")),
        }
    }

    /// Commits that a packet identifier of the client's QoS 2 publishes (`None`: each of that incarnation and older ones) may be used anew,
    /// in the partition that holds it, or in all of them if that is not known.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn release(
        &self,
        client: &ClientId,
        session: Epoch,
        packet_id: Option<PacketId>,
        partition: Option<PartitionId>,
    ) -> Result<(), Error> {
        let record = [Record::Release {
            client: client.clone(),
            session,
            packet_id,
        }];
        let partitions = match partition {
            Some(partition) => partition.0..partition.0 + 1,
            None => 0..self.partitions(),
        };
        let released =
            partitions.map(|partition| self.stream(PartitionId(partition)).commit(&record));
        let mut outcome = Ok(());
        for done in futures::future::join_all(released).await {
            match done.map_err(|_| Error::Stopping)? {
                Done::Taken { .. } => {}
                Done::NotProposed if outcome.is_ok() && partition.is_some() => {
                    outcome = Err(Error::NotProposed("the partition has no leader"));
                }
                Done::NotProposed | Done::Unknown => {
                    outcome = Err(Error::Unknown("a partition did not answer a release"));
                }
            }
        }
        outcome
    }
}

/// The stream's words in those of the broker.
pub(crate) fn answer_with(done: Box<dyn FnOnce(Submitted) + Send>) -> OnDone {
    Box::new(move |outcome| {
        done(match outcome {
            Done::Taken {
                refused,
                repeated,
                full,
                ..
            } => {
                if full.is_empty() {
                    Submitted::Committed { refused, repeated }
                } else {
                    metrics::counter!("magpie_publishes_refused_total", "reason" => "retained")
                        .increment(full.len() as u64);
                    Submitted::Full {
                        refused,
                        repeated,
                        full,
                    }
                }
            }
            Done::NotProposed => Submitted::NotProposed,
            Done::Unknown => Submitted::Unknown,
        });
    })
}
