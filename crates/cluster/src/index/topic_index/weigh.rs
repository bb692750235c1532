//! How much waits for a session, and how far it has to be cut.

use magpie_codec::TopicFilter;
use magpie_state::Position;

use super::{Age, TopicIndex};

/// Which messages of a partition wait for a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WaitingFor {
    /// Those that a filter matches above its position.
    pub(crate) filters: Vec<(TopicFilter, Position)>,
    /// But for those up to here ...
    pub(crate) floor: Position,
    /// ... and these, ascending.
    pub(crate) done: Vec<Position>,
}

/// Topics with the position above which their messages wait, as far as numbers of topics have not changed since.
#[derive(Debug, Default)]
pub(in super::super) struct Wanted {
    generation: Option<u64>,
    since: hashbrown::HashMap<u32, Position, foldhash::fast::FixedState>,
}

impl TopicIndex {
    /// Bytes of all messages of the topics that the session has subscribed to: no less than what waits for it.
    pub(in super::super) fn weigh_topics(&self, of: &WaitingFor) -> u64 {
        let filters: Vec<_> = of
            .filters
            .iter()
            .map(|(filter, _)| filter.clone())
            .collect();
        match self.topics.matching(&filters, super::TOPICS_LOOKED_AT) {
            None => self.kept_bytes + self.young_bytes,
            Some(topics) => topics
                .into_iter()
                .map(|topic| {
                    let ages = [Age::Kept, Age::Young].into_iter();
                    ages.map(|age| self.topics.chain(topic, age).bytes)
                        .sum::<u64>()
                })
                .sum(),
        }
    }

    /// Shows the messages above `after` that wait for the session, up to `upto`, in order; goes past `places_max` messages at most. Returns
    /// where to go on; `None`: there are no more.
    pub(in super::super) fn show_waiting(
        &self,
        of: &WaitingFor,
        wanted: &mut Wanted,
        after: Position,
        upto: Position,
        places_max: u32,
        mut show: impl FnMut(Position, u32),
    ) -> Option<Position> {
        wanted.follow(self, of);
        let mut places = places_max.max(1);
        for age in [Age::Kept, Age::Young] {
            let columns = self.columns(age);
            let mut from = columns.above(after.max(of.floor));
            let end = columns.above(upto);
            let left = end.wrapping_sub(from);
            if left == 0 || left > columns.len() {
                continue;
            }
            let to = from.wrapping_add(left.min(places));
            let is_wanted = |topic| wanted.since.contains_key(&topic);
            while let Some(number) = columns.find(from, to, is_wanted) {
                if let Some(message) = columns.message(number)
                    && wanted
                        .since
                        .get(&message.topic)
                        .is_some_and(|since| *since < message.position)
                    && of.done.binary_search(&message.position).is_err()
                {
                    show(message.position, message.bytes);
                }
                from = number.wrapping_add(1);
            }
            places -= left.min(places);
            if to != end {
                return Some(columns.position(to.wrapping_sub(1)));
            }
            if places == 0 {
                return Some(columns.position(to.wrapping_sub(1)));
            }
        }
        None
    }
}

impl Wanted {
    fn follow(&mut self, index: &TopicIndex, of: &WaitingFor) {
        let generation = index.topics.generation();
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        self.since.clear();
        for (filter, since) in &of.filters {
            let topics = index
                .topics
                .matching(std::slice::from_ref(filter), usize::MAX);
            for topic in topics.unwrap_or_default() {
                let known = self.since.entry(topic).or_insert(*since);
                *known = (*since).min(*known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use magpie_codec::TopicName;

    use super::super::Found;
    use super::*;

    #[test]
    fn what_waits_is_shown_once_in_pieces_of_any_size() {
        let mut index = TopicIndex::new(0);
        let topics = ["a", "b", "c/1", "c/2"].map(|it| TopicName::try_from(it).unwrap());
        for number in 1..=400u64 {
            let found = Found {
                position: Position::at(number / 4 + 1, (number % 4) as u32),
                offset: 0,
                bytes: number as u32,
            };
            index.add(&topics[(number % 4) as usize], found);
        }
        let kept: Vec<_> = (1..40).map(|index| Position::at(index, 2)).collect();
        index.trim(40, &kept);
        index.forget(&kept[..5]);
        let of = WaitingFor {
            filters: vec![
                ("c/#".try_into().unwrap(), Position::at(50, 0)),
                ("c/1".try_into().unwrap(), Position::START),
                ("b".try_into().unwrap(), Position::at(60, 0)),
            ],
            floor: Position::at(9, 0),
            done: vec![Position::at(70, 2)],
        };
        let expected: Vec<_> = (1..=400u64)
            .map(|number| (Position::at(number / 4 + 1, (number % 4) as u32), number))
            .filter(|(position, number)| {
                let since = [None, Some(60), Some(0), Some(50)][(number % 4) as usize];
                let is_there =
                    position.index() > 40 || (position.ordinal() == 2 && position.index() < 40);
                is_there
                    && position.index() >= 9
                    && since.is_some_and(|since| *position > Position::at(since, 0))
                    && *position != Position::at(70, 2)
            })
            .collect();
        for places in [1, 7, 1000] {
            let (mut shown, mut from) = (Vec::new(), Some(Position::START));
            let mut wanted = Wanted::default();
            while let Some(after) = from {
                from = index.show_waiting(
                    &of,
                    &mut wanted,
                    after,
                    Position(u64::MAX),
                    places,
                    |position, bytes| {
                        shown.push((position, u64::from(bytes)));
                    },
                );
            }
            assert_eq!(shown, expected);
        }
        let total: u64 = expected.iter().map(|(_, bytes)| bytes).sum();
        assert!(index.weigh_topics(&of) >= total);
        index.lose(Position::end_of(101));
        assert_eq!(index.weigh_topics(&of), 0, "nothing is left");
        assert_eq!((index.kept_bytes, index.young_bytes), (0, 0));
    }
}
