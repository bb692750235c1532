//! Questions that are answered in any order, and whose answers leave in the order of the questions.

use std::collections::VecDeque;

/// A queue of open questions `Q`, each with a number; an answer waits here until all earlier ones are there.
///
/// The numbers are consecutive (and wrap), so a question is found by subtraction, without a search.
#[derive(Debug)]
pub(crate) struct InOrder<Q, A> {
    entries: VecDeque<(Q, Option<A>)>,
    /// The number of the first entry.
    first: u32,
}

impl<Q, A> Default for InOrder<Q, A> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
        }
    }
}

impl<Q, A> InOrder<Q, A> {
    /// Adds a question, and gives its number.
    pub(crate) fn ask(&mut self, question: Q) -> u32 {
        let number = self.next_number();
        self.entries.push_back((question, None));
        number
    }

    /// Adds a question whose answer is known, but must not overtake the earlier ones.
    pub(crate) fn push_answered(&mut self, question: Q, answer: A) {
        self.entries.push_back((question, Some(answer)));
    }

    /// Notes an answer; gives the question, unless it is unknown or was answered before.
    pub(crate) fn answer(&mut self, number: u32, answer: A) -> Option<&mut Q> {
        let at = number.wrapping_sub(self.first) as usize;
        let (question, slot) = self.entries.get_mut(at)?;
        if slot.is_some() {
            return None;
        }
        *slot = Some(answer);
        Some(question)
    }

    /// The question that `number` names, if it is open.
    pub(crate) fn question(&self, number: u32) -> Option<&Q> {
        let at = number.wrapping_sub(self.first) as usize;
        self.entries
            .get(at)
            .filter(|(_, answer)| answer.is_none())
            .map(|(question, _)| question)
    }

    /// Takes the first question, if its answer is there.
    pub(crate) fn pop(&mut self) -> Option<(Q, A)> {
        self.entries.front()?.1.as_ref()?;
        let (question, answer) = self.entries.pop_front()?;
        self.first = self.first.wrapping_add(1);
        Some((question, answer?))
    }

    /// The first question. If it was answered, [`pop`](Self::pop) took it: this one is open.
    pub(crate) fn front(&self) -> Option<&Q> {
        self.entries.front().map(|(question, _)| question)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn shrink(&mut self) {
        self.entries.shrink_to(0);
    }

    fn next_number(&self) -> u32 {
        // Truncation wraps, as the numbers do.
        self.first.wrapping_add(self.entries.len() as u32)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_the_order_of_the_questions() {
        let mut queue = InOrder::default();
        let [a, b, c] = ["a", "b", "c"].map(|q| queue.ask(q));
        assert!(queue.answer(c, 3).is_some());
        assert!(queue.answer(b, 2).is_some());
        assert_eq!(queue.pop(), None);
        assert!(queue.answer(a, 1).is_some());
        assert_eq!(queue.pop(), Some(("a", 1)));
        assert_eq!(queue.pop(), Some(("b", 2)));
        assert_eq!(queue.pop(), Some(("c", 3)));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_second_or_stale_answer_finds_nothing() {
        let mut queue = InOrder::default();
        let a = queue.ask("a");
        queue.ask("b");
        assert!(queue.answer(a, 1).is_some());
        assert!(queue.answer(a, 2).is_none());
        queue.pop().unwrap();
        assert!(queue.answer(a, 2).is_none());
        assert!(queue.answer(77, 2).is_none());
    }

    #[test]
    fn numbers_wrap() {
        let mut queue = InOrder {
            first: u32::MAX,
            ..InOrder::default()
        };
        let a = queue.ask("a");
        let b = queue.ask("b");
        assert_eq!((a, b), (u32::MAX, 0));
        assert!(queue.answer(b, 2).is_some());
        assert!(queue.answer(a, 1).is_some());
        assert_eq!(queue.pop(), Some(("a", 1)));
        assert_eq!(queue.pop(), Some(("b", 2)));
    }
}
