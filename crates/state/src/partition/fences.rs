//! Fences: which publishes are refused because their client has a newer connection.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::{Changed, table};
use crate::wire::{put_stream, read_stream, read_u64};
use crate::{ClientId, DecodeError, Epoch, StreamId};

/// The fences of a partition. Few: only takeovers from a node that did not answer raise one.
#[derive(Debug, Default)]
pub(super) struct Fences {
    by_client: BTreeMap<ClientId, Vec<Fence>>,
}

#[derive(Debug)]
struct Fence {
    /// Publishes of lower epochs are refused.
    epoch: Epoch,
    /// The life of the node that may still send such ones.
    against: StreamId,
}

impl Fences {
    pub(super) fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    pub(super) fn refuses(&self, client: &ClientId, epoch: Epoch) -> bool {
        self.by_client
            .get(client)
            .is_some_and(|fences| fences.iter().any(|fence| epoch < fence.epoch))
    }

    pub(super) fn raise(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        against: StreamId,
        changed: &mut Changed,
    ) {
        changed.insert(key(client));
        let fences = self
            .by_client
            .entry(ClientId(client.0.compact()))
            .or_default();
        match fences.iter_mut().find(|fence| fence.against == against) {
            Some(fence) => fence.epoch = fence.epoch.max(epoch),
            None => fences.push(Fence { epoch, against }),
        }
    }

    /// `stream` has closed what it held of `client` below `epoch`.
    pub(super) fn lower(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        stream: StreamId,
        changed: &mut Changed,
    ) {
        if let Some(fences) = self.by_client.get_mut(client) {
            fences.retain(|fence| fence.against != stream || fence.epoch > epoch);
            if fences.is_empty() {
                self.by_client.remove(client);
            }
            changed.insert(key(client));
        }
    }

    pub(super) fn end_stream(&mut self, stream: StreamId, changed: &mut Changed) {
        self.by_client.retain(|client, fences| {
            let before = fences.len();
            fences.retain(|fence| {
                fence.against.node != stream.node
                    || fence.against.incarnation.counter > stream.incarnation.counter
            });
            if fences.len() != before {
                changed.insert(key(client));
            }
            !fences.is_empty()
        });
    }

    pub(super) fn awaited(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.by_client.values().flatten().map(|fence| fence.against)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_client.keys().map(key)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let client = std::str::from_utf8(key).ok()?;
        let fences = self.by_client.get(&ClientId(client.try_into().ok()?))?;
        let mut out = Vec::new();
        for fence in fences {
            out.put_u64_le(fence.epoch.0);
            put_stream(&mut out, fence.against);
        }
        Some(out)
    }

    pub(super) fn load(&mut self, key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let client = key
            .try_into()
            .map_err(|_| DecodeError::new("client id", "not an MQTT string"))?;
        let mut fences = Vec::new();
        while !value.is_empty() {
            fences.push(Fence {
                epoch: Epoch(read_u64(&mut value, "epoch")?),
                against: read_stream(&mut value, "stream")?,
            });
        }
        self.by_client.insert(ClientId(client), fences);
        Ok(())
    }
}

fn key(client: &ClientId) -> Vec<u8> {
    let mut key = vec![table::FENCE];
    key.put_slice(client.0.as_bytes());
    key
}
