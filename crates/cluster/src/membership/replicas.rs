//! Which replicas run on this node: those that the placement names, and those that their group still counts on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use magpie_state::PartitionId;
use tokio::time::Instant;

use super::Membership;
use crate::groups::{CONTROL, group_of};
use crate::raft::{self, GroupParts, RaftGroup};
use crate::{Config, Fatal};

/// The placement is compared with what runs at least so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The settings of all groups of a node.
pub(super) fn raft_config(config: &Config) -> raft::Config {
    raft::Config {
        heartbeat_every: config.heartbeat,
        election_min: config.election_timeout,
        election_max: config.election_timeout * 2,
        call_within: config.election_timeout,
        log_retain_bytes: config.log_retain_bytes,
        log_retain: config.log_retain,
        ..raft::Config::default()
    }
}

impl Membership {
    /// Starts every replica that is on disk. Its group may count on it, whatever the placement says.
    pub(super) async fn start_partitions_on_disk(&self) -> Result<(), String> {
        let groups = self.inner.log.groups().into_iter();
        for group in groups.filter(|group| *group != CONTROL) {
            let number = group.0.checked_sub(CONTROL.0 + 1);
            if let Some(partition) = number.and_then(|number| u16::try_from(number).ok()) {
                self.start_replica(PartitionId(partition)).await?;
            }
        }
        Ok(())
    }

    async fn start_replica(&self, partition: PartitionId) -> Result<(), String> {
        let inner = &self.inner;
        let (observer, hold) = (inner.feed_of)(partition);
        let group = RaftGroup::start(GroupParts {
            group: group_of(partition),
            node: self.node(),
            log: inner.log.clone(),
            store: Arc::clone(&inner.store),
            channels: inner.channels.clone(),
            registry: inner.registry.clone(),
            config: raft_config(&inner.config),
            observer,
            hold,
        })
        .await
        .map_err(|error| error.to_string())?;
        self.watch_failure(group.fatal());
        inner.groups.insert(partition, group.clone());
        tokio::spawn(self.clone().keep_time(group.clone()));
        tokio::spawn(self.clone().limit_session_bytes(partition, group.clone()));
        tokio::spawn(self.clone().retain_what_is_needed(partition, group.clone()));
        tokio::spawn(self.clone().tend(partition, group));
        tracing::debug!(%partition, "replica started");
        Ok(())
    }

    /// Starts and removes replicas until the node stops.
    pub(super) async fn place_replicas(self) {
        let mut applied = self.applied();
        // Replicas that were stopped because their group does not count on them any more, and when.
        let mut retired: BTreeMap<PartitionId, Instant> = BTreeMap::new();
        loop {
            if self.inner.groups.control().is_some()
                && let Err(why) = self.compare_with_placement(&mut retired).await
            {
                self.inner.fatal.trip(Fatal::Disk(why));
                return;
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = applied.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn compare_with_placement(
        &self,
        retired: &mut BTreeMap<PartitionId, Instant>,
    ) -> Result<(), String> {
        let this = self.node();
        let wanted: BTreeSet<PartitionId> = self.state(|state| {
            let placement = state.placement().iter();
            let mine = placement.filter(|(_, replicas)| replicas.contains(&this));
            mine.map(|(partition, _)| *partition).collect()
        });
        for partition in &wanted {
            if self.inner.stop.is_cancelled() {
                return Ok(());
            }
            if self.inner.groups.partition(*partition).is_none() {
                retired.remove(partition);
                self.start_replica(*partition).await?;
            }
        }
        for (partition, group) in self.inner.groups.partitions() {
            if !wanted.contains(&partition) && self.is_let_go(partition, None) {
                // It can acknowledge nothing from here on. Its data goes once its leader has said again that it does not count on it.
                self.inner.groups.remove(partition);
                group.stop().await;
                retired.insert(partition, Instant::now());
            }
        }
        let stopped: Vec<_> = retired
            .iter()
            .map(|(partition, at)| (*partition, *at))
            .collect();
        for (partition, at) in stopped {
            let Some(is_let_go) = self.is_let_go_since(partition, at) else {
                continue;
            };
            retired.remove(&partition);
            if is_let_go {
                raft::erase(&self.inner.log, &self.inner.store, group_of(partition))
                    .await
                    .map_err(|error| error.to_string())?;
                tracing::info!(%partition, "replica removed");
            } else {
                self.start_replica(partition).await?;
            }
        }
        Ok(())
    }

    /// Whether the leader of `partition` said lately, and after `since`, that this node is no member of its group.
    fn is_let_go(&self, partition: PartitionId, since: Option<Instant>) -> bool {
        let group = group_of(partition);
        let Some(report) = self.inner.peers.report_of(group) else {
            return false;
        };
        let is_fresh = report.asked.elapsed() <= self.inner.config.quorum_lost_after
            && since.is_none_or(|since| report.asked > since);
        is_fresh
            && report.leader != self.node()
            && !report.members.is_joint
            && report.members.all().all(|node| node != self.node())
    }

    /// The same, once there is a newer report; `None` before.
    fn is_let_go_since(&self, partition: PartitionId, since: Instant) -> Option<bool> {
        let report = self.inner.peers.report_of(group_of(partition))?;
        (report.asked > since).then(|| self.is_let_go(partition, Some(since)))
    }
}
