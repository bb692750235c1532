//! Where a durable session is in the log of each partition: what was handed to its connection, and what of that is done.
//!
//! A lane is either **live**, and takes messages from the tail as they come, or it is **read** from the log, because the session was
//! away or its mailbox was full. The tail offers every message in log order, and a read says how far it is complete, so that one number
//! settles the change from one to the other: the highest position that was offered and not taken. A lane is live again once it was read up
//! to there: nothing is lost, doubled or reordered in between.

use std::collections::VecDeque;

use magpie_session::Token;
use magpie_state::{Cursor, PartitionId, Position};

/// The lanes of one session; one per partition that its subscriptions concern.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    /// Ascending by partition.
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    partition: PartitionId,
    /// Everything up to here was handed over, or does not concern the session.
    handed: Position,
    /// `None`: live. Else the highest position that was offered and not taken meanwhile.
    missed: Option<Position>,
    /// What is above the floor and not known to be done for good, ascending; `true` is done, out of order.
    pending: VecDeque<(Position, bool)>,
}

/// What became of a message that the tail offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// To be queued; it counts as handed over from here on.
    Taken,
    /// It was handed over before, by a read.
    Known,
    /// It will be read from the log.
    Deferred,
}

/// Before anything of the tail is taken, a resumed lane must be read.
const NOT_YET: Position = Position(u64::MAX);

impl Lanes {
    /// The lanes of a session that goes on. They are read from their floors on, and not live before [`activate`](Self::activate) told
    /// from where on the tail offers everything. `inflight` are the positions of what was sent and not acknowledged.
    pub(crate) fn resume(
        cursors: &[Cursor],
        inflight: impl Iterator<Item = (PartitionId, Position)>,
    ) -> Self {
        let mut lanes = Self::default();
        for cursor in cursors {
            let lane = lanes.lane_or_insert(cursor.partition, || Lane::unread(cursor));
            lane.pending = cursor.done.iter().map(|done| (*done, true)).collect();
        }
        for (partition, position) in inflight {
            let lane = lanes.lane_or_insert(partition, || {
                Lane::unread(&Cursor {
                    partition,
                    floor: Position(position.0.saturating_sub(1)),
                    done: Vec::new(),
                })
            });
            if position > lane.handed {
                lane.hold(position);
            }
        }
        lanes
    }

    /// A new subscription that concerns `partition` was inserted, and gets what is above `after`. A lane that is new is live.
    pub(crate) fn insert(&mut self, partition: PartitionId, after: Position) {
        self.lane_or_insert(partition, || Lane {
            partition,
            handed: after,
            missed: None,
            pending: VecDeque::new(),
        });
    }

    /// All subscriptions of a session that goes on are inserted. The tail offers everything above `after`: the lanes are live once they are
    /// read up to there.
    pub(crate) fn activate(&mut self, after: &[(PartitionId, Position)]) {
        for (partition, after) in after {
            if let Some(lane) = self.lane_mut(*partition)
                && lane.missed == Some(NOT_YET)
            {
                lane.missed = Some(*after);
                lane.settle();
            }
        }
    }

    /// A lane for a partition that a resumed subscription concerns and no cursor tells of: nothing of it is done.
    pub(crate) fn insert_unread(&mut self, partition: PartitionId, floor: Position) {
        self.lane_or_insert(partition, || {
            Lane::unread(&Cursor {
                partition,
                floor,
                done: Vec::new(),
            })
        });
    }

    /// The tail offers a message of QoS 1 or 2. `has_room`: whether the mailbox can take it.
    pub(crate) fn offer(
        &mut self,
        partition: PartitionId,
        position: Position,
        has_room: bool,
    ) -> Offered {
        let Some(lane) = self.lane_mut(partition) else {
            // The subscription has gone again.
            return Offered::Known;
        };
        if position <= lane.handed {
            return Offered::Known;
        }
        match &mut lane.missed {
            Some(missed) => {
                // `NOT_YET` stays: not every subscription is inserted.
                *missed = position.max(*missed);
                Offered::Deferred
            }
            None if has_room => {
                lane.handed = position;
                if lane.hold(position) {
                    Offered::Taken
                } else {
                    Offered::Known
                }
            }
            None => {
                lane.missed = Some(position);
                Offered::Deferred
            }
        }
    }

    /// A lane that must be read, and the position to read from.
    pub(crate) fn to_read(&self) -> Option<(PartitionId, Position)> {
        let lane = self.lanes.iter().find(|lane| lane.missed.is_some())?;
        Some((lane.partition, lane.handed))
    }

    /// Whether some lane must be read.
    pub(crate) fn must_read(&self) -> bool {
        self.lanes.iter().any(|lane| lane.missed.is_some())
    }

