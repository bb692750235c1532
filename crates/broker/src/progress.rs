//! Telling the sessions' partitions how far the clients of this node are.
//!
//! Once a second, one record per session partition says for all sessions of this node together: everything up to these positions is done.
//! The positions are those that the tails had passed a second ago; a session that is not so far says so itself, once, and again when it
//! got on; and when it has caught up it joins the others again. So a message to a group of many costs a number per node, not one per
//! member.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use magpie_cluster::Cluster;
use magpie_failpoint::fail_point;
use magpie_state::{Cursor, Laggard, PartitionId, Position, Record, partition_of};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::handle::Handle;
use crate::subscribers::Subscribers;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);
/// Sessions in one record.
const SESSIONS_MAX: usize = 4096;

/// The attached sessions that outlive their connections, by their partition.
#[derive(Debug)]
pub(crate) struct Durables {
    by_partition: Vec<Mutex<Sessions>>,
}

/// By number of the connection.
type Sessions = HashMap<u64, Durable, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Durable {
    handle: Arc<Handle>,
    told: Told,
    /// Its connection has ended, with these. It leaves the others before they go on, since nobody knows when its detach is committed.
    ended: Option<Vec<Cursor>>,
}

/// What its partition knows of a session's progress.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// As far as all.
    WithAll,
    /// Its own place; nothing yet since it was attached.
    Own(Option<Vec<Cursor>>),
}

impl Durables {
    pub(crate) fn new(partitions: u16) -> Self {
        let mut by_partition = Vec::new();
        by_partition.resize_with(usize::from(partitions), Mutex::default);
        Self { by_partition }
    }

    /// A session is attached, and its lanes are set.
    pub(crate) fn add(&self, handle: &Arc<Handle>) {
        if let Some(mut sessions) = self.sessions_of(handle) {
            let durable = Durable {
                handle: Arc::clone(handle),
                told: Told::Own(None),
                ended: None,
            };
            sessions.insert(handle.number, durable);
        }
    }

    /// Its connection ends by `end`, which tells how far the session is. No report is made meanwhile, so that none passes over what the
    /// session leaves behind.
    pub(crate) fn end<T>(
        &self,
        handle: &Handle,
        end: impl FnOnce() -> (T, Option<Vec<Cursor>>),
    ) -> T {
        let sessions = self.sessions_of(handle);
        let (result, cursors) = end();
        if let Some(mut sessions) = sessions
            && let Some(durable) = sessions.get_mut(&handle.number)
        {
            match (&durable.told, cursors) {
                (Told::WithAll, Some(cursors)) => durable.ended = Some(cursors),
                _ => {
                    sessions.remove(&handle.number);
                }
            }
        }
        result
    }

    fn sessions_of(&self, handle: &Handle) -> Option<MutexGuard<'_, Sessions>> {
        let partitions = u16::try_from(self.by_partition.len()).ok()?;
        let partition = partition_of(&handle.client()?.0, partitions);
        Some(self.lock(partition))
    }

    fn lock(&self, partition: PartitionId) -> MutexGuard<'_, Sessions> {
        self.by_partition[usize::from(partition.0)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a report that was made.
struct Reported {
    /// As told last.
    floors: Vec<Position>,
    /// One that the cluster did not take: it comes first.
    unsent: Option<Record>,
}

/// Reports until the node stops.
pub(crate) async fn run(
    cluster: Cluster,
    durables: Arc<Durables>,
    subscribers: Arc<Subscribers>,
    stop: CancellationToken,
) {
    let partitions = subscribers.positions.partitions();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported: Vec<Reported> = Vec::new();
    reported.resize_with(usize::from(partitions), || Reported {
        floors: Vec::new(),
        unsent: None,
    });
    let mut passed_before: Option<Vec<Position>> = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let passed = subscribers.positions.all_passed();
        let Some(floors) = passed_before.replace(passed.clone()) else {
            continue;
        };
        for (partition, reported) in (0..partitions).map(PartitionId).zip(&mut reported) {
            let report = report(&cluster, &durables, partition, reported, &floors, &passed);
            report.await;
        }
    }
}

/// One round of one partition.
async fn report(
    cluster: &Cluster,
    durables: &Durables,
    partition: PartitionId,
    reported: &mut Reported,
    floors: &[Position],
    passed: &[Position],
) {
    let record = match reported.unsent.take() {
        Some(unsent) => unsent,
        None => {
            let mut sessions = durables.lock(partition);
            let Some(record) = compose(&mut sessions, &reported.floors, floors, passed) else {
                return;
            };
            drop(sessions);
            reported.floors = floors.to_vec();
            record
        }
    };
    fail_point!("progress.composed", [partition.0.to_le_bytes()]);
    if let Err(error) = cluster.report_progress(partition, record.clone()).await {
        // It was not proposed: the same again, before anything newer. What is given up and unknown stays in the node's stream.
        debug!(%partition, %error, "progress not reported now");
        reported.unsent = Some(record);
        return;
    }
    fail_point!("progress.reported", [partition.0.to_le_bytes()]);
}

/// What has changed since the last report; `None` if nothing has.
fn compose(
    sessions: &mut Sessions,
    told_floors: &[Position],
    floors: &[Position],
    passed: &[Position],
) -> Option<Record> {
    if sessions.is_empty() {
        return None;
    }
    let at = |positions: &[Position], partition: PartitionId| {
        let position = positions.get(usize::from(partition.0));
        position.copied().unwrap_or(Position::START)
    };
    let (mut laggards, mut joined) = (Vec::new(), Vec::new());
    let mut has_members = false;
    for (_, Durable { handle, ended, .. }) in
        sessions.extract_if(|_, durable| durable.ended.is_some())
    {
        if let (Some(client), Some(epoch), Some(progress)) =
            (handle.client(), handle.epoch(), ended)
        {
            laggards.push(Laggard {
                client: client.clone(),
                epoch,
                progress,
            });
        }
    }
    for Durable { handle, told, .. } in sessions.values_mut() {
        let (Some(client), Some(epoch)) = (handle.client(), handle.epoch()) else {
            continue;
        };
        let is_clear = handle
            .mailbox
            .with_lanes(|lanes| lanes.are_clear_of(|it| at(floors, it)));
        let has_room = laggards.len() + joined.len() < SESSIONS_MAX;
        match is_clear {
            // It has no lanes yet, or none any more.
            None => {}
            Some(true) if *told == Told::WithAll => has_members = true,
            Some(true) if has_room => {
                joined.push((client.clone(), epoch));
                *told = Told::WithAll;
                has_members = true;
            }
            // Too many at once: it keeps what was told of it, which holds.
            Some(true) => {}
            // One that is told to be with all must be taken out, however many there are.
            Some(false) if has_room || *told == Told::WithAll => {
                let cursors = handle
                    .mailbox
                    .with_lanes(|lanes| lanes.cursors(|it| at(passed, it)));
                let own = Told::Own(cursors.clone());
                if let (Some(progress), true) = (cursors, *told != own) {
                    laggards.push(Laggard {
                        client: client.clone(),
                        epoch,
                        progress,
                    });
                    *told = own;
                }
            }
            Some(false) => {}
        }
    }
    let has_changed = !laggards.is_empty() || !joined.is_empty();
    if !has_changed && (told_floors == floors || !has_members) {
        return None;
    }
    let floors = (0u16..).map(PartitionId).zip(floors.iter().copied());
    Some(Record::Progress {
        floors: floors.collect(),
        laggards,
        joined,
    })
}
