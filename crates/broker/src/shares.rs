//! Share groups of the replicated class on this node: what is dealt to its connections goes into their mailboxes, and what they are done
//! with, or leave behind, goes back to the groups.
//!
//! Per partition, one task delivers and one reports. What connections report in a few milliseconds is one record.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use magpie_cluster::{Cluster, DealtMessage, Error};
use magpie_codec::{QoS, TopicFilter};
use magpie_session::Delivery;
use magpie_state::{ClientId, Epoch, MembershipId, PartitionId, Position, Record};
use tokio::sync::{Notify, watch};
use tracing::debug;

use crate::clock;
use crate::handle::Handle;
use crate::mailbox::Wakes;
use crate::shared::Place;
use crate::subscribers::Subscribers;
use crate::task;

/// Reports of a partition are collected for so long.
const COLLECTED_FOR: Duration = Duration::from_millis(3);
/// Pause before a settlement that was not taken is sent again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Places (16 bytes each) in one submission of a report, and what a record counts beside its own.
const PART_PLACES_MAX: usize = 16_384;
const RECORD_PLACES: usize = 8;

/// The node's part in the share groups.
pub(crate) struct Shares {
    cluster: Cluster,
    /// Connections that take part in share groups, by number.
    members: Mutex<HashMap<u64, Member, foldhash::fast::RandomState>>,
    reports: Vec<Report>,
}

#[derive(Debug)]
struct Member {
    handle: Arc<Handle>,
    /// Where it may have joined.
    partitions: BTreeSet<PartitionId>,
    /// Filters that it has left and not joined again.
    left: BTreeSet<TopicFilter>,
}

/// What is to be told to one partition.
#[derive(Debug)]
struct Report {
    inner: Mutex<Unsent>,
    wake: Notify,
    /// How many records were ever queued of which all are committed.
    committed: watch::Sender<u64>,
    /// Connections of this node that may have joined there.
    members: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Unsent {
    done: HashMap<MembershipId, Vec<Position>, foldhash::fast::RandomState>,
    /// Of those, what sessions have bound to packet ids.
    bound: Vec<(Arc<Handle>, Place)>,
    /// Behind what is done.
    records: Vec<Record>,
    /// How many were ever queued.
    queued: u64,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members().len();
        f.debug_struct("Shares")
            .field("members", &members)
            .finish_non_exhaustive()
    }
}

impl Shares {
    /// Starts to deliver and to report.
    pub(crate) fn start(cluster: &Cluster, subscribers: &Arc<Subscribers>) -> Arc<Self> {
        let partitions = (0..cluster.partitions()).map(PartitionId);
        let report = |_| Report {
            inner: Mutex::default(),
            wake: Notify::new(),
            committed: watch::Sender::new(0),
            members: watch::Sender::new(0),
        };
        let shares = Arc::new(Self {
            cluster: cluster.clone(),
            members: Mutex::default(),
            reports: partitions.clone().map(report).collect(),
        });
        for partition in partitions {
            let (ours, subscribers) = (Arc::clone(&shares), Arc::clone(subscribers));
            task::spawn(ours.deliver(partition, subscribers));
            task::spawn(Arc::clone(&shares).report(partition));
        }
        shares
    }

    /// Takes part in a share group, before SUBACK. If it fails, it may have joined all the same.
    pub(crate) async fn join(
        &self,
        handle: &Arc<Handle>,
        filter: &TopicFilter,
        qos: QoS,
    ) -> Result<(), Error> {
        let has_left = {
            let mut members = self.members();
            let member = members.entry(handle.number).or_insert_with(|| Member {
                handle: Arc::clone(handle),
                partitions: BTreeSet::new(),
                left: BTreeSet::new(),
            });
            for partition in self.cluster.partitions_of(filter) {
                if member.partitions.insert(partition) {
                    self.of(partition).members.send_modify(|count| *count += 1);
                }
            }
            member.left.remove(filter)
        };
        if has_left {
            // The other way round, the leaving would end what begins here.
            for partition in self.cluster.partitions_of(filter) {
                let report = self.of(partition);
                let queued = report.lock().queued;
                let mut committed = report.committed.subscribe();
                // The sender is in `self`.
                let _ = committed.wait_for(|committed| *committed >= queued).await;
            }
        }
        let session = handle.share_session().cloned();
        self.cluster
            .join_share(filter, handle.member(), qos, session)
            .await
    }

