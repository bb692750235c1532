//! Who leads which group, as far as this node knows, for every group, whether or not it has a replica here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use magpie_state::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft::GroupId;

/// What this node knows about leaders. Cheap to clone.
///
/// Fed by the answers to pings, which prove that the callee leads with a live quorum, and by hints in refusals, which prove nothing but
/// say where to ask next.
#[derive(Clone, Default)]
pub(crate) struct Leaders {
    known: Arc<watch::Sender<HashMap<GroupId, Led>>>,
}

#[derive(Debug, Clone, Copy)]
struct Led {
    leader: NodeId,
    term: u64,
    /// When the question was sent whose answer proved it last.
    confirmed: Option<Instant>,
}

impl Leaders {
    /// `leader` leads `group` in `term` with a live quorum, as it answered to a question sent at `asked`.
    pub(crate) fn confirm(&self, group: GroupId, leader: NodeId, term: u64, asked: Instant) {
        self.known.send_if_modified(|known| {
            let before = known.get(&group).copied();
            if before.is_some_and(|before| before.term > term) {
                return false;
            }
            let confirmed = before.and_then(|before| before.confirmed).max(Some(asked));
            put(known, group, (leader, term, confirmed))
        });
    }

    /// A replica here follows `leader` in `term`, which proves nothing.
    pub(crate) fn follows(&self, group: GroupId, leader: NodeId, term: u64) {
        self.known.send_if_modified(|known| {
            let before = known.get(&group).copied();
            if before.is_some_and(|before| before.term >= term) {
                return false;
            }
            let confirmed = before.and_then(|before| before.confirmed);
            put(known, group, (leader, term, confirmed))
        });
    }

    /// Somebody believes that `leader` leads `group`.
    pub(crate) fn hint(&self, group: GroupId, leader: NodeId) {
        self.known.send_if_modified(|known| {
            let before = known.get(&group);
            let (term, confirmed) = before.map_or((0, None), |led| (led.term, led.confirmed));
            put(known, group, (leader, term, confirmed))
        });
    }

    /// The leader of `group`, last that was heard.
    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.known.borrow().get(&group).map(|led| led.leader)
    }

    /// Whether the leader of `group` proved itself in answer to a question that was sent within the last `age`.
    pub(crate) fn confirmed_within(&self, group: GroupId, age: Duration) -> bool {
        let confirmed = self
            .known
            .borrow()
            .get(&group)
            .and_then(|led| led.confirmed);
        confirmed.is_some_and(|at| at.elapsed() <= age)
    }

    /// How long ago the question was sent to which the leader of `group` last proved itself.
    pub(crate) fn confirmed_ago(&self, group: GroupId) -> Option<Duration> {
        let confirmed = self
            .known
            .borrow()
            .get(&group)
            .and_then(|led| led.confirmed);
        confirmed.map(|at| at.elapsed())
    }

    /// Changes whenever some group's leader does.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.known.subscribe())
    }
}

/// Returns whether this is another leader than before.
fn put(
    known: &mut HashMap<GroupId, Led>,
    group: GroupId,
    (leader, term, confirmed): (NodeId, u64, Option<Instant>),
) -> bool {
    let led = Led {
        leader,
        term,
        confirmed,
    };
    let before = known.insert(group, led);
    before.is_none_or(|before| before.leader != leader)
}

/// Wakes whenever some group's leader changes.
pub(crate) struct Changes(watch::Receiver<HashMap<GroupId, Led>>);

impl Changes {
    /// Resolves at the next change; never, once the node is gone.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    #[tokio::test(start_paused = true)]
    async fn confirmation_is_counted_from_the_question() {
        let leaders = Leaders::default();
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        leaders.confirm(GROUP, NodeId(1), 1, asked);
        assert!(!leaders.confirmed_within(GROUP, Duration::from_secs(1)));
        assert!(leaders.confirmed_within(GROUP, Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_an_older_term_changes_nothing() {
        let leaders = Leaders::default();
        leaders.confirm(GROUP, NodeId(1), 5, Instant::now());
        leaders.confirm(GROUP, NodeId(2), 4, Instant::now());
        assert_eq!(leaders.leader(GROUP), Some(NodeId(1)));
        leaders.hint(GROUP, NodeId(3));
        assert_eq!(
            leaders.leader(GROUP),
            Some(NodeId(3)),
            "a hint only says where to ask"
        );
    }
}
