//! Records: what a node's stream carries into a partition, in order. A log entry holds a batch of them.

mod lost;
mod progress;
mod publish;
mod session;
mod share;
mod subscription;
mod will;

use bytes::{Bytes, BytesMut};
use magpie_codec::{PacketId, QoS, Text, TopicFilter};

pub use lost::LostTopic;
pub(crate) use lost::{put_lost_topics, read_lost_topics};
pub use progress::{Binding, Cursor, Inflight, Laggard, SessionProgress, Stage};
pub(crate) use progress::{
    put_cursors, put_inflight, put_places, read_cursors, read_inflight, read_places,
};
pub use publish::{Dedup, Publish, PublishHead, encode_publish, published_ms};
pub(crate) use publish::{is_publish, skim, stamp};
pub use share::ShareSession;
pub(crate) use share::{put_session, read_membership, read_position, read_session};
pub use subscription::StoredSubscription;
pub(crate) use subscription::put_subscription;
pub use will::StoredWill;

use crate::wire::read_u8;
use crate::{ClientId, DecodeError, Epoch, MembershipId, PartitionId, Position, StreamId};

/// The most records in one batch; part of the stored format, since an [`Epoch`] and a [`Position`] hold a record's ordinal in 16 bits.
pub const RECORDS_PER_BATCH_MAX: u32 = 1 << 16;

/// How a connection ended, for its Will Message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Departure {
    /// Without a word, or with one that asks for the Will Message: it is due.
    Unclean = 0,
    /// By DISCONNECT with reason code 0x00: it is discarded [MQTT-3.1.2-10].
    Clean = 1,
    /// Nobody ever used the attachment, since the CONNECT was given up before its CONNACK: its Will Message is discarded, and the one whose
    /// delay it interrupted goes on.
    Unused = 8,
}

/// One record of a stream.
///
/// Those that name a Session's connection by its epoch go to the partition of the client identifier, and are refused there when the
/// client has a newer attachment: Subscribe, Unsubscribe, Bind and Received in the [`Outcome`](crate::partition::Outcome), which ends the
/// connection; Detach, Progress and Settle silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A message of the replicated class, or one to be retained.
    Publish(Publish),
    /// Make a connection of the sending node the client's newest. In the partition of the client identifier.
    Attach {
        /// Whose.
        client: ClientId,
        /// Clean Start: a stored Session ends.
        clean_start: bool,
        /// Session Expiry Interval, seconds; 0: the Session ends with the connection; `u32::MAX`: never.
        session_expiry_s: u32,
        /// Will Message.
        will: Option<Box<StoredWill>>,
        /// User name that the client has shown to be its own, if it has one. A Session belongs to the one that began it: an attach by another
        /// changes nothing, and is named in [`Outcome::foreign`](crate::partition::Outcome::foreign).
        owner: Option<Text>,
    },
    /// A connection is gone.
    Detach {
        /// Whose.
        client: ClientId,
        /// Which: a newer attachment stays.
        epoch: Epoch,
        /// What it means for the Will Message.
        departure: Departure,
        /// Session Expiry Interval of the DISCONNECT, seconds.
        session_expiry_s: Option<u32>,
        /// How far the Session has got, if the connection ended in order.
        last: Option<Box<SessionProgress>>,
    },
    /// Add subscriptions to a Session.
    Subscribe {
        /// Whose.
        client: ClientId,
        /// Of the connection.
        epoch: Epoch,
        /// Subscribing again to a filter replaces the options and the identifier, and keeps the old `since`, unless the QoS was 0 and now
        /// is not.
        subscriptions: Vec<StoredSubscription>,
    },
    /// Take subscriptions from a Session.
    Unsubscribe {
        /// Whose.
        client: ClientId,
        /// Of the connection.
        epoch: Epoch,
        /// Which.
        filters: Vec<TopicFilter>,
        /// Messages of QoS 1 that the client has, and has not acknowledged: they are completed all the same [MQTT-3.10.4-3].
        inflight: Vec<Inflight>,
    },
    /// QoS 2 deliveries that are about to begin; committed before their first PUBLISH.
    Bind {
        /// Whose.
        client: ClientId,
        /// Of the connection.
        epoch: Epoch,
        /// One with a Packet Identifier that is in use replaces the older.
        bindings: Vec<Binding>,
    },
    /// PUBRECs came; committed before the PUBRELs.
    Received {
        /// Whose.
        client: ClientId,
        /// Of the connection.
        epoch: Epoch,
        /// Of the deliveries.
        packet_ids: Vec<PacketId>,
    },
    /// How far the Sessions attached to the sending node have got, of those in this partition.
    Progress {
        /// Everything up to these positions is done by every member of the node's cohort.
        floors: Vec<(PartitionId, Position)>,
        /// Sessions that have cursors of their own from now on.
        laggards: Vec<Laggard>,
        /// Sessions that are members of the cohort from now on.
        joined: Vec<(ClientId, Epoch)>,
    },
    /// An inbound QoS 2 Packet Identifier may be used anew. In a partition of topics.
    Release {
        /// Whose.
        client: ClientId,
        /// Incarnation of the Session.
        session: Epoch,
        /// Which; `None`: all of that incarnation and older ones, since it ended.
        packet_id: Option<PacketId>,
    },
    /// Refuse what connections of `client` older than `epoch` may still append here. Written before the CONNACK of a takeover whose
    /// previous node did not confirm that its connection is gone.
    Fence {
        /// Whose connections.
        client: ClientId,
        /// The newest attachment.
        epoch: Epoch,
        /// The life of the node that may still send such appends. The fence stands until that life sends an unfence, or is ended.
        against: StreamId,
    },
    /// The node that sends this stream has closed every connection of `client` below `epoch`: its fence is not needed any more.
    Unfence {
        /// Whose connections.
        client: ClientId,
        /// As in the fence.
        epoch: Epoch,
    },
    /// That life of a node is over: take nothing more from it. What it held stays as it is until the partition's leader
    /// [ends it](crate::partition::PartitionCommand::EndStream), which it does when no partition takes anything from it any more: whoever
    /// gets what it held then, finds that nothing can come from before.
    Refuse {
        /// Which life.
        stream: StreamId,
    },
    /// A limit has removed messages of another partition, which sends this by its outbox. In each partition of sessions.
    Lost {
        /// Where they were.
        partition: PartitionId,
        /// By topic.
        topics: Vec<LostTopic>,
    },
    /// Shared deliveries of QoS 2 that their groups know to be done: the Session forgets their Packet Identifiers. In the partition of the
    /// client identifier.
    Settle {
        /// Whose.
        client: ClientId,
        /// Of the connection.
        epoch: Epoch,
        /// By partition, membership and position.
        deliveries: Vec<(PartitionId, MembershipId, Position)>,
    },
    /// A connection of the sending node takes part in a share group. In each partition that holds topics which the filter can match.
    JoinShare {
        /// `$share/{name}/{filter}`.
        filter: TopicFilter,
        /// Number of the connection, unique in the node's life.
        member: u64,
        /// QoS of the subscription. Joining again replaces it.
        qos: QoS,
        /// The Session that is the member, if it outlives the connection.
        session: Option<ShareSession>,
    },
    /// The reverse: the subscription has ended.
    LeaveShare {
        /// `$share/{name}/{filter}`.
        filter: TopicFilter,
        /// Number of the connection.
        member: u64,
        /// As in the join.
        session: Option<ShareSession>,
        /// Of QoS 2, what was sent, or may have been, by membership: it stays with its Session, or is discarded. All else returns to the group, as
        /// QoS 1 does. `None`: anything may have been sent.
        sent: Option<Vec<(MembershipId, Position)>>,
    },
    /// A connection has ended: its memberships end with it, or wait with their Sessions.
    PartShare {
        /// Number of the connection.
        member: u64,
        /// As in [`LeaveShare`](Self::LeaveShare).
        sent: Option<Vec<(MembershipId, Position)>>,
    },
    /// Messages of share groups that need no more: acknowledged, or discarded.
    ShareDone {
        /// By the membership that had them.
        done: Vec<(MembershipId, Vec<Position>)>,
    },
}

