//! Inbound QoS 2: Packet Identifiers whose message is in the log, and which their publisher has not released yet.

use std::collections::HashMap;

use bytes::{BufMut, Bytes};
use magpie_codec::PacketId;

use super::{Changed, table};
use crate::wire::{read_epoch, read_u16};
use crate::{ClientId, DecodeError, Dedup, Epoch};

#[derive(Debug, Default)]
pub(super) struct Received {
    by_client: HashMap<ClientId, Identifiers, foldhash::fast::FixedState>,
}

/// Of the newest incarnation of the client's Session that was seen here; it ended all older ones.
#[derive(Debug)]
struct Identifiers {
    session: Epoch,
    /// Ascending. No more than there are numbers.
    numbers: Vec<u16>,
}

/// What a publish is, by its Packet Identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taking {
    /// A new one.
    New,
    /// One that is in the log already.
    Repeat,
    /// Of a Session that has ended.
    Ended,
}

impl Received {
    pub(super) fn take(
        &mut self,
        client: &ClientId,
        dedup: Dedup,
        changed: &mut Changed,
    ) -> Taking {
        let Dedup { session, packet_id } = dedup;
        let number = packet_id.number();
        let new = || Identifiers {
            session,
            numbers: vec![number],
        };
        match self.by_client.get_mut(client) {
            None => {
                self.by_client.insert(ClientId(client.0.compact()), new());
            }
            Some(known) if known.session < session => *known = new(),
            Some(known) if known.session > session => return Taking::Ended,
            Some(known) => match known.numbers.binary_search(&number) {
                Ok(_) => return Taking::Repeat,
                Err(at) => known.numbers.insert(at, number),
            },
        }
        changed.insert(key(client));
        Taking::New
    }

    /// `packet_id` of a Session's incarnation may be used anew; `None`: that incarnation is over.
    pub(super) fn release(
        &mut self,
        client: &ClientId,
        session: Epoch,
        packet_id: Option<PacketId>,
        changed: &mut Changed,
    ) {
        let Some(known) = self.by_client.get_mut(client) else {
            return;
        };
        match packet_id {
            Some(packet_id) if known.session == session => {
                let Ok(at) = known.numbers.binary_search(&packet_id.number()) else {
                    return;
                };
                known.numbers.remove(at);
            }
            None if known.session <= session => known.numbers.clear(),
            _ => return,
        }
        if known.numbers.is_empty() {
            self.by_client.remove(client);
        }
        changed.insert(key(client));
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.by_client.keys().map(key)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let client = ClientId(std::str::from_utf8(key).ok()?.try_into().ok()?);
        let known = self.by_client.get(&client)?;
        let mut out = Vec::with_capacity(8 + 2 * known.numbers.len());
        out.put_u64_le(known.session.0);
        known
            .numbers
            .iter()
            .for_each(|number| out.put_u16_le(*number));
        Some(out)
    }

    pub(super) fn load(&mut self, key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let client = key
            .try_into()
            .map_err(|_| DecodeError::new("client id", "not an MQTT string"))?;
        let session = read_epoch(&mut value)?;
        let mut numbers = Vec::with_capacity(value.len() / 2);
        while !value.is_empty() {
            numbers.push(read_u16(&mut value, "packet id")?);
        }
        self.by_client
            .insert(ClientId(client), Identifiers { session, numbers });
        Ok(())
    }
}

fn key(client: &ClientId) -> Vec<u8> {
    let mut key = vec![table::RECEIVED];
    key.put_slice(client.0.as_bytes());
    key
}
