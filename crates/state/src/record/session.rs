//! Bytes of the records about one client's connection and Session.

use bytes::{BufMut, Bytes, BytesMut};

use super::progress::{
    put_bindings, put_inflight, put_laggards, put_places, read_bindings, read_inflight,
    read_laggards, read_places,
};
use super::share::read_membership;
use super::{Record, SessionProgress, StoredSubscription, StoredWill, kind};
use crate::wire::{
    put_count, put_place, put_stream, put_text, read_client, read_epoch, read_filter, read_list,
    read_packet_id, read_place, read_stream, read_text, read_u8, read_u32,
};
use crate::{ClientId, DecodeError, Departure, Epoch};

pub(super) fn encode(record: &Record, out: &mut BytesMut) {
    match record {
        Record::Attach {
            client,
            clean_start,
            session_expiry_s,
            will,
            owner,
        } => {
            out.put_u8(kind::ATTACH);
            put_text(out, &client.0);
            out.put_u8(
                u8::from(*clean_start)
                    | u8::from(will.is_some()) << 1
                    | u8::from(owner.is_some()) << 2,
            );
            out.put_u32_le(*session_expiry_s);
            if let Some(will) = will {
                will.encode(out);
            }
            if let Some(owner) = owner {
                put_text(out, owner);
            }
        }
        Record::Detach {
            client,
            epoch,
            departure,
            session_expiry_s,
            last,
        } => {
            put_head(kind::DETACH, client, *epoch, out);
            out.put_u8(
                *departure as u8
                    | u8::from(session_expiry_s.is_some()) << 1
                    | u8::from(last.is_some()) << 2,
            );
            if let Some(seconds) = session_expiry_s {
                out.put_u32_le(*seconds);
            }
            if let Some(last) = last {
                last.encode(out);
            }
        }
        Record::Subscribe {
            client,
            epoch,
            subscriptions,
        } => {
            put_head(kind::SUBSCRIBE, client, *epoch, out);
            put_count(out, subscriptions.len());
            for subscription in subscriptions {
                subscription.encode(out);
            }
        }
        Record::Unsubscribe {
            client,
            epoch,
            filters,
            inflight,
        } => {
            put_head(kind::UNSUBSCRIBE, client, *epoch, out);
            put_count(out, filters.len());
            for filter in filters {
                put_text(out, filter.as_str());
            }
            put_inflight(out, inflight);
        }
        Record::Bind {
            client,
            epoch,
            bindings,
        } => {
            put_head(kind::BIND, client, *epoch, out);
            put_bindings(out, bindings);
        }
        Record::Received {
            client,
            epoch,
            packet_ids,
        } => {
            put_head(kind::RECEIVED, client, *epoch, out);
            put_count(out, packet_ids.len());
            for packet_id in packet_ids {
                out.put_u16_le(packet_id.number());
            }
        }
        Record::Progress {
            floors,
            laggards,
            joined,
        } => {
            out.put_u8(kind::PROGRESS);
            put_places(out, floors);
            put_laggards(out, laggards);
            put_count(out, joined.len());
            for (client, epoch) in joined {
                put_client_epoch(client, *epoch, out);
            }
        }
        Record::Release {
            client,
            session,
            packet_id,
        } => {
            put_head(kind::RELEASE, client, *session, out);
            out.put_u8(u8::from(packet_id.is_some()));
            if let Some(packet_id) = packet_id {
                out.put_u16_le(packet_id.number());
            }
        }
        Record::Settle {
            client,
            epoch,
            deliveries,
        } => {
            put_head(kind::SETTLE, client, *epoch, out);
            put_count(out, deliveries.len());
            for (partition, membership, position) in deliveries {
                put_place(out, (*partition, *position));
                out.put_u64_le(membership.0.0);
            }
        }
        Record::Fence {
            client,
            epoch,
            against,
        } => {
            put_head(kind::FENCE, client, *epoch, out);
            put_stream(out, *against);
        }
        Record::Unfence { client, epoch } => put_head(kind::UNFENCE, client, *epoch, out),
        Record::Refuse { stream } => {
            out.put_u8(kind::REFUSE);
            put_stream(out, *stream);
        }
        Record::Lost { .. }
        | Record::Publish(_)
        | Record::JoinShare { .. }
        | Record::LeaveShare { .. }
        | Record::PartShare { .. }
        | Record::ShareDone { .. } => unreachable!("encoded elsewhere"),
    }
}

