//! Cohorts: the Sessions attached to one node that are equally far, whose progress is one row.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::super::{Changed, table};
use crate::record::{put_places, read_places};
use crate::wire::{put_stream, read_stream};
use crate::{DecodeError, PartitionId, Position, StreamId};

#[derive(Debug, Default)]
pub(super) struct Cohorts {
    by_stream: BTreeMap<StreamId, Cohort>,
}

#[derive(Debug, Default)]
struct Cohort {
    /// By partition, ascending: all members have everything up to here.
    floors: Vec<(PartitionId, Position)>,
    /// Sessions attached to the stream's node, members or not. Follows from the Sessions.
    attached: usize,
}

impl Cohorts {
    pub(super) fn floors(&self, stream: StreamId) -> &[(PartitionId, Position)] {
        self.by_stream
            .get(&stream)
            .map_or(&[], |cohort| &cohort.floors)
    }

    pub(super) fn floor(&self, stream: StreamId, partition: PartitionId) -> Position {
        let floors = self.floors(stream);
        match floors.binary_search_by_key(&partition, |(of, _)| *of) {
            Ok(at) => floors[at].1,
            Err(_) => Position::START,
        }
    }

    pub(super) fn raise(
        &mut self,
        stream: StreamId,
        floors: &[(PartitionId, Position)],
        changed: &mut Changed,
    ) {
        if floors.is_empty() {
            return;
        }
        changed.insert(key(stream));
        let known = &mut self.by_stream.entry(stream).or_default().floors;
        for (partition, floor) in floors {
            match known.binary_search_by_key(partition, |(of, _)| *of) {
                Ok(at) => known[at].1 = known[at].1.max(*floor),
                Err(at) => known.insert(at, (*partition, *floor)),
            }
        }
    }

    pub(super) fn count_in(&mut self, stream: StreamId) {
        self.by_stream.entry(stream).or_default().attached += 1;
    }

    pub(super) fn count_out(&mut self, stream: StreamId) {
        if let Some(cohort) = self.by_stream.get_mut(&stream) {
            cohort.attached -= 1;
            if cohort.attached == 0 && cohort.floors.is_empty() {
                self.by_stream.remove(&stream);
            }
        }
    }

    /// Lives whose end matters here.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.by_stream.keys().copied()
    }

    pub(super) fn attached(&self) -> usize {
        self.by_stream.values().map(|cohort| cohort.attached).sum()
    }

    /// Forgets a life whose Sessions are all detached.
    pub(super) fn end(&mut self, stream: StreamId, changed: &mut Changed) {
        if self.by_stream.remove(&stream).is_some() {
            changed.insert(key(stream));
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let with_row = self
            .by_stream
            .iter()
            .filter(|(_, cohort)| !cohort.floors.is_empty());
        with_row.map(|(stream, _)| key(*stream))
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let stream = read_stream(&mut Bytes::copy_from_slice(key), "cohort").ok()?;
        let floors = self.floors(stream);
        let mut out = Vec::new();
        put_places(&mut out, floors);
        (!floors.is_empty()).then_some(out)
    }

    pub(super) fn load(&mut self, mut key: Bytes, mut value: Bytes) -> Result<(), DecodeError> {
        let stream = read_stream(&mut key, "cohort")?;
        self.by_stream.entry(stream).or_default().floors = read_places(&mut value)?;
        Ok(())
    }
}

fn key(stream: StreamId) -> Vec<u8> {
    let mut key = Vec::with_capacity(25);
    key.put_u8(table::COHORT);
    put_stream(&mut key, stream);
    key
}
