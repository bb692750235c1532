//! How far a Session has got: cursors into the partitions, and what is in flight.

use bytes::{BufMut, Bytes};
use magpie_codec::{PacketId, QoS};

use super::share::read_membership;
use crate::wire::{
    put_count, put_place, put_text, read_client, read_epoch, read_list, read_packet_id, read_place,
    read_u8, read_u64,
};
use crate::{ClientId, DecodeError, Epoch, MembershipId, PartitionId, Position};

/// How far a Session has got in one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where.
    pub partition: PartitionId,
    /// Everything of the Session up to and including this is done.
    pub floor: Position,
    /// What is done out of order: ascending, all above `floor`.
    pub done: Vec<Position>,
}

impl Cursor {
    /// Whether the message at `position` is done.
    #[must_use]
    pub fn is_done(&self, position: Position) -> bool {
        position <= self.floor || self.done.binary_search(&position).is_ok()
    }
}

/// What a node hands over of a Session whose connection it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionProgress {
    /// By partition, ascending; a partition that is missing was not begun.
    pub cursors: Vec<Cursor>,
    /// Sent and not done, in the order of the first sending.
    pub inflight: Vec<Inflight>,
}

/// A message under way to its client, which keeps its Packet Identifier until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inflight {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// Where the message is.
    pub partition: PartitionId,
    /// Where in that partition's log.
    pub position: Position,
    /// QoS of the delivery, 1 or 2.
    pub qos: QoS,
    /// How far it is.
    pub stage: Stage,
    /// The membership by which the Session has it, if it is a share group's: then no cursor tells of it. QoS 2 only.
    pub share: Option<MembershipId>,
}

impl Inflight {
    /// Which delivery it is, of those of its Session.
    #[must_use]
    pub const fn delivery(&self) -> (PartitionId, Position, Option<MembershipId>) {
        (self.partition, self.position, self.share)
    }
}

/// Stage of a delivery that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// PUBLISH sent, not answered.
    Published,
    /// PUBREC came: the client has the message, and PUBREL is to be sent until PUBCOMP comes.
    Released,
    /// PUBCOMP came for a message of a share group, and the group may not know yet. Its Packet Identifier is free.
    Done,
}

/// Which message a Packet Identifier stands for, in a QoS 2 delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// Where the message is.
    pub partition: PartitionId,
    /// Where in that partition's log.
    pub position: Position,
    /// As in [`Inflight::share`].
    pub share: Option<MembershipId>,
}

/// A Session with cursors of its own, because it is behind its node's others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laggard {
    /// Whose.
    pub client: ClientId,
    /// Epoch of its attachment.
    pub epoch: Epoch,
    /// How far it has got.
    pub progress: Vec<Cursor>,
}

impl SessionProgress {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_cursors(out, &self.cursors);
        put_inflight(out, &self.inflight);
    }

    /// The reverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Bytes that no version up to this one writes.
    pub fn decode(buf: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            cursors: read_cursors(buf)?,
            inflight: read_inflight(buf)?,
        })
    }
}

pub(crate) fn put_cursors(out: &mut impl BufMut, cursors: &[Cursor]) {
    put_count(out, cursors.len());
    for cursor in cursors {
        put_place(out, (cursor.partition, cursor.floor));
        put_count(out, cursor.done.len());
        for position in &cursor.done {
            out.put_u64_le(position.0);
        }
    }
}

pub(crate) fn read_cursors(buf: &mut Bytes) -> Result<Vec<Cursor>, DecodeError> {
    read_list(buf, "cursors", |buf| {
        let (partition, floor) = read_place(buf)?;
        let done = read_list(buf, "positions", |buf| {
            read_u64(buf, "position").map(Position)
        })?;
        Ok(Cursor {
            partition,
            floor,
            done,
        })
    })
}

/// Of the byte that holds QoS and stage.
const RELEASED: u8 = 0x80;
const DONE: u8 = 0x40;
const SHARED: u8 = 0x20;

pub(crate) fn put_inflight(out: &mut impl BufMut, inflight: &[Inflight]) {
    put_count(out, inflight.len());
    for inflight in inflight {
        let stage = match inflight.stage {
            Stage::Published => 0,
            Stage::Released => RELEASED,
            Stage::Done => DONE,
        };
        let shared = if inflight.share.is_some() { SHARED } else { 0 };
        out.put_u8(inflight.qos as u8 | stage | shared);
        out.put_u16_le(inflight.packet_id.number());
        put_place(out, (inflight.partition, inflight.position));
        if let Some(share) = inflight.share {
            out.put_u64_le(share.0.0);
        }
    }
}

pub(crate) fn read_inflight(buf: &mut Bytes) -> Result<Vec<Inflight>, DecodeError> {
    read_list(buf, "inflight", |buf| {
        let flags = read_u8(buf, "inflight flags")?;
        let qos = QoS::from_u8(flags & !(RELEASED | DONE | SHARED))
            .ok_or(DecodeError::new("inflight flags", "unknown QoS"))?;
        let packet_id = read_packet_id(buf)?;
        let (partition, position) = read_place(buf)?;
        Ok(Inflight {
            packet_id,
            partition,
            position,
            qos,
            stage: match flags & (RELEASED | DONE) {
                0 => Stage::Published,
                RELEASED => Stage::Released,
                _ => Stage::Done,
            },
            share: match flags & SHARED {
                0 => None,
                _ => Some(read_membership(buf)?),
            },
        })
    })
}

pub(super) fn put_bindings(out: &mut impl BufMut, bindings: &[Binding]) {
    put_count(out, bindings.len());
    for binding in bindings {
        out.put_u16_le(binding.packet_id.number());
        put_place(out, (binding.partition, binding.position));
        // No membership begins at the start of the log.
        out.put_u64_le(binding.share.map_or(0, |share| share.0.0));
    }
}

pub(super) fn read_bindings(buf: &mut Bytes) -> Result<Vec<Binding>, DecodeError> {
    read_list(buf, "bindings", |buf| {
        let packet_id = read_packet_id(buf)?;
        let (partition, position) = read_place(buf)?;
        let share = read_membership(buf)?;
        Ok(Binding {
            packet_id,
            partition,
            position,
            share: (share.0 > Position::START).then_some(share),
        })
    })
}

pub(super) fn put_laggards(out: &mut impl BufMut, laggards: &[Laggard]) {
    put_count(out, laggards.len());
    for Laggard {
        client,
        epoch,
        progress,
    } in laggards
    {
        put_text(out, &client.0);
        out.put_u64_le(epoch.0);
        put_cursors(out, progress);
    }
}

pub(super) fn read_laggards(buf: &mut Bytes) -> Result<Vec<Laggard>, DecodeError> {
    read_list(buf, "laggards", |buf| {
        Ok(Laggard {
            client: read_client(buf)?,
            epoch: read_epoch(buf)?,
            progress: read_cursors(buf)?,
        })
    })
}

/// A list of positions by partition, `since` or floors.
pub(crate) fn put_places(out: &mut impl BufMut, places: &[(PartitionId, Position)]) {
    put_count(out, places.len());
    for place in places {
        put_place(out, *place);
    }
}

/// The reverse of [`put_places`].
pub(crate) fn read_places(buf: &mut Bytes) -> Result<Vec<(PartitionId, Position)>, DecodeError> {
    read_list(buf, "positions by partition", read_place)
}
