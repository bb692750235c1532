//! Whether this node may accept clients: only what has proven itself lately counts.

use std::time::Duration;

use magpie_state::PartitionId;
use tokio::time::Instant;

use crate::groups::{CONTROL, group_of};
use crate::membership::Membership;
use crate::raft::GroupId;
use crate::{Event, Readiness};

/// A node that stood still hears nobody either when it goes on, for a moment.
const ALONE_FOR: Duration = Duration::from_millis(300);

/// What readiness follows from.
pub(crate) struct Facts<'a> {
    /// Why the node has no cluster yet, if it has none.
    pub(crate) waiting: Option<String>,
    /// The cluster's number of partitions, once it is formed.
    pub(crate) partitions: Option<u16>,
    /// Whether this life stands in the control group's state, here as well.
    pub(crate) is_announced: bool,
    pub(crate) is_draining: bool,
    /// By how much this node's clock is off, and what is allowed.
    pub(crate) clock_off: Duration,
    pub(crate) clock_off_max: Duration,
    /// Whether even the reserve of the disk is nearly used up.
    pub(crate) is_disk_full: bool,
    /// Whether the leader of a group proved itself lately.
    pub(crate) is_confirmed: &'a dyn Fn(GroupId) -> bool,
}

/// Ready, or the first reason why not.
pub(crate) fn readiness(facts: &Facts<'_>) -> Readiness {
    let not = |why: String| Readiness::NotReady(why);
    if facts.is_draining {
        return not(String::from("the node is about to stop"));
    }
    if let Some(why) = &facts.waiting {
        return not(why.clone());
    }
    if facts.is_disk_full {
        return not(String::from(
            "the disk is full: make room on the file system of the data directory",
        ));
    }
    if !(facts.is_confirmed)(CONTROL) {
        return not(String::from(
            "no quorum: no leader of the control group answered lately",
        ));
    }
    let Some(partitions) = facts.partitions else {
        return not(String::from("the cluster is being formed"));
    };
    if !facts.is_announced {
        return not(String::from(
            "the control group has not taken note of this start yet",
        ));
    }
    let mut partitions = (0..partitions).map(PartitionId);
    if let Some(partition) = partitions.find(|number| !(facts.is_confirmed)(group_of(*number))) {
        return not(format!(
            "no quorum: no leader of partition {partition} answered lately"
        ));
    }
    if facts.clock_off > facts.clock_off_max {
        return not(format!(
            "the clock differs from that of the other nodes by {} s",
            facts.clock_off.as_secs()
        ));
    }
    Readiness::Ready
}

impl Membership {
    /// Keeps [`readiness`](Self::readiness) up to date, and has clients closed when they are better off elsewhere: at once when this node hears
    /// nobody at all, for then it is the one that is cut off; else when the cluster may take it for dead.
    pub(crate) async fn watch_readiness(self) {
        let mut is_closed = false;
        let mut alone_since = None;
        loop {
            let now = readiness(&self.facts(&|group| self.is_confirmed(group)));
            self.set_readiness(now);
            let cut_off = self.cut_off_for();
            let limit = self.down_after() / 2;
            let now = Instant::now();
            alone_since = self.is_alone().then(|| alone_since.unwrap_or(now));
            let is_alone = alone_since.is_some_and(|since| now - since > ALONE_FOR);
            if (is_alone || cut_off.is_some_and(|time| time > limit)) && !is_closed {
                is_closed = true;
                let why = "this node has lost the majority of the cluster";
                tracing::warn!("no quorum for long: closing all clients");
                let sent = self.events().send(Event::CloseAll { why });
                tokio::select! {
                    () = self.stopped() => return,
                    // It fails when the broker is gone, and its clients with it.
                    _ = sent => {}
                }
            } else if alone_since.is_none() && cut_off.is_some_and(|time| time <= limit) {
                is_closed = false;
            }
            tokio::select! {
                () = self.stopped() => return,
                () = tokio::time::sleep(self.look_every()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(is_confirmed: &dyn Fn(GroupId) -> bool) -> Facts<'_> {
        Facts {
            waiting: None,
            partitions: Some(4),
            is_announced: true,
            is_draining: false,
            clock_off: Duration::from_millis(40),
            clock_off_max: Duration::from_secs(5),
            is_disk_full: false,
            is_confirmed,
        }
    }

    fn why(facts: &Facts<'_>) -> String {
        match readiness(facts) {
            Readiness::Ready => String::new(),
            Readiness::NotReady(why) => why,
        }
    }

    #[test]
    fn every_group_has_to_be_confirmed() {
        assert_eq!(why(&facts(&|_| true)), "");
        assert!(why(&facts(&|group| group != CONTROL)).contains("control group"));
        let third = group_of(PartitionId(3));
        assert!(why(&facts(&|group| group != third)).contains("partition 3"));
    }

    #[test]
    fn a_wrong_clock_and_a_missing_announcement_are_reasons() {
        let confirmed = |_| true;
        let mut wrong = facts(&confirmed);
        wrong.clock_off = Duration::from_secs(86_400);
        assert!(why(&wrong).contains("86400 s"));
        let mut early = facts(&confirmed);
        early.is_announced = false;
        assert!(!why(&early).is_empty());
    }
}
