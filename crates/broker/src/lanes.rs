//! Where a durable session is in the log of each partition: what was handed to its connection, and what of that is done.
//!
//! A lane is either **live**, and takes messages from the tail as they come, or it is **read** from the log, because the session was
//! away or its mailbox was full. The tail offers every message in log order, and a read says how far it is complete, so that one number
//! settles the change from one to the other: the highest position that was offered and not taken. A lane is live again once it was read up
//! to there: nothing is lost, doubled or reordered in between.
//!
//! ```text
//!  resume ──► Resuming ──activate──► Behind ──read up to what was missed──► Live
//!                                      ▲                                     │
//!                                      └── the mailbox is full, or the tail ──┘
//!                                          has a gap
//! ```

use std::collections::VecDeque;

use magpie_session::Token;
use magpie_state::{Cursor, PartitionId, Position};

/// The lanes of one session; one per partition that its subscriptions concern.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Ascending by partition.
    lanes: Vec<Lane>,
    /// Lanes are read in turn: the one to look at first.
    turn: usize,
    /// A lane with so many messages pending, since the first of them is not acknowledged, gets nothing more until it is: what is done behind
    /// that one is remembered message by message.
    ahead_max: usize,
}

#[derive(Debug)]
struct Lane {
    partition: PartitionId,
    /// Everything up to here was handed over, or does not concern the session.
    handed: Position,
    source: Source,
    /// What is above the floor and not known to be done for good, ascending; `true` is done, out of order.
    pending: VecDeque<(Position, bool)>,
}

/// Where a lane's messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The tail.
    Live,
    /// The log. `missed`: the highest position that the tail offered and that was not taken.
    Behind { missed: Position },
    /// The log, since not every subscription of a session that goes on is known to the tail. `missed`: the same, so far. `is_read`: the log
    /// was read to its end, as it was then; what is behind that is read when all subscriptions are known.
    Resuming { missed: Position, is_read: bool },
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

impl Lanes {
    /// Of a new session.
    pub(crate) const fn new(ahead_max: usize) -> Self {
        Self {
            lanes: Vec::new(),
            turn: 0,
            ahead_max,
        }
    }

