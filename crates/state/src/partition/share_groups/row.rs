//! Rows of share groups in checkpoints and snapshots: one for each group, each member and each message that is dealt and not done.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use magpie_codec::TopicFilter;

use super::ShareMemberId;
use super::derived::Derived;
use super::group::{Open, ShareGroup, ShareMember};
use crate::partition::table;
use crate::record::{put_session, read_membership, read_position, read_session};
use crate::wire::{put_stream, put_text, read_filter, read_qos, read_stream, read_u8, read_u64};
use crate::{DecodeError, MembershipId, Position, ShareGroupId};

const GROUP: u8 = 0;
const MEMBER: u8 = 1;
const OPEN: u8 = 2;

type Groups = BTreeMap<ShareGroupId, ShareGroup>;

pub(super) fn group_key(group: ShareGroupId) -> Vec<u8> {
    key(GROUP, group, None)
}

pub(super) fn member_key(group: ShareGroupId, member: MembershipId) -> Vec<u8> {
    key(MEMBER, group, Some(member.0))
}

pub(super) fn open_key(group: ShareGroupId, position: Position) -> Vec<u8> {
    key(OPEN, group, Some(position))
}

fn key(kind: u8, group: ShareGroupId, of: Option<Position>) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.put_slice(&[table::SHARE_GROUP, kind]);
    key.put_u64_le(group.0.0);
    if let Some(of) = of {
        key.put_u64_le(of.0);
    }
    key
}

pub(super) fn keys(groups: &Groups) -> impl Iterator<Item = Vec<u8>> + '_ {
    groups.values().flat_map(|group| {
        let members = group
            .members
            .keys()
            .map(|member| member_key(group.id, *member));
        let open = group
            .open
            .keys()
            .map(|position| open_key(group.id, *position));
        [group_key(group.id)].into_iter().chain(members).chain(open)
    })
}

pub(super) fn value(groups: &Groups, key: &[u8]) -> Option<Vec<u8>> {
    let mut key = Bytes::copy_from_slice(key);
    let (kind, group) = read_key(&mut key).ok()?;
    let group = groups.get(&group)?;
    let mut out = Vec::new();
    match kind {
        GROUP => {
            out.put_u64_le(group.next.0);
            put_text(&mut out, group.filter.as_str());
        }
        MEMBER => {
            let member = group.members.get(&read_membership(&mut key).ok()?)?;
            out.put_u8(member.qos as u8);
            put_session(&mut out, member.session.as_ref());
            out.put_u8(u8::from(member.at.is_some()));
            if let Some(at) = member.at {
                put_stream(&mut out, at.stream);
                out.put_u64_le(at.member);
            }
        }
        _ => {
            let open = group.open.get(&read_position(&mut key).ok()?)?;
            out.put_u8(open.published as u8);
            out.put_u8(open.qos as u8);
            out.put_u64_le(open.dealt);
            // No membership begins at the start of the log.
            out.put_u64_le(open.owner.map_or(0, |owner| owner.0.0));
        }
    }
    Some(out)
}

/// Takes a row, in any order: what is derived of a message follows when both it and its owner are there.
pub(super) fn load(
    groups: &mut Groups,
    derived: &mut Derived,
    mut key: Bytes,
    mut value: Bytes,
) -> Result<(), DecodeError> {
    let (kind, id) = read_key(&mut key)?;
    let group = groups
        .entry(id)
        .or_insert_with(|| ShareGroup::new(id, nameless(), Position::START));
    match kind {
        GROUP => {
            group.next = read_position(&mut value)?;
            group.filter = read_filter(&mut value, "share group")?;
            derived.add_group(group);
        }
        MEMBER => {
            let member = read_membership(&mut key)?;
            let qos = read_qos(&mut value, "share member")?;
            let session = read_session(&mut value)?;
            let at = match read_u8(&mut value, "share member")? {
                0 => None,
                _ => Some(ShareMemberId {
                    stream: read_stream(&mut value, "share member")?,
                    member: read_u64(&mut value, "share member")?,
                }),
            };
            let mut loaded = ShareMember::new(member, qos, session, at);
            derived.add_member(id, &loaded);
            for (position, open) in &group.open {
                if open.owner == Some(member) {
                    own(&mut loaded, *position, open, derived);
                }
            }
            group.members.insert(member, loaded);
        }
        OPEN => {
            let position = read_position(&mut key)?;
            let published = read_qos(&mut value, "open message")?;
            let qos = read_qos(&mut value, "open message")?;
            let dealt = read_u64(&mut value, "open message")?;
            let owner = read_membership(&mut value)?;
            let owner = (owner.0 > Position::START).then_some(owner);
            let open = Open {
                owner,
                published,
                qos,
                dealt,
            };
            match owner {
                Some(owner) => {
                    if let Some(member) = group.members.get_mut(&owner) {
                        own(member, position, &open, derived);
                    }
                }
                None => {
                    group.returned.insert(position);
                    group.note_returned(derived);
                }
            }
            group.open.insert(position, open);
        }
        _ => return Err(DecodeError::new("row of a share group", "unknown")),
    }
    Ok(())
}

fn own(member: &mut ShareMember, position: Position, open: &Open, derived: &mut Derived) {
    member.has.insert(position);
    if let Some(at) = member.at {
        derived.put(at, open.dealt, position, member.id);
    }
}

fn read_key(key: &mut Bytes) -> Result<(u8, ShareGroupId), DecodeError> {
    let kind = read_u8(key, "row of a share group")?;
    Ok((kind, ShareGroupId(read_position(key)?)))
}

/// Until the group's own row comes.
fn nameless() -> TopicFilter {
    TopicFilter::from_static("$share/-/-")
}
