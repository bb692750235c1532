//! A Session's row of a checkpoint or snapshot.

use bytes::{BufMut, Bytes};

use super::session::{Attachment, DelayedWill, Rare, Session, Subscription, Will};
use crate::record::{
    StoredSubscription, put_cursors, put_inflight, put_subscription, read_cursors, read_inflight,
};
use crate::wire::{
    put_bytes, put_count, put_stream, put_text, read_bytes, read_epoch, read_list, read_stream,
    read_text, read_u8, read_u32, read_u64,
};
use crate::{ClientId, DecodeError};

const DURABLE: u8 = 1;
const ATTACHED: u8 = 2;
const JOINED: u8 = 4;
const WILL: u8 = 8;
const DELAYED_WILL: u8 = 16;
const DISPLACED_WILL: u8 = 32;
const LOST: u8 = 64;
const OWNED: u8 = 128;

pub(super) fn encode(session: &Session) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let attachment = session.attachment.as_deref();
    let will = attachment.and_then(|attachment| attachment.will.as_ref());
    let displaced = attachment.and_then(|attachment| attachment.displaced.as_ref());
    let delayed = session.rare.as_ref().and_then(|rare| rare.will.as_ref());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(
        flag(session.is_durable, DURABLE)
            | flag(attachment.is_some(), ATTACHED)
            | flag(attachment.is_some_and(|it| it.is_joined), JOINED)
            | flag(will.is_some(), WILL)
            | flag(displaced.is_some(), DISPLACED_WILL)
            | flag(delayed.is_some(), DELAYED_WILL)
            | flag(session.lost() > 0, LOST)
            | flag(session.owner.is_some(), OWNED),
    );
    out.put_u64_le(session.incarnation.0);
    out.put_u32_le(session.expiry_s);
    out.put_u64_le(session.ends_at);
    if let Some(attachment) = attachment {
        out.put_u64_le(attachment.epoch.0);
        put_stream(&mut out, attachment.holder);
    }
    if let Some(will) = will {
        out.put_u32_le(will.delay_s);
        put_bytes(&mut out, &will.record);
    }
    for will in displaced.into_iter().chain(delayed) {
        out.put_u64_le(will.due);
        put_bytes(&mut out, &will.record);
    }
    if session.lost() > 0 {
        out.put_u64_le(session.lost());
    }
    if let Some(owner) = &session.owner {
        put_text(&mut out, owner);
    }
    put_count(&mut out, session.subscriptions.len());
    for it in &session.subscriptions {
        put_subscription(&mut out, &it.filter, it.options, it.id, &it.since);
    }
    put_cursors(&mut out, &session.cursors);
    put_inflight(&mut out, session.inflight());
    out
}

pub(super) fn decode(client: &ClientId, buf: &mut Bytes) -> Result<Session, DecodeError> {
    let flags = read_u8(buf, "session flags")?;
    let incarnation = read_epoch(buf)?;
    let expiry_s = read_u32(buf, "session expiry")?;
    let mut session = Session::new(client, incarnation, expiry_s);
    session.is_durable = flags & DURABLE != 0;
    session.ends_at = read_u64(buf, "session end")?;
    if flags & ATTACHED != 0 {
        session.attachment = Some(Box::new(Attachment {
            epoch: read_epoch(buf)?,
            holder: read_stream(buf, "holder")?,
            is_joined: flags & JOINED != 0,
            will: match flags & WILL {
                0 => None,
                _ => Some(Will {
                    delay_s: read_u32(buf, "will delay")?,
                    record: read_bytes(buf, "will")?[..].into(),
                }),
            },
            displaced: read_delayed(buf, flags & DISPLACED_WILL != 0)?,
        }));
    }
    let delayed = read_delayed(buf, flags & DELAYED_WILL != 0)?;
    let lost = match flags & LOST {
        0 => 0,
        _ => read_u64(buf, "lost messages")?,
    };
    if flags & OWNED != 0 {
        session.owner = Some((&*read_text(buf, "owner")?).into());
    }
    let subscriptions = read_list(buf, "subscriptions", |buf| {
        StoredSubscription::decode(buf).map(|stored| Subscription::new(&stored))
    })?;
    session.subscriptions = subscriptions.into();
    session.cursors = read_cursors(buf)?.into();
    let mut inflight = read_inflight(buf)?;
    inflight.shrink_to_fit();
    if delayed.is_some() || !inflight.is_empty() || lost > 0 {
        session.rare = Some(Box::new(Rare {
            inflight,
            will: delayed,
            lost,
        }));
    }
    Ok(session)
}

fn read_delayed(buf: &mut Bytes, is_there: bool) -> Result<Option<DelayedWill>, DecodeError> {
    if !is_there {
        return Ok(None);
    }
    Ok(Some(DelayedWill {
        due: read_u64(buf, "will delay")?,
        record: read_bytes(buf, "will")?[..].into(),
    }))
}
