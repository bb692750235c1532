//! Members of the share groups whose filter can match a topic of this partition.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use magpie_codec::TopicFilter;

use super::{Changed, table};
use crate::wire::{put_stream, read_stream, read_u64};
use crate::{DecodeError, StreamId};

/// A member of a share group, cluster-wide: a connection of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareMemberId {
    /// The node, in which life.
    pub stream: StreamId,
    /// Number of the connection there.
    pub member: u64,
}

/// The share groups of a partition; members in order of their ids, so that every replica lists them alike.
#[derive(Debug, Default)]
pub(super) struct ShareGroups {
    by_filter: BTreeMap<TopicFilter, Vec<ShareMemberId>>,
    /// Grows with every change, so that those who derive something notice. Not part of the agreed state.
    generation: u64,
}

impl ShareGroups {
    pub(super) fn join(
        &mut self,
        filter: &TopicFilter,
        member: ShareMemberId,
        changed: &mut Changed,
    ) {
        changed.insert(key(filter));
        self.generation += 1;
        let members = self.by_filter.entry(filter.compact()).or_default();
        if let Err(at) = members.binary_search(&member) {
            members.insert(at, member);
        }
    }

    pub(super) fn leave(
        &mut self,
        filter: &TopicFilter,
        member: ShareMemberId,
        changed: &mut Changed,
    ) {
        self.generation += 1;
        if let Some(members) = self.by_filter.get_mut(filter) {
            members.retain(|known| *known != member);
            if members.is_empty() {
                self.by_filter.remove(filter);
            }
            changed.insert(key(filter));
        }
    }

    pub(super) fn end_stream(&mut self, stream: StreamId, changed: &mut Changed) {
        self.generation += 1;
        self.by_filter.retain(|filter, members| {
            let before = members.len();
            members.retain(|member| {
                member.stream.node != stream.node
                    || member.stream.incarnation.counter > stream.incarnation.counter
            });
            if members.len() != before {
                changed.insert(key(filter));
            }
            !members.is_empty()
        });
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &[ShareMemberId])> {
        self.by_filter
            .iter()
            .map(|(filter, members)| (filter, members.as_slice()))
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.by_filter
            .values()
            .flatten()
            .map(|member| member.stream)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_filter.keys().map(key)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let members = self.by_filter.get(std::str::from_utf8(key).ok()?)?;
        let mut out = Vec::new();
        for member in members {
            put_stream(&mut out, member.stream);
            out.put_u64_le(member.member);
        }
        Some(out)
    }

    pub(super) fn load(&mut self, key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let filter = key
            .try_into()
            .map_err(|_| DecodeError::new("share group", "not a topic filter"))?;
        let mut members = Vec::new();
        while !value.is_empty() {
            members.push(ShareMemberId {
                stream: read_stream(&mut value, "share member")?,
                member: read_u64(&mut value, "share member")?,
            });
        }
        self.generation += 1;
        self.by_filter.insert(filter, members);
        Ok(())
    }
}

fn key(filter: &TopicFilter) -> Vec<u8> {
    let mut key = vec![table::SHARE_GROUP];
    key.put_slice(filter.as_str().as_bytes());
    key
}