    /// A read found a message. False if it was handed over before, or is done.
    pub(crate) fn take_read(&mut self, partition: PartitionId, position: Position) -> bool {
        let Some(lane) = self.lane_mut(partition) else {
            return false;
        };
        if position <= lane.handed || lane.missed.is_none() {
            return false;
        }
        lane.handed = position;
        lane.hold(position)
    }

    /// A read is complete up to `upto`: the lane is live, if the tail offered nothing above.
    pub(crate) fn read_upto(&mut self, partition: PartitionId, upto: Position) {
        if let Some(lane) = self.lane_mut(partition) {
            lane.handed = lane.handed.max(upto);
            lane.settle();
        }
    }

    /// A message is done: acknowledged, expired, or not wanted after all.
    pub(crate) fn finish(&mut self, partition: PartitionId, position: Position) {
        if let Some(lane) = self.lane_mut(partition) {
            if let Ok(at) = lane.pending.binary_search_by_key(&position, |(it, _)| *it) {
                lane.pending[at].1 = true;
            }
            lane.trim();
        }
    }

    /// [`finish`](Self::finish) for all of these, which are removed.
    pub(crate) fn finish_all(&mut self, finished: &mut Vec<Token>) {
        for Token {
            partition,
            position,
        } in finished.drain(..)
        {
            self.finish(PartitionId(partition), Position(position));
        }
    }

    /// Whether everything up to `passed` (by partition; what all tails have offered) is done, and no lane is being read.
    pub(crate) fn are_clear_of(&self, passed: impl Fn(PartitionId) -> Position) -> bool {
        self.lanes.iter().all(|lane| {
            let first = lane.pending.front();
            lane.missed.is_none() && first.is_none_or(|(first, _)| *first > passed(lane.partition))
        })
    }

    /// How far the session is. `passed`: positions up to which the tails have offered everything, taken before.
    pub(crate) fn cursors(&self, passed: impl Fn(PartitionId) -> Position) -> Vec<Cursor> {
        let cursor = |lane: &Lane| {
            let first_open = lane.pending.iter().find(|(_, is_done)| !is_done);
            let floor = match first_open {
                Some((first, _)) => Position(first.0 - 1),
                None if lane.missed.is_none() => lane.handed.max(passed(lane.partition)),
                None => lane.handed,
            };
            // A lane that is being read has done nothing between what was handed over and what is pending from before.
            let floor = match lane.missed {
                Some(_) => floor.min(lane.handed),
                None => floor,
            };
            let done = lane
                .pending
                .iter()
                .filter(|(it, is_done)| *is_done && *it > floor);
            Cursor {
                partition: lane.partition,
                floor,
                done: done.map(|(position, _)| *position).collect(),
            }
        };
        self.lanes.iter().map(cursor).collect()
    }

    /// Gives memory back if nothing is pending.
    pub(crate) fn shrink(&mut self) {
        for lane in &mut self.lanes {
            lane.pending.shrink_to(0);
        }
    }

    fn lane_mut(&mut self, partition: PartitionId) -> Option<&mut Lane> {
        let at = self
            .lanes
            .binary_search_by_key(&partition, |lane| lane.partition);
        at.ok().map(|at| &mut self.lanes[at])
    }

    fn lane_or_insert(&mut self, partition: PartitionId, new: impl FnOnce() -> Lane) -> &mut Lane {
        let at = self
            .lanes
            .binary_search_by_key(&partition, |lane| lane.partition);
        let at = at.unwrap_or_else(|at| {
            self.lanes.insert(at, new());
            at
        });
        &mut self.lanes[at]
    }
}

impl Lane {
    fn unread(cursor: &Cursor) -> Self {
        Self {
            partition: cursor.partition,
            handed: cursor.floor,
            missed: Some(NOT_YET),
            pending: VecDeque::new(),
        }
    }

    /// Notes a message as pending; false if it is known.
    fn hold(&mut self, position: Position) -> bool {
        if self.pending.back().is_none_or(|(last, _)| *last < position) {
            self.pending.push_back((position, false));
            return true;
        }
        match self.pending.binary_search_by_key(&position, |(it, _)| *it) {
            Ok(_) => false,
            Err(at) => {
                self.pending.insert(at, (position, false));
                true
            }
        }
    }

    /// Live, if everything that was offered has been read.
    fn settle(&mut self) {
        if self.missed.is_some_and(|missed| missed <= self.handed) {
            self.missed = None;
        }
    }

    /// Forgets what is done at the front, as far as everything before it was handed over.
    fn trim(&mut self) {
        while let Some((position, true)) = self.pending.front()
            && *position <= self.handed
        {
            self.pending.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
