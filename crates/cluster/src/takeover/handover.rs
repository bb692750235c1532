//! Putting together what is recorded of a session and what the previous node handed over.

use magpie_state::partition::StoredSession;
use magpie_state::{Cursor, SessionProgress};

/// The session as the previous connection left it. Nothing else may have acted on the session since: `progress` is that of the attachment
/// right before the present one.
pub(super) fn merge(session: &mut StoredSession, progress: SessionProgress) {
    for cursor in progress.cursors {
        let at = session
            .cursors
            .binary_search_by_key(&cursor.partition, |known| known.partition);
        match at {
            Ok(at) => merge_cursor(&mut session.cursors[at], cursor),
            Err(at) => session.cursors.insert(at, cursor),
        }
    }
    // It is complete and in the order of sending, which what is recorded cannot be.
    session.inflight = progress.inflight;
}

/// What either knows to be done is done.
fn merge_cursor(known: &mut Cursor, newer: Cursor) {
    known.floor = known.floor.max(newer.floor);
    known.done.extend(newer.done);
    known.done.retain(|position| *position > known.floor);
    known.done.sort_unstable();
    known.done.dedup();
}
