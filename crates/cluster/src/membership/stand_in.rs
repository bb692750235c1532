//! A leader whose process is gone is followed at once.
//!
//! A leader that falls silent may only be slow, so its followers wait as long as its lease lasts, and then some. If its process has ended
//! there is nothing to wait for: its machine closes its connections, and refuses new ones. Whoever sees both gives up the lease and asks the
//! others whether they would vote for it; they saw the same. Nothing rests on it being true: a leader that is alive after all is followed by
//! another one, as after any election. A machine that is gone as a whole refuses nothing; there the lease decides.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use magpie_state::{NodeId, StateMachine};
use tokio::net::TcpStream;

use super::Membership;
use crate::raft::RaftGroup;

/// A dial that takes longer tells nothing.
const DIAL_WITHIN: Duration = Duration::from_millis(250);
/// A process that is going may still accept for a moment: it is dialled so often, with a pause.
const DIALS_MAX: usize = 6;
const DIAL_PAUSE: Duration = Duration::from_millis(15);
/// The candidates of a group begin so far apart, since the first may lack entries that another one has. They look again so often, with growing
/// pauses: the others may not have seen it yet, or two may have stood at once and got a vote each.
const TURN: Duration = Duration::from_millis(50);
const LOOKS: u32 = 9;

impl Membership {
    /// Looks after the leaders of this node's groups whenever a leader's stream breaks, until the node stops.
    pub(super) async fn stand_in_for_the_gone(self) {
        let broken = self.inner.registry.broken();
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = broken.notified() => {}
            }
            for leader in self.leaders_elsewhere() {
                if self.is_gone(leader).await {
                    tracing::info!(node = %leader, "the process of a leader is gone");
                    self.stand_in_for(leader);
                }
            }
        }
    }

    /// The other nodes that lead groups with a replica here.
    fn leaders_elsewhere(&self) -> BTreeSet<NodeId> {
        let groups = &self.inner.groups;
        let control = groups.control().and_then(|group| group.leader());
        let partitions = groups.partitions();
        let leaders = partitions.iter().filter_map(|(_, group)| group.leader());
        leaders
            .chain(control)
            .filter(|leader| *leader != self.node())
            .collect()
    }

    /// Whether nothing listens at a node's address any more, though the machine answers.
    async fn is_gone(&self, node: NodeId) -> bool {
        let Some(address) = self.inner.channels.directory().address(node) else {
            return false;
        };
        for _ in 0..DIALS_MAX {
            match tokio::time::timeout(DIAL_WITHIN, TcpStream::connect(&address)).await {
                Ok(Err(error)) => return error.kind() == io::ErrorKind::ConnectionRefused,
                Err(_) => return false,
                Ok(Ok(_)) => tokio::time::sleep(DIAL_PAUSE).await,
            }
        }
        false
    }

    fn stand_in_for(&self, gone: NodeId) {
        if let Some(control) = self.inner.groups.control() {
            self.stand_in(control.clone(), gone);
        }
        for (_, group) in self.inner.groups.partitions() {
            self.stand_in(group, gone);
        }
    }

    fn stand_in<M: StateMachine>(&self, group: RaftGroup<M>, gone: NodeId) {
        if group.leader() != Some(gone) {
            return;
        }
        let voters = group.members().voters;
        let others: Vec<NodeId> = voters.into_iter().filter(|node| *node != gone).collect();
        let Some(place) = others.iter().position(|node| *node == self.node()) else {
            // A learner.
            return;
        };
        // Not the same one first in every group.
        let first = group.group().0 as usize % others.len();
        let turn = (others.len() + place - first) % others.len();
        let this = self.clone();
        tokio::spawn(async move {
            let all = u32::try_from(others.len()).unwrap_or(u32::MAX);
            let mut pause = TURN * u32::try_from(turn).unwrap_or(u32::MAX);
            let mut term = group.leadership().term;
            for look in 1..=LOOKS {
                // Again each time: what the leader had sent before may be taken only now, and begin a lease.
                group.give_up_lease_of(gone).await;
                tokio::select! {
                    () = this.inner.stop.cancelled() => return,
                    () = group.stopped() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = TURN * all * look;
                let now = group.leadership();
                let is_led = now.leader.is_some_and(|leader| leader != gone);
                // A term that is new belongs to a candidate who is not to be disturbed yet.
                if !is_led && now.term == std::mem::replace(&mut term, now.term) {
                    group.stand().await;
                }
            }
        });
    }
}
