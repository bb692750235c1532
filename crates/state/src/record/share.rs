//! Records about share groups, and their bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Record, kind};
use crate::wire::{
    put_count, put_text, read_client, read_epoch, read_filter, read_list, read_qos, read_u8,
    read_u64,
};
use crate::{ClientId, DecodeError, Epoch, MembershipId, Position};

/// The Session that takes part in a share group, and the connection by which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSession {
    /// Whose.
    pub client: ClientId,
    /// Incarnation of the Session: the epoch of the attach that created it.
    pub session: Epoch,
    /// Epoch of the connection: what an older one says of the membership does not count.
    pub epoch: Epoch,
}

pub(super) fn encode(record: &Record, out: &mut BytesMut) {
    match record {
        Record::JoinShare {
            filter,
            member,
            qos,
            session,
        } => {
            out.put_u8(kind::JOIN_SHARE);
            put_text(out, filter.as_str());
            out.put_u64_le(*member);
            out.put_u8(*qos as u8);
            put_session(out, session.as_ref());
        }
        Record::LeaveShare {
            filter,
            member,
            session,
            sent,
        } => {
            out.put_u8(kind::LEAVE_SHARE);
            put_text(out, filter.as_str());
            out.put_u64_le(*member);
            put_session(out, session.as_ref());
            put_sent(out, sent.as_deref());
        }
        Record::PartShare { member, sent } => {
            out.put_u8(kind::PART_SHARE);
            out.put_u64_le(*member);
            put_sent(out, sent.as_deref());
        }
        Record::ShareDone { done } => {
            out.put_u8(kind::SHARE_DONE);
            put_count(out, done.len());
            for (membership, positions) in done {
                out.put_u64_le(membership.0.0);
                put_positions(out, positions);
            }
        }
        _ => unreachable!("encoded elsewhere"),
    }
}

pub(super) fn decode(kind: u8, buf: &mut Bytes) -> Result<Record, DecodeError> {
    Ok(match kind {
        kind::JOIN_SHARE => Record::JoinShare {
            filter: read_filter(buf, "share group")?,
            member: read_u64(buf, "share member")?,
            qos: read_qos(buf, "share member")?,
            session: read_session(buf)?,
        },
        kind::LEAVE_SHARE => Record::LeaveShare {
            filter: read_filter(buf, "share group")?,
            member: read_u64(buf, "share member")?,
            session: read_session(buf)?,
            sent: read_sent(buf)?,
        },
        kind::PART_SHARE => Record::PartShare {
            member: read_u64(buf, "share member")?,
            sent: read_sent(buf)?,
        },
        kind::SHARE_DONE => Record::ShareDone {
            done: read_list(buf, "done", |buf| {
                Ok((read_membership(buf)?, read_positions(buf)?))
            })?,
        },
        _ => return Err(DecodeError::new("record kind", "unknown")),
    })
}

pub(crate) fn put_session(out: &mut impl BufMut, session: Option<&ShareSession>) {
    out.put_u8(u8::from(session.is_some()));
    if let Some(ShareSession {
        client,
        session,
        epoch,
    }) = session
    {
        put_text(out, &client.0);
        out.put_u64_le(session.0);
        out.put_u64_le(epoch.0);
    }
}

pub(crate) fn read_session(buf: &mut Bytes) -> Result<Option<ShareSession>, DecodeError> {
    if read_u8(buf, "share member")? == 0 {
        return Ok(None);
    }
    Ok(Some(ShareSession {
        client: read_client(buf)?,
        session: read_epoch(buf)?,
        epoch: read_epoch(buf)?,
    }))
}

pub(crate) fn read_membership(buf: &mut Bytes) -> Result<MembershipId, DecodeError> {
    read_position(buf).map(MembershipId)
}

pub(crate) fn read_position(buf: &mut Bytes) -> Result<Position, DecodeError> {
    read_u64(buf, "position").map(Position)
}

fn put_sent(out: &mut impl BufMut, sent: Option<&[(MembershipId, Position)]>) {
    out.put_u8(u8::from(sent.is_some()));
    let Some(sent) = sent else { return };
    put_count(out, sent.len());
    for (membership, position) in sent {
        out.put_u64_le(membership.0.0);
        out.put_u64_le(position.0);
    }
}

fn read_sent(buf: &mut Bytes) -> Result<Option<Vec<(MembershipId, Position)>>, DecodeError> {
    if read_u8(buf, "sent")? == 0 {
        return Ok(None);
    }
    read_list(buf, "sent", |buf| {
        Ok((read_membership(buf)?, read_position(buf)?))
    })
    .map(Some)
}

fn put_positions(out: &mut impl BufMut, positions: &[Position]) {
    put_count(out, positions.len());
    for position in positions {
        out.put_u64_le(position.0);
    }
}

fn read_positions(buf: &mut Bytes) -> Result<Vec<Position>, DecodeError> {
    read_list(buf, "positions", read_position)
}
