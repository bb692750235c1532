//! Messages that outlive the log: rows that hold a record's bytes, which the state knows by their positions only.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};

use super::{Changed, PartitionState, table};
use crate::{DecodeError, Position, RowValue};

/// Which messages are rows here.
///
/// Rows at or below `trimmed` are agreed: every replica has the same. One above came with a snapshot, because this replica's log does not
/// have the message; other replicas have it in their logs. Nothing that is answered depends on those, and the next trim settles them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    rows: BTreeSet<Position>,
    /// Index up to which the log is not needed.
    trimmed: u64,
    /// Messages are still to be copied out of the log.
    wants_copies: bool,
}

impl Kept {
    pub(super) const fn trimmed(&self) -> u64 {
        self.trimmed
    }

    pub(super) const fn wants_copies(&self) -> bool {
        self.wants_copies
    }

    /// What is to be copied has been told.
    pub(super) const fn copied(&mut self) {
        self.wants_copies = false;
    }

    /// The agreed ones.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Position> + '_ {
        self.rows.range(..=Position::end_of(self.trimmed)).copied()
    }

    /// All that are rows here.
    pub(super) fn held(&self) -> impl DoubleEndedIterator<Item = Position> + '_ {
        self.rows.iter().copied()
    }

    pub(super) fn trim(&mut self, upto: u64, keep: &[Position], changed: &mut Changed) {
        if upto <= self.trimmed {
            return;
        }
        let young = |position: Position| position > Position::end_of(self.trimmed);
        // Beyond what was trimmed the log may be gone: what was not kept then cannot be now.
        let keep: BTreeSet<Position> = keep
            .iter()
            .copied()
            .filter(|position| young(*position) && *position <= Position::end_of(upto))
            .collect();
        let surplus: Vec<Position> = self
            .rows
            .range(Position::at(self.trimmed + 1, 0)..=Position::end_of(upto))
            .copied()
            .filter(|position| !keep.contains(position))
            .collect();
        for position in surplus {
            self.rows.remove(&position);
            changed.insert(key(position));
        }
        for position in keep {
            if self.rows.insert(position) {
                self.wants_copies = true;
                changed.insert(key(position));
            }
        }
        self.trimmed = upto;
        changed.insert(trimmed_key());
    }

    /// Everything up to a place goes. A trim, if that is beyond what was trimmed: then the place is the end of an entry.
    pub(super) fn lose(&mut self, upto: Position, changed: &mut Changed) {
        if upto == Position::end_of(upto.index()) {
            self.trim(upto.index(), &[], changed);
        }
        let settled = upto.min(Position::end_of(self.trimmed));
        let above = self.rows.split_off(&Position(settled.0 + 1));
        let gone = std::mem::replace(&mut self.rows, above);
        changed.extend(gone.into_iter().map(key));
    }

    pub(super) fn forget(&mut self, positions: &[Position], changed: &mut Changed) {
        for position in positions {
            // Rows above are this replica's own matter.
            if *position <= Position::end_of(self.trimmed) && self.rows.remove(position) {
                changed.insert(key(*position));
            }
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let trimmed = (self.trimmed > 0).then(trimmed_key);
        self.rows
            .iter()
            .map(|position| key(*position))
            .chain(trimmed)
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<RowValue> {
        let position = Position(u64::from_be_bytes(key.try_into().ok()?));
        self.rows
            .contains(&position)
            .then_some(RowValue::Logged { position })
    }

    pub(super) fn trimmed_value(&self) -> Option<Vec<u8>> {
        Some(self.trimmed.to_le_bytes().to_vec())
    }

    /// Takes note of a row; what is in it stays where it is.
    pub(super) fn load(&mut self, mut key: Bytes) -> Result<(), DecodeError> {
        let position = key
            .try_get_u64()
            .map_err(|_| DecodeError::new("position", "too few bytes"))?;
        self.rows.insert(Position(position));
        Ok(())
    }

    pub(super) fn load_trimmed(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let index = value
            .try_into()
            .map_err(|_| DecodeError::new("trimmed index", "not 8 bytes"))?;
        self.trimmed = u64::from_le_bytes(index);
        Ok(())
    }
}

fn key(position: Position) -> Vec<u8> {
    PartitionState::message_row(position)
}

fn trimmed_key() -> Vec<u8> {
    vec![table::TRIMMED]
}