/// First byte of a record. Part of the stored format.
mod kind {
    pub(super) const PUBLISH: u8 = 1;
    pub(super) const FENCE: u8 = 2;
    pub(super) const UNFENCE: u8 = 3;
    pub(super) const JOIN_SHARE: u8 = 4;
    pub(super) const LEAVE_SHARE: u8 = 5;
    pub(super) const ATTACH: u8 = 6;
    pub(super) const DETACH: u8 = 7;
    pub(super) const SUBSCRIBE: u8 = 8;
    pub(super) const UNSUBSCRIBE: u8 = 9;
    pub(super) const BIND: u8 = 10;
    pub(super) const RECEIVED: u8 = 11;
    pub(super) const PROGRESS: u8 = 12;
    pub(super) const RELEASE: u8 = 13;
    pub(super) const SETTLE: u8 = 14;
    pub(super) const PART_SHARE: u8 = 15;
    pub(super) const SHARE_DONE: u8 = 16;
    pub(super) const REFUSE: u8 = 17;
    pub(super) const LOST: u8 = 20;
}

impl Record {
    /// Whether the partition must read the record when it is applied: then its batch is one that
    /// [has control](crate::partition::Append::has_control).
    #[must_use]
    pub const fn must_read(&self) -> bool {
        match self {
            Self::Publish(publish) => publish.head().must_read(),
            _ => true,
        }
    }

    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Publish(publish) => publish.encode(out),
            Self::Lost { partition, topics } => lost::encode(*partition, topics, out),
            Self::JoinShare { .. }
            | Self::LeaveShare { .. }
            | Self::PartShare { .. }
            | Self::ShareDone { .. } => share::encode(self, out),
            _ => session::encode(self, out),
        }
    }

    /// Takes one record off the front of `buf`; payloads and names are slices of it.
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        match read_u8(buf, "record kind")? {
            kind::PUBLISH => Publish::decode_body(buf).map(Self::Publish),
            kind @ (kind::JOIN_SHARE | kind::LEAVE_SHARE | kind::PART_SHARE | kind::SHARE_DONE) => {
                share::decode(kind, buf)
            }
            kind::LOST => {
                lost::decode(buf).map(|(partition, topics)| Self::Lost { partition, topics })
            }
            kind => session::decode(kind, buf),
        }
    }
}

#[cfg(test)]
mod tests;
