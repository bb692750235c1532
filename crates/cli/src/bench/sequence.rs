//! Whether a subscriber gets what one publisher sent: all of it, once, in order.

use std::collections::BTreeMap;

/// What one subscriber has seen of one publisher.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// One more than the highest number seen.
    next: u64,
    /// Ranges below `next` that did not come: start -> end, exclusive. Bounded by [`GAPS_MAX`].
    gaps: BTreeMap<u64, u64>,
    pub(super) received: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
}

/// A broker that loses every second message must not fill the bench's memory. Beyond this, a late message counts as a
/// duplicate.
const GAPS_MAX: usize = 1024;

impl Sequence {
    /// Takes a message; by how many messages that moves the publisher's window on, those that were left out included.
    pub(super) fn see(&mut self, seq: u64) -> u64 {
        if seq >= self.next {
            let moved = seq + 1 - self.next;
            if moved > 1 && self.gaps.len() < GAPS_MAX {
                self.gaps.insert(self.next, seq);
            }
            self.next = seq + 1;
            self.received += 1;
            return moved;
        }
        if self.fill_gap(seq) {
            self.received += 1;
            self.out_of_order += 1;
        } else {
            self.duplicates += 1;
        }
        0
    }

    /// How many of the first `sent` did not come.
    pub(super) const fn missing(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }

    fn fill_gap(&mut self, seq: u64) -> bool {
        let Some((&start, &end)) = self.gaps.range(..=seq).next_back() else {
            return false;
        };
        if seq >= end {
            return false;
        }
        self.gaps.remove(&start);
        if start < seq {
            self.gaps.insert(start, seq);
        }
        if seq + 1 < end {
            self.gaps.insert(seq + 1, end);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seen: &[u64], sent: u64, expected: [u64; 4]) {
        let mut sequence = Sequence::default();
        let moved: u64 = seen.iter().map(|seq| sequence.see(*seq)).sum();
        assert_eq!(moved, seen.iter().max().map_or(0, |max| max + 1));
        let Sequence {
            received,
            duplicates,
            out_of_order,
            ..
        } = sequence;
        let missing = sequence.missing(sent);
        assert_eq!(
            [received, missing, duplicates, out_of_order],
            expected,
            "{seen:?}"
        );
    }

    #[test]
    fn loss_repetition_and_disorder_are_told_apart() {
        check(&[], 2, [0, 2, 0, 0]);
        check(&[0, 1, 2], 3, [3, 0, 0, 0]);
        check(&[0, 1, 2], 5, [3, 2, 0, 0]);
        check(&[0, 3], 4, [2, 2, 0, 0]);
        check(&[0, 0, 1, 0], 2, [2, 0, 2, 0]);
        check(&[0, 4, 2, 1, 3, 3], 5, [5, 0, 1, 3]);
        check(&[5, 2, 2], 6, [2, 4, 1, 1]);
    }
}