    /// A subscription has ended, or did not come about.
    pub(crate) fn leave(&self, handle: &Handle, filter: &TopicFilter) {
        if let Some(member) = self.members().get_mut(&handle.number) {
            member.left.insert(filter.compact());
        }
        let sent = handle.mailbox.with_shared(|shared| shared.leave(filter));
        // A session of which nothing is known here may have been sent anything.
        let sent = sent.or_else(|| handle.share_session().is_none().then(Vec::new));
        for partition in self.cluster.partitions_of(filter) {
            self.of(partition).push(Record::LeaveShare {
                filter: filter.clone(),
                member: handle.number,
                session: handle.share_session().cloned(),
                sent: sent.as_deref().map(|sent| in_partition(sent, partition)),
            });
        }
    }

    /// A connection has ended. `sent`: what of QoS 2 it may have been sent; `None`: anything.
    pub(crate) fn part(&self, handle: &Handle, sent: Option<&[Place]>) {
        let Some(member) = self.members().remove(&handle.number) else {
            return;
        };
        for partition in member.partitions {
            let report = self.of(partition);
            report.push(Record::PartShare {
                member: handle.number,
                sent: sent.map(|sent| in_partition(sent, partition)),
            });
            report.members.send_modify(|count| *count -= 1);
        }
    }

    /// The same for one that had ended when it joined.
    pub(crate) fn part_late(&self, handle: &Handle, filter: &TopicFilter) {
        // A session may have been sent something by an earlier connection; one that ends with its connection has just begun.
        let sent: Option<&[Place]> = handle.share_session().is_none().then_some(&[]);
        for partition in self.cluster.partitions_of(filter) {
            self.of(partition).push(Record::PartShare {
                member: handle.number,
                sent: sent.map(|sent| in_partition(sent, partition)),
            });
        }
        self.part(handle, sent);
    }

    /// A message needs no more.
    pub(crate) fn done(&self, place: Place) {
        let (partition, membership, position) = place;
        let report = self.of(partition);
        report
            .lock()
            .done
            .entry(membership)
            .or_default()
            .push(position);
        report.wake.notify_one();
    }

    /// The same for one that is bound to a packet id of the session.
    pub(crate) fn done_bound(&self, handle: &Arc<Handle>, place: Place) {
        let report = self.of(place.0);
        report.lock().bound.push((Arc::clone(handle), place));
        self.done(place);
    }

    fn of(&self, partition: PartitionId) -> &Report {
        &self.reports[usize::from(partition.0)]
    }

    fn members(&self) -> MutexGuard<'_, HashMap<u64, Member, foldhash::fast::RandomState>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what a partition's groups deal to this node, until the node stops.
    async fn deliver(self: Arc<Self>, partition: PartitionId, subscribers: Arc<Subscribers>) {
        let mut dealt = self.cluster.dealt(partition);
        let mut wakes = Wakes::default();
        let mut members = self.of(partition).members.subscribe();
        // The sender is in `self`.
        while members.wait_for(|count| *count > 0).await.is_ok() {
            let messages = tokio::select! {
                messages = dealt.next() => messages,
                _ = members.wait_for(|count| *count == 0) => continue,
            };
            let Some(messages) = messages else {
                return;
            };
            for message in messages {
                self.deliver_one(partition, &subscribers, message, &mut wakes);
            }
            wakes.flush();
        }
    }

    fn deliver_one(
        &self,
        partition: PartitionId,
        subscribers: &Subscribers,
        message: DealtMessage,
        wakes: &mut Wakes,
    ) {
        let DealtMessage { dealt, message } = message;
        let handle = {
            let members = self.members();
            members
                .get(&dealt.member)
                .map(|member| Arc::clone(&member.handle))
        };
        // Of a connection that has gone, the group learns from its parting.
        let Some(handle) = handle else {
            return;
        };
        let delivery = message.and_then(|item| {
            // A subscription that is not there yet has its options when it is.
            let options = subscribers.share_options(&dealt.filter, dealt.member)?;
            Some(Delivery {
                message: item.message.clone(),
                qos: dealt.qos,
                // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
                retain: item.retain && options.retain_as_published,
                subscription_ids: options.ids,
                token: crate::deliver::UNTRACKED,
                expires_at: clock::expires_at(&item.message, item.published_ms),
            })
        });
        handle
            .mailbox
            .deliver_shared(partition, &dealt, delivery, wakes);
    }

    /// Tells a partition what connections are done with, until the node stops.
    async fn report(self: Arc<Self>, partition: PartitionId) {
        let report = self.of(partition);
        loop {
            report.wake.notified().await;
            tokio::time::sleep(COLLECTED_FOR).await;
            let (done, bound, records, queued) = {
                let mut unsent = report.lock();
                let Unsent {
                    done,
                    bound,
                    records,
                    queued,
                } = &mut *unsent;
                (
                    mem::take(done),
                    mem::take(bound),
                    mem::take(records),
                    *queued,
                )
            };
            for part in in_parts(done, records) {
                if self.cluster.commit_shares(partition, &part).await.is_err() {
                    return;
                }
            }
            report.committed.send_replace(queued);
            if !bound.is_empty() {
                task::spawn(settle_all(self.cluster.clone(), bound));
            }
        }
    }
}