pub(super) fn decode(kind: u8, buf: &mut Bytes) -> Result<Record, DecodeError> {
    match kind {
        kind::ATTACH => decode_attach(buf),
        kind::DETACH => decode_detach(buf),
        kind::PROGRESS => Ok(Record::Progress {
            floors: read_places(buf)?,
            laggards: read_laggards(buf)?,
            joined: read_list(buf, "joined", read_client_epoch)?,
        }),
        kind::REFUSE => Ok(Record::Refuse {
            stream: read_stream(buf, "refused stream")?,
        }),
        kind::SUBSCRIBE
        | kind::UNSUBSCRIBE
        | kind::BIND
        | kind::RECEIVED
        | kind::RELEASE
        | kind::SETTLE
        | kind::FENCE
        | kind::UNFENCE => {
            let (client, epoch) = read_client_epoch(buf)?;
            decode_of(kind, client, epoch, buf)
        }
        _ => Err(DecodeError::new("record kind", "unknown")),
    }
}

fn decode_of(
    kind: u8,
    client: ClientId,
    epoch: Epoch,
    buf: &mut Bytes,
) -> Result<Record, DecodeError> {
    Ok(match kind {
        kind::SUBSCRIBE => Record::Subscribe {
            client,
            epoch,
            subscriptions: read_list(buf, "subscriptions", StoredSubscription::decode)?,
        },
        kind::UNSUBSCRIBE => Record::Unsubscribe {
            client,
            epoch,
            filters: read_list(buf, "topic filters", |buf| read_filter(buf, "topic filter"))?,
            inflight: read_inflight(buf)?,
        },
        kind::BIND => Record::Bind {
            client,
            epoch,
            bindings: read_bindings(buf)?,
        },
        kind::RECEIVED => Record::Received {
            client,
            epoch,
            packet_ids: read_list(buf, "packet ids", read_packet_id)?,
        },
        kind::RELEASE => Record::Release {
            client,
            session: epoch,
            packet_id: match read_u8(buf, "release")? {
                0 => None,
                _ => Some(read_packet_id(buf)?),
            },
        },
        kind::SETTLE => Record::Settle {
            client,
            epoch,
            deliveries: read_list(buf, "settled", |buf| {
                let (partition, position) = read_place(buf)?;
                Ok((partition, read_membership(buf)?, position))
            })?,
        },
        kind::FENCE => Record::Fence {
            client,
            epoch,
            against: read_stream(buf, "fenced stream")?,
        },
        kind::UNFENCE => Record::Unfence { client, epoch },
        _ => return Err(DecodeError::new("record kind", "unknown")),
    })
}

fn decode_attach(buf: &mut Bytes) -> Result<Record, DecodeError> {
    let client = read_client(buf)?;
    let flags = read_u8(buf, "attach flags")?;
    Ok(Record::Attach {
        client,
        clean_start: flags & 1 != 0,
        session_expiry_s: read_u32(buf, "session expiry")?,
        will: match flags & 2 {
            0 => None,
            _ => Some(Box::new(StoredWill::decode(buf)?)),
        },
        owner: match flags & 4 {
            0 => None,
            _ => Some(read_text(buf, "owner")?),
        },
    })
}

/// Of the flags of a detach.
const DEPARTURE: u8 = 1 | 8;

fn decode_detach(buf: &mut Bytes) -> Result<Record, DecodeError> {
    let (client, epoch) = read_client_epoch(buf)?;
    let flags = read_u8(buf, "detach flags")?;
    Ok(Record::Detach {
        client,
        epoch,
        departure: match flags & DEPARTURE {
            0 => Departure::Unclean,
            1 => Departure::Clean,
            8 => Departure::Unused,
            _ => return Err(DecodeError::new("departure", "unknown")),
        },
        session_expiry_s: match flags & 2 {
            0 => None,
            _ => Some(read_u32(buf, "session expiry")?),
        },
        last: match flags & 4 {
            0 => None,
            _ => Some(Box::new(SessionProgress::decode(buf)?)),
        },
    })
}

fn put_head(kind: u8, client: &ClientId, epoch: Epoch, out: &mut BytesMut) {
    out.put_u8(kind);
    put_client_epoch(client, epoch, out);
}

fn put_client_epoch(client: &ClientId, epoch: Epoch, out: &mut BytesMut) {
    put_text(out, &client.0);
    out.put_u64_le(epoch.0);
}

fn read_client_epoch(buf: &mut Bytes) -> Result<(ClientId, Epoch), DecodeError> {
    Ok((read_client(buf)?, read_epoch(buf)?))
}