    /// The lanes of a session that goes on. They are read from their floors on, and not live before [`activate`](Self::activate) told
    /// from where on the tail offers everything. `since`: where the subscriptions begin, for partitions that no cursor tells of.
    /// `inflight` are the positions of what was sent and not acknowledged.
    pub(crate) fn resume(
        cursors: &[Cursor],
        since: &[(PartitionId, Position)],
        mut inflight: Vec<(PartitionId, Position)>,
        ahead_max: usize,
    ) -> Self {
        let mut lanes = Self::new(ahead_max);
        for cursor in cursors {
            let lane = lanes.lane_or_insert(cursor.partition, || {
                Lane::unread(cursor.partition, cursor.floor)
            });
            lane.pending = cursor.done.iter().map(|done| (*done, true)).collect();
        }
        for (partition, floor) in since {
            lanes.lane_or_insert(*partition, || Lane::unread(*partition, *floor));
        }
        // Where no subscription is left, the lane begins before the first of them.
        inflight.sort_unstable();
        for (partition, position) in inflight {
            let before = Position(position.0.saturating_sub(1));
            let lane = lanes.lane_or_insert(partition, || Lane::unread(partition, before));
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
            source: Source::Live,
            pending: VecDeque::new(),
        });
    }

    /// All subscriptions of a session that goes on are inserted. The tail offers everything above `after`: the lanes are live once they are
    /// read up to there. A lane that none of the subscriptions concerns gets nothing more.
    pub(crate) fn activate(&mut self, after: &[(PartitionId, Position)]) {
        for lane in &mut self.lanes {
            if let Source::Resuming { missed, .. } = lane.source {
                let after = after.iter().find(|(of, _)| *of == lane.partition);
                let after = after.map_or(Position::START, |(_, after)| *after);
                // The tail may have offered more since the first of them was inserted.
                let missed = missed.max(after);
                lane.source = Source::Behind { missed };
                lane.settle();
            }
        }
    }

    /// The tail offers a message of QoS 1 or 2. `has_room`: whether the mailbox can take it.
    pub(crate) fn offer(
        &mut self,
        partition: PartitionId,
        position: Position,
        has_room: bool,
    ) -> Offered {
        let ahead_max = self.ahead_max;
        let Some(lane) = self.lane_mut(partition) else {
            // The subscription has gone again.
            return Offered::Known;
        };
        if position <= lane.handed {
            return Offered::Known;
        }
        let is_barred = lane.is_barred(ahead_max);
        match &mut lane.source {
            Source::Behind { missed } | Source::Resuming { missed, .. } => {
                *missed = position.max(*missed);
                Offered::Deferred
            }
            Source::Live if has_room && !is_barred => {
                lane.handed = position;
                if lane.hold(position) {
                    Offered::Taken
                } else {
                    Offered::Known
                }
            }
            Source::Live => {
                // What comes before it in the log was offered before it.
                lane.handed = Position(position.0 - 1);
                lane.source = Source::Behind { missed: position };
                Offered::Deferred
            }
        }
    }

    /// The tail cannot offer what is between `after`, up to where it has offered everything, and `upto`: it is read from the log.
    pub(crate) fn miss(&mut self, partition: PartitionId, after: Position, upto: Position) {
        if let Some(lane) = self.lane_mut(partition)
            && lane.handed < upto
        {
            match &mut lane.source {
                Source::Live => {
                    lane.handed = lane.handed.max(after);
                    lane.source = Source::Behind { missed: upto };
                }
                Source::Behind { missed } | Source::Resuming { missed, .. } => {
                    *missed = upto.max(*missed);
                }
            }
        }
    }

    /// A lane that must be read, each in turn, and the position to read from.
    pub(crate) fn next_to_read(&mut self) -> Option<(PartitionId, Position)> {
        let turn = self.turn.min(self.lanes.len());
        let mut in_turn = (turn..self.lanes.len()).chain(0..turn);
        let at = in_turn.find(|at| self.lanes[*at].must_read(self.ahead_max))?;
        self.turn = at + 1;
        Some((self.lanes[at].partition, self.lanes[at].handed))
    }

    /// Whether some lane must be read.
    pub(crate) fn must_read(&self) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.any(|lane| lane.must_read(self.ahead_max))
    }

    /// Whether nothing up to `positions` will be read any more. `passed`: positions up to which the tails have offered everything.
    pub(crate) fn are_past(
        &self,
        positions: &[(PartitionId, Position)],
        passed: impl Fn(PartitionId) -> Position,
    ) -> bool {
        positions.iter().all(|(partition, position)| {
            let mut lanes = self.lanes.iter();
            let lane = lanes.find(|lane| lane.partition == *partition);
            lane.is_none_or(|lane| {
                // One that falls behind is read from the message on that was too many.
                let is_offered = lane.source == Source::Live && passed(*partition) >= *position;
                is_offered || lane.handed >= *position
            })
        })
    }

    /// A read found a message. False if it was handed over before, or is done.
    pub(crate) fn take_read(&mut self, partition: PartitionId, position: Position) -> bool {
        let Some(lane) = self.lane_mut(partition) else {
            return false;
        };
        if position <= lane.handed || lane.source == Source::Live {
            return false;
        }
        lane.handed = position;
        lane.hold(position)
    }

    /// A read is complete up to `upto`: the lane is live, if the tail offered nothing above. `is_end`: it found nothing more. A lane that
    /// became live meanwhile has taken nothing of the read, and gets all of it from the tail.
    pub(crate) fn read_upto(&mut self, partition: PartitionId, upto: Position, is_end: bool) {
        if let Some(lane) = self.lane_mut(partition)
            && lane.source != Source::Live
        {
            lane.handed = lane.handed.max(upto);
            lane.trim();
            if let Source::Resuming { is_read, .. } = &mut lane.source {
                *is_read = is_end;
            }
            lane.settle();
        }
    }

    /// A message is done: acknowledged, expired, or not wanted after all.
    ///
    /// True if its lane was so far ahead of the first open message that it got nothing more, and may be read again.
    pub(crate) fn finish(&mut self, partition: PartitionId, position: Position) -> bool {
        let ahead_max = self.ahead_max;
        self.lane_mut(partition).is_some_and(|lane| {
            let was_ahead = lane.is_barred(ahead_max);
            if let Ok(at) = lane.pending.binary_search_by_key(&position, |(it, _)| *it) {
                lane.pending[at].1 = true;
            }
            lane.trim();
            was_ahead && lane.must_read(ahead_max)
        })
    }

    /// [`finish`](Self::finish) for all of these, which are removed; whether it is true for one.
    pub(crate) fn finish_all(&mut self, finished: &mut Vec<Token>) -> bool {
        let mut may_read = false;
        for Token {
            partition,
            position,
        } in finished.drain(..)
        {
            may_read |= self.finish(PartitionId(partition), Position(position));
        }
        may_read
    }

    /// Whether everything up to `passed` (by partition; what all tails have offered) is done, and no lane is being read.
    pub(crate) fn are_clear_of(&self, passed: impl Fn(PartitionId) -> Position) -> bool {
        self.lanes.iter().all(|lane| {
            let first = lane.pending.front();
            lane.source == Source::Live
                && first.is_none_or(|(first, _)| *first > passed(lane.partition))
        })
    }

    /// How far the session is. `passed`: positions up to which the tails have offered everything, taken before.
    pub(crate) fn cursors(&self, passed: impl Fn(PartitionId) -> Position) -> Vec<Cursor> {
        let cursor = |lane: &Lane| {
            let first_open = lane.pending.iter().find(|(_, is_done)| !is_done);
            let floor = match first_open {
                Some((first, _)) => Position(first.0 - 1),
                None if lane.source == Source::Live => lane.handed.max(passed(lane.partition)),
                None => lane.handed,
            };
            // A lane that is being read has done nothing between what was handed over and what is pending from before.
            let floor = match lane.source {
                Source::Live => floor,
                Source::Behind { .. } | Source::Resuming { .. } => floor.min(lane.handed),
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
    fn unread(partition: PartitionId, floor: Position) -> Self {
        Self {
            partition,
            handed: floor,
            source: Source::Resuming {
                missed: Position::START,
                is_read: false,
            },
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

    /// Whether so much is held behind a message that the client has and keeps open that it gets no more. What is done and not read again yet,
    /// as after a reconnect, bars nothing: it goes when it is read.
    fn is_barred(&self, ahead_max: usize) -> bool {
        let first = self.pending.front();
        let holds_open = first.is_some_and(|(at, is_done)| !is_done && *at <= self.handed);
        holds_open && self.pending.len() >= ahead_max
    }

    fn must_read(&self, ahead_max: usize) -> bool {
        if self.is_barred(ahead_max) {
            return false;
        }
        match self.source {
            Source::Live => false,
            Source::Behind { .. } => true,
            Source::Resuming { is_read, .. } => !is_read,
        }
    }

    /// Live, if everything that was offered has been read.
    fn settle(&mut self) {
        if let Source::Behind { missed } = self.source
            && missed <= self.handed
        {
            self.source = Source::Live;
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
impl Lanes {
    fn pending_count(&self) -> usize {
        self.lanes.iter().map(|lane| lane.pending.len()).sum()
    }
}

#[cfg(test)]
mod tests;