impl Report {
    fn push(&self, record: Record) {
        let mut unsent = self.lock();
        unsent.records.push(record);
        unsent.queued += 1;
        drop(unsent);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Unsent> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_partition(places: &[Place], partition: PartitionId) -> Vec<(MembershipId, Position)> {
    let here = places.iter().filter(|(of, ..)| *of == partition);
    here.map(|(_, membership, position)| (*membership, *position))
        .collect()
}

/// Cuts a report into submissions that a partition takes, however long it had no leader.
fn in_parts(
    done: HashMap<MembershipId, Vec<Position>, foldhash::fast::RandomState>,
    records: Vec<Record>,
) -> Vec<Vec<Record>> {
    let done = done.into_iter().flat_map(|(membership, positions)| {
        let some = |positions: &[Position]| Record::ShareDone {
            done: vec![(membership, positions.to_vec())],
        };
        positions
            .chunks(PART_PLACES_MAX)
            .map(some)
            .collect::<Vec<_>>()
    });
    let mut parts: Vec<Vec<Record>> = Vec::new();
    let mut room = 0;
    for record in done.chain(records) {
        let places = match &record {
            Record::ShareDone { done } => done.iter().map(|(_, positions)| positions.len()).sum(),
            Record::LeaveShare { filter, sent, .. } => {
                sent.as_ref().map_or(0, Vec::len) + filter.as_str().len() / 16
            }
            Record::PartShare { sent, .. } => sent.as_ref().map_or(0, Vec::len),
            _ => 0,
        };
        let weight = places + RECORD_PLACES;
        match parts.last_mut() {
            Some(part) if weight <= room => part.push(record),
            _ => {
                parts.push(vec![record]);
                room = PART_PLACES_MAX;
            }
        }
        room = room.saturating_sub(weight);
    }
    parts
}

/// The groups know that these are done: now their packet ids can be forgotten. In this order, so that nobody who goes on with a session
/// takes a message that is still its own for one that it was never sent.
async fn settle_all(cluster: Cluster, bound: Vec<(Arc<Handle>, Place)>) {
    let mut by_connection: HashMap<u64, (Arc<Handle>, Vec<Place>)> = HashMap::new();
    for (handle, place) in bound {
        let entry = by_connection.entry(handle.number);
        let (_, places) = entry.or_insert_with(|| (handle, Vec::new()));
        places.push(place);
    }
    let settling = by_connection.into_values().map(async |(handle, places)| {
        let (Some(client), Some(epoch)) = (handle.client(), handle.epoch()) else {
            return;
        };
        settle(&cluster, client, epoch, &places).await;
        handle.mailbox.with_shared(|shared| {
            places.iter().for_each(|place| shared.settled(*place));
        });
    });
    futures::future::join_all(settling).await;
}

async fn settle(cluster: &Cluster, client: &ClientId, epoch: Epoch, deliveries: &[Place]) {
    let record = Record::Settle {
        client: client.clone(),
        epoch,
        deliveries: deliveries.to_vec(),
    };
    loop {
        match cluster.commit(client, record.clone()).await {
            Ok(_) | Err(Error::Stopping) => return,
            Err(error) => debug!(%client, %error, "shared deliveries not settled now"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_report_goes_in_parts_and_in_order() {
        let membership = |number| MembershipId(Position(number));
        let positions: Vec<_> = (0..40_000).map(Position).collect();
        let done = HashMap::from_iter([(membership(1), positions.clone())]);
        let part = |member| Record::PartShare {
            member,
            sent: Some(vec![(membership(2), Position(9)); 5000]),
        };
        let parts = in_parts(done, (0..10).map(part).collect());
        assert!(parts.len() > 4);
        let (mut told, mut parted) = (Vec::new(), Vec::new());
        for record in parts.iter().flatten() {
            match record {
                Record::ShareDone { done } => {
                    assert!(parted.is_empty(), "what is done comes first");
                    told.extend(done.iter().flat_map(|(_, positions)| positions.clone()));
                }
                Record::PartShare { member, .. } => parted.push(*member),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, positions);
        assert_eq!(parted, (0..10).collect::<Vec<_>>());
        assert!(parts.iter().all(|part| part.len() <= 4));
        assert!(in_parts(HashMap::default(), Vec::new()).is_empty());
    }
}
