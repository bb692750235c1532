//! Arithmetic of cursors.

use crate::{Cursor, Inflight, PartitionId, Position};

/// The most messages that are done out of order, of one Session in one partition. A node hands out no more above a floor than are in
/// flight, which is far less; replicas agree on this.
pub(super) const DONE_MAX: usize = 65_535;

/// Leaves out what no correct node writes, the highest positions: their messages are delivered again. Returns how many.
pub(super) fn cut(cursors: &mut [Cursor]) -> u64 {
    let mut left_out = 0;
    for cursor in cursors {
        left_out += cursor.done.len().saturating_sub(DONE_MAX) as u64;
        cursor.done.truncate(DONE_MAX);
    }
    left_out
}

/// Whether a message is done, by a list that is ordered by partition.
pub(super) fn is_done(cursors: &[Cursor], partition: PartitionId, position: Position) -> bool {
    find(cursors, partition).is_some_and(|cursor| cursor.is_done(position))
}

/// Whether a delivery is done. No cursor tells of what a share group has handed out.
pub(super) fn is_over(cursors: &[Cursor], it: &Inflight) -> bool {
    it.share.is_none() && is_done(cursors, it.partition, it.position)
}

/// The floor in a partition.
pub(super) fn floor(cursors: &[Cursor], partition: PartitionId) -> Position {
    find(cursors, partition).map_or(Position::START, |cursor| cursor.floor)
}

fn find(cursors: &[Cursor], partition: PartitionId) -> Option<&Cursor> {
    let at = cursors.binary_search_by_key(&partition, |cursor| cursor.partition);
    Some(&cursors[at.ok()?])
}

/// Adds what is done according to another list, which need not be ordered.
pub(super) fn merge(cursors: &mut Vec<Cursor>, more: &[Cursor]) {
    for more in more {
        let cursor = raise(cursors, more.partition, more.floor);
        cursor.done.extend(&more.done);
        tidy(cursor);
    }
    cursors.retain(|cursor| cursor.floor > Position::START || !cursor.done.is_empty());
}

/// Adds floors.
pub(super) fn merge_floors(cursors: &mut Vec<Cursor>, floors: &[(PartitionId, Position)]) {
    for (partition, floor) in floors {
        tidy(raise(cursors, *partition, *floor));
    }
}

fn raise(cursors: &mut Vec<Cursor>, partition: PartitionId, floor: Position) -> &mut Cursor {
    let at = match cursors.binary_search_by_key(&partition, |cursor| cursor.partition) {
        Ok(at) => at,
        Err(at) => {
            let new = Cursor {
                partition,
                ..Cursor::default()
            };
            cursors.insert(at, new);
            at
        }
    };
    let cursor = &mut cursors[at];
    cursor.floor = cursor.floor.max(floor);
    cursor
}

fn tidy(cursor: &mut Cursor) {
    cursor.done.retain(|position| *position > cursor.floor);
    cursor.done.sort_unstable();
    cursor.done.dedup();
    cursor.done.shrink_to_fit();
}
