//! Weighing what waits for a session, a piece at a time: nobody else waits for the index meanwhile.

use std::io;

use magpie_state::Position;

use super::topic_index::{WaitingFor, Wanted};
use super::{PLACES, PartitionIndex};

/// Ranges that messages are counted in at once while the place of a cut is looked for.
const RANGES: u64 = 256;

/// How heavy messages are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) messages: u64,
    /// Of their records.
    pub(crate) bytes: u64,
}

/// Where to cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Messages up to here.
    pub(crate) upto: Position,
    /// Those.
    pub(crate) weight: Weight,
}

impl PartitionIndex {
    /// An upper bound of the bytes that wait for a session, which is cheap.
    pub(crate) async fn weigh_topics(&self, of: &WaitingFor) -> io::Result<u64> {
        self.follow(self.group.applied()).await?;
        Ok(self.lock().index.weigh_topics(of))
    }

    /// What waits for a session.
    pub(crate) async fn weigh(&self, of: &WaitingFor) -> io::Result<Weight> {
        let mut weight = Weight::default();
        let all = (of.floor, Position(u64::MAX));
        self.show(of, all, |_, bytes| {
            weight.messages += 1;
            weight.bytes += u64::from(bytes);
        })
        .await?;
        Ok(weight)
    }

    /// The oldest messages of those that wait for a session, whole log entries that have `bytes` bytes together, or somewhat more.
    pub(crate) async fn cut(&self, of: &WaitingFor, bytes: u64) -> io::Result<Cut> {
        let mut cut = Cut::default();
        let mut low = of.floor.index();
        let mut high = self.group.applied();
        // Each time the range that has the place is divided anew.
        while low <= high && cut.weight.bytes < bytes {
            let width = (high - low) / RANGES + 1;
            let mut ranges = vec![Weight::default(); RANGES as usize];
            let within = (Position::at(low, 0), Position::end_of(high));
            let from = low;
            self.show(of, within, |position, bytes| {
                let at = position.index().saturating_sub(from) / width;
                if let Some(range) = ranges.get_mut(at as usize) {
                    range.messages += 1;
                    range.bytes += u64::from(bytes);
                }
            })
            .await?;
            let mut found = None;
            for (number, range) in (0u64..).zip(ranges) {
                let end = (from + (number + 1) * width - 1).min(high);
                if cut.weight.bytes + range.bytes >= bytes && width > 1 {
                    found = Some((from + number * width, end));
                    break;
                }
                cut.weight.bytes += range.bytes;
                cut.weight.messages += range.messages;
                cut.upto = Position::end_of(end);
                if cut.weight.bytes >= bytes {
                    return Ok(cut);
                }
            }
            match found {
                Some(range) => (low, high) = range,
                None => break,
            }
        }
        Ok(cut)
    }

    async fn show(
        &self,
        of: &WaitingFor,
        (after, upto): (Position, Position),
        mut show: impl FnMut(Position, u32),
    ) -> io::Result<()> {
        self.follow(self.group.applied()).await?;
        let mut wanted = Wanted::default();
        // Positions are above: the first one of an entry counts, too.
        let mut from = Some(Position(after.0.saturating_sub(1)));
        while let Some(after) = from {
            from = self
                .lock()
                .index
                .show_waiting(of, &mut wanted, after, upto, PLACES, &mut show);
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
