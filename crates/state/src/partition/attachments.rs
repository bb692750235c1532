//! Which connection is a client's newest.

use std::collections::HashMap;

use bytes::{BufMut, Bytes};

use super::answer::Superseded;
use super::{Changed, table};
use crate::wire::{put_stream, read_stream, read_u64};
use crate::{ClientId, DecodeError, Epoch, StreamId};

/// The attached clients of a partition.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_client: HashMap<ClientId, Attachment, foldhash::fast::FixedState>,
}

#[derive(Debug)]
struct Attachment {
    epoch: Epoch,
    holder: StreamId,
}

impl Attachments {
    /// Makes the attachment the client's newest; returns the one that it replaces.
    pub(super) fn attach(
        &mut self,
        client: &ClientId,
        epoch: Epoch,
        holder: StreamId,
        changed: &mut Changed,
    ) -> Option<Superseded> {
        changed.insert(key(client));
        let new = Attachment { epoch, holder };
        let previous = match self.by_client.get_mut(client) {
            Some(known) => Some(std::mem::replace(known, new)),
            None => self.by_client.insert(ClientId(client.0.compact()), new),
        };
        previous.map(|Attachment { epoch, holder }| Superseded { epoch, holder })
    }

    pub(super) fn detach(&mut self, client: &ClientId, epoch: Epoch, changed: &mut Changed) {
        if self
            .by_client
            .get(client)
            .is_some_and(|attachment| attachment.epoch <= epoch)
        {
            self.by_client.remove(client);
            changed.insert(key(client));
        }
    }

    /// Lets go what a node held in a life that is over.
    pub(super) fn end_holder(&mut self, stream: StreamId, changed: &mut Changed) {
        self.by_client.retain(|client, attachment| {
            let held = attachment.holder.node == stream.node
                && attachment.holder.incarnation.counter <= stream.incarnation.counter;
            if held {
                changed.insert(key(client));
            }
            !held
        });
    }

    pub(super) fn newest(&self, client: &ClientId) -> Option<(Epoch, StreamId)> {
        self.by_client
            .get(client)
            .map(|attachment| (attachment.epoch, attachment.holder))
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.by_client.values().map(|attachment| attachment.holder)
    }

    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_client.keys().map(key)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let client = std::str::from_utf8(key).ok()?;
        let client = ClientId(client.try_into().ok()?);
        let attachment = self.by_client.get(&client)?;
        let mut out = Vec::new();
        out.put_u64_le(attachment.epoch.0);
        put_stream(&mut out, attachment.holder);
        Some(out)
    }

    pub(super) fn load(&mut self, key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let client = key
            .try_into()
            .map_err(|_| DecodeError::new("client id", "not an MQTT string"))?;
        let epoch = Epoch(read_u64(&mut value, "epoch")?);
        let attachment = Attachment {
            epoch,
            holder: read_stream(&mut value, "holder")?,
        };
        self.by_client.insert(ClientId(client), attachment);
        Ok(())
    }
}

fn key(client: &ClientId) -> Vec<u8> {
    let mut key = vec![table::ATTACHMENT];
    key.put_slice(client.0.as_bytes());
    key
}
