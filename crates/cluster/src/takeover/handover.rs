//! Putting together what is recorded of a session and what the previous node handed over.

use magpie_state::partition::StoredSession;
use magpie_state::{Cursor, SessionProgress, Stage};

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
    // What was handed over is in the order of sending, which what is recorded cannot be. What is recorded beyond it was bound in the last
    // moment: it was not sent, but keeps its identifier.
    let recorded = std::mem::replace(&mut session.inflight, progress.inflight);
    let mut released = Vec::new();
    for bound in recorded {
        let is_known = session
            .inflight
            .iter_mut()
            .find(|it| it.delivery() == bound.delivery());
        match is_known {
            Some(known) if bound.stage == Stage::Released && known.stage == Stage::Published => {
                known.stage = Stage::Released;
                released.push(bound.delivery());
            }
            Some(_) => {}
            None => {
                // No cursor tells of what a share group has handed out.
                let is_done = bound.share.is_none()
                    && session.cursors.iter().any(|cursor| {
                        cursor.partition == bound.partition && cursor.is_done(bound.position)
                    });
                let is_reused = session
                    .inflight
                    .iter()
                    .any(|it| it.packet_id == bound.packet_id && it.stage != Stage::Done);
                if !is_done && (!is_reused || bound.stage == Stage::Done) {
                    session.inflight.push(bound);
                }
            }
        }
    }
    // PUBREL goes out in the order of the PUBRECs [MQTT-4.6.0-4]: those that the previous connection did not know to be stored came last.
    session.inflight.sort_by_key(|it| match it.stage {
        Stage::Released if !released.contains(&it.delivery()) => 0,
        Stage::Released => 1,
        Stage::Published => 2,
        Stage::Done => 3,
    });
}

/// What either knows to be done is done.
fn merge_cursor(known: &mut Cursor, newer: Cursor) {
    known.floor = known.floor.max(newer.floor);
    known.done.extend(newer.done);
    known.done.retain(|position| *position > known.floor);
    known.done.sort_unstable();
    known.done.dedup();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::{PacketId, QoS};
    use magpie_state::{Epoch, Inflight, PartitionId, Position};

    use super::*;

    fn inflight(number: u16, index: u64, stage: Stage) -> Inflight {
        Inflight {
            packet_id: PacketId::new(number).unwrap(),
            partition: PartitionId(0),
            position: Position::at(index, 0),
            qos: QoS::ExactlyOnce,
            stage,
            share: None,
        }
    }

    #[test]
    fn what_was_bound_in_the_last_moment_keeps_its_identifier() {
        let mut session = StoredSession {
            inflight: vec![
                inflight(1, 10, Stage::Released),
                inflight(2, 11, Stage::Published),
                inflight(3, 12, Stage::Published),
                inflight(5, 9, Stage::Published),
            ],
            session: Epoch(1),
            attached: None,
            session_expiry_s: 60,
            subscriptions: Vec::new(),
            cursors: Vec::new(),
            lost: 0,
            owner: None,
        };
        let progress = SessionProgress {
            cursors: vec![Cursor {
                partition: PartitionId(0),
                floor: Position::at(9, 0),
                done: vec![Position::at(12, 0)],
            }],
            inflight: vec![
                inflight(4, 13, Stage::Published),
                inflight(1, 10, Stage::Published),
            ],
        };
        merge(&mut session, progress);
        let expected = [
            inflight(1, 10, Stage::Released),
            inflight(4, 13, Stage::Published),
            inflight(2, 11, Stage::Published),
        ];
        assert_eq!(session.inflight, expected);
    }

    /// The second PUBREC is stored, but the connection that asked for it was taken over before it knew.
    #[test]
    fn releases_keep_the_order_of_the_pubrecs() {
        let (first, second) = (
            inflight(1, 10, Stage::Released),
            inflight(2, 11, Stage::Released),
        );
        let mut session = StoredSession {
            inflight: vec![first, second],
            session: Epoch(1),
            attached: None,
            session_expiry_s: 60,
            subscriptions: Vec::new(),
            cursors: Vec::new(),
            lost: 0,
            owner: None,
        };
        let progress = SessionProgress {
            cursors: Vec::new(),
            // What is released stands behind what is not, in the order of the releases.
            inflight: vec![inflight(2, 11, Stage::Published), first],
        };
        merge(&mut session, progress);
        assert_eq!(session.inflight, [first, second]);
    }
}
