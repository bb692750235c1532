//! What the other members answered to pings.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use magpie_state::{NodeId, StreamId};
use tokio::time::Instant;

use super::load::Load;
use crate::raft::{GroupId, Members};

/// Clocks that differ by more make messages expire too early or too late.
pub(super) const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// The other members, by what is known of their health. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Peers {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    asking: HashSet<NodeId>,
    answers: HashMap<NodeId, Answer>,
    reports: HashMap<GroupId, Report>,
}

/// The last answer of a member.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// When the question was sent.
    pub(super) asked: Instant,
    /// Which life of the member answered.
    pub(super) stream: StreamId,
    /// How far its clock is ahead of ours, in milliseconds.
    pub(super) clock_ahead_ms: i64,
    /// The groups that it has a replica of.
    pub(super) hosted: HashSet<GroupId>,
    /// It takes no leaderships.
    pub(super) is_draining: bool,
    /// What it carries.
    pub(super) load: Load,
}

/// What the leader of a group said about its members.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) leader: NodeId,
    pub(super) term: u64,
    /// When the question was sent.
    pub(super) asked: Instant,
    pub(super) members: Members,
}

impl Peers {
    /// Whether to ask `node` now: not while another question to it is open. Ends with [`answered`](Self::answered).
    pub(super) fn begin(&self, node: NodeId) -> bool {
        self.lock().asking.insert(node)
    }

    /// The question to `node` is closed, with an answer or without.
    pub(super) fn answered(&self, node: NodeId, answer: Option<Answer>) {
        let mut known = self.lock();
        known.asking.remove(&node);
        if let Some(answer) = answer {
            known.answers.insert(node, answer);
        }
    }

    /// A leader with a live quorum told who the members of its group are.
    pub(super) fn report(&self, group: GroupId, report: Report) {
        let mut known = self.lock();
        let newer = known
            .reports
            .get(&group)
            .is_none_or(|before| (before.term, before.asked) <= (report.term, report.asked));
        if newer {
            known.reports.insert(group, report);
        }
    }

    /// The last report about a group.
    pub(super) fn report_of(&self, group: GroupId) -> Option<Report> {
        self.lock().reports.get(&group).cloned()
    }

    /// Groups that a leader reported on within the last `age`.
    pub(super) fn led_within(&self, age: Duration) -> HashSet<GroupId> {
        let known = self.lock();
        let fresh = known
            .reports
            .iter()
            .filter(|(_, report)| report.asked.elapsed() <= age);
        fresh.map(|(group, _)| *group).collect()
    }

    /// Whether that life of a node answered a question sent within the last `age`.
    pub(super) fn is_reachable(&self, stream: StreamId, age: Duration) -> bool {
        self.lock()
            .answers
            .get(&stream.node)
            .is_some_and(|answer| answer.stream == stream && answer.asked.elapsed() <= age)
    }

    /// Whether any node answered within the last `age`.
    pub(super) fn hears_somebody(&self, age: Duration) -> bool {
        let known = self.lock();
        let mut answers = known.answers.values();
        answers.any(|answer| answer.asked.elapsed() <= age)
    }

    /// Whether `node` answered within the last `age` and takes leaderships.
    pub(super) fn can_lead(&self, node: NodeId, age: Duration) -> bool {
        self.lock()
            .answers
            .get(&node)
            .is_some_and(|answer| answer.asked.elapsed() <= age && !answer.is_draining)
    }

    /// Whether `node` said that it has a replica of `group`.
    pub(super) fn hosts(&self, node: NodeId, group: GroupId) -> bool {
        let known = self.lock();
        let answer = known.answers.get(&node);
        answer.is_some_and(|answer| answer.hosted.contains(&group))
    }

    /// When the question was sent that this life of a node answered last.
    pub(super) fn heard(&self, stream: StreamId) -> Option<Instant> {
        let known = self.lock();
        let answer = known.answers.get(&stream.node)?;
        (answer.stream == stream).then_some(answer.asked)
    }

    /// What this life of a node carries, if it answered within the last `age`.
    pub(super) fn load_of(&self, stream: StreamId, age: Duration) -> Option<Load> {
        let known = self.lock();
        let answer = known.answers.get(&stream.node)?;
        (answer.stream == stream && answer.asked.elapsed() <= age).then_some(answer.load)
    }

    /// How far this node's clock is off, as the nodes that answered within the last `age` see it.
    pub(super) fn clock_off(&self, age: Duration) -> Duration {
        let known = self.lock();
        let answers = known.answers.values();
        let ahead = answers
            .filter(|answer| answer.asked.elapsed() <= age)
            .map(|answer| answer.clock_ahead_ms.unsigned_abs());
        Duration::from_millis(majority_difference(ahead.collect()))
    }

    /// Forgets nodes that are no members.
    pub(super) fn retain(&self, members: &BTreeSet<NodeId>) {
        self.lock().answers.retain(|node, _| members.contains(node));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The difference that at least half of all nodes, this one (0) included, have or exceed: one node whose clock is wrong finds it large,
/// the others, who see only that one off, do not. Of two nodes nobody knows which is wrong.
fn majority_difference(mut others_ms: Vec<u64>) -> u64 {
    others_ms.push(0);
    others_ms.sort_unstable();
    others_ms[others_ms.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_whose_clock_is_wrong_finds_it_so() {
        let day = 86_400_000;
        assert_eq!(majority_difference(vec![day, 3]), 3);
        assert_eq!(majority_difference(vec![day, day]), day);
        assert_eq!(majority_difference(vec![day]), day);
        assert_eq!(majority_difference(vec![]), 0);
        assert_eq!(majority_difference(vec![day, 1, 2]), 2);
    }
}
