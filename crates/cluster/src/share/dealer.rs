//! Dealing, by the leader of a partition.
//!
//! One deal is under way at a time; what commits meanwhile is in the next. A message is dealt after it is committed, from the log: so a
//! group that was joined before the message has it, whoever led when it was proposed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use magpie_codec::QoS;
use magpie_state::partition::{
    GroupDeals, PartitionCommand, PartitionState, ShareGroup, Skip, waiting,
};
use magpie_state::{PartitionId, Position, ShareGroupId};
use tokio::time::Instant;

use super::pending::{Pending, Taker};
use super::sweep::Sweep;
use super::topics::Topics;
use super::{Partition, ShareParts};
use crate::fetch;
use crate::tail::{Entry, Read, Reader};

/// Whether there are groups is looked at so often at most.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Members whose nodes do not answer are looked at again so often.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Messages of one deal.
const DEALS_MAX: usize = 8192;
/// Bytes of messages that are fetched at once, for a group that is behind.
const FETCH_BYTES: usize = 256 << 10;
/// Groups that are behind and are fetched for in one round.
const FETCHES_MAX: usize = 16;
/// A proposal that takes longer is looked at again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

/// Sees to one replica whenever it leads.
pub(super) async fn tend(parts: Arc<ShareParts>, partition: PartitionId, group: Partition) {
    let mut applied = group.watch_applied();
    let mut leadership = group.watch_leadership();
    loop {
        applied.mark_unchanged();
        if leadership.borrow_and_update().is_here && has_groups(&group) {
            let dealer = Dealer::new(Arc::clone(&parts), partition, group.clone());
            tokio::select! {
                () = parts.stop.cancelled() => return,
                () = group.stopped() => return,
                () = dealer.deal_while_leading() => {}
            }
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            () = group.stopped() => return,
            _ = applied.changed(), if leadership.borrow().is_here => {}
            _ = leadership.changed() => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn has_groups(group: &Partition) -> bool {
    group.with_state(|state| state.share_generation() > 0 && state.share_groups().next().is_some())
}

/// What a leader knows of its partition's groups.
struct Dealer {
    parts: Arc<ShareParts>,
    partition: PartitionId,
    group: Partition,
    reader: Reader,
    /// Of the state that `topics` and the groups were taken from.
    generation: u64,
    topics: Topics,
    groups: HashMap<ShareGroupId, Pending>,
    /// Those that have messages ready, or are behind.
    busy: BTreeSet<ShareGroupId>,
    sweep: Sweep,
    told: Instant,
}

/// A group with something to deal, as the state has it.
struct Table {
    group: ShareGroupId,
    takers: Vec<Taker>,
    returned: Vec<(Position, QoS)>,
}

impl Dealer {
    fn new(parts: Arc<ShareParts>, partition: PartitionId, group: Partition) -> Self {
        let feed = parts.feeds.of(partition);
        let reader = Reader::new(group.clone(), feed, group.applied());
        Self {
            parts,
            partition,
            group,
            reader,
            generation: 0,
            topics: Topics::default(),
            groups: HashMap::new(),
            busy: BTreeSet::new(),
            sweep: Sweep::default(),
            told: Instant::now(),
        }
    }

    /// Returns when another node leads, when there are no groups any more, or when it has to begin anew.
    async fn deal_while_leading(mut self) {
        let mut applied = self.group.watch_applied();
        let mut leadership = self.group.watch_leadership();
        while leadership.borrow_and_update().is_here {
            applied.mark_unchanged();
            self.follow();
            if self.groups.is_empty() || self.read().await.is_none() {
                break;
            }
            self.tell();
            self.sweep.look(&self.parts, self.partition, &self.group);
            let mut tables = self.look();
            self.fetch(&tables).await;
            let deals = self.deal(&mut tables);
            if deals.is_empty() {
                tokio::select! {
                    _ = applied.changed() => {}
                    _ = leadership.changed() => {}
                    () = tokio::time::sleep(WAIT_MAX) => {}
                }
                continue;
            }
            let command = PartitionCommand::Deal { deals }.encode();
            let proposal = tokio::time::timeout(PROPOSE_WITHIN, self.group.propose(command)).await;
            if !matches!(proposal, Ok(Ok(_))) {
                // Whether it was dealt, the state will tell.
                break;
            }
        }
        gauge("magpie_share_open_messages", self.partition, 0);
        gauge("magpie_share_pending_messages", self.partition, 0);
    }

    /// Takes over the groups as the state has them.
    fn follow(&mut self) {
        let known = self.generation;
        let groups = self.group.with_state(|state| {
            let generation = state.share_generation();
            let place = |group: &ShareGroup| (group.id(), group.filter().clone(), group.next());
            (generation != known).then(|| {
                (
                    generation,
                    state.share_groups().map(place).collect::<Vec<_>>(),
                )
            })
        });
        let Some((generation, groups)) = groups else {
            return;
        };
        self.generation = generation;
        self.topics = Topics::default();
        let mut before = std::mem::take(&mut self.groups);
        for (id, filter, next) in groups {
            let filter = filter.unshared();
            self.topics.insert(filter.clone(), id);
            let pending = before.remove(&id);
            let pending = pending.unwrap_or_else(|| Pending::new(id, filter, next));
            if !pending.is_live {
                self.busy.insert(id);
            }
            self.groups.insert(id, pending);
        }
        self.busy.retain(|id| self.groups.contains_key(id));
    }

    /// Reads what was committed since. `None`: the replica is gone.
    async fn read(&mut self) -> Option<()> {
        let applied = self.group.applied();
        while self.reader.position() < applied {
            let before = Position::end_of(self.reader.position());
            match self.reader.next().await {
                Read::Entries { entries, .. } => {
                    entries.iter().for_each(|entry| self.pass(entry));
                }
                Read::Gap { upto } => {
                    self.reader.pass_over(upto);
                    for (id, pending) in &mut self.groups {
                        pending.missed(before);
                        self.busy.insert(*id);
                    }
                }
                Read::Stopped => return None,
            }
        }
        Some(())
    }

    fn pass(&mut self, entry: &Entry) {
        let Ok(PartitionCommand::Append(append)) = PartitionCommand::decode(&entry.command) else {
            return;
        };
        let skip = match &entry.refused.0[..] {
            [] => Skip::Nothing,
            refused => Skip::Records(refused),
        };
        for message in waiting(&entry.command, &append, skip) {
            let position = Position::at(entry.index, message.ordinal);
            self.topics.for_each_match(&message.topic, |id| {
                if let Some(pending) = self.groups.get_mut(&id).filter(|it| it.is_live) {
                    pending.pass(position, message.qos);
                    self.busy.insert(id);
                }
            });
        }
    }

    /// Where there is something to deal and somebody to take it.
    fn look(&mut self) -> Vec<Table> {
        let (window, membership) = (self.parts.window, &self.parts.membership);
        let mut deserted = Vec::new();
        let tables = self.group.with_state(|state| {
            let returned = state.share_groups_with_returned().map(ShareGroup::id);
            let concerned: BTreeSet<_> = returned.chain(self.busy.iter().copied()).collect();
            let groups = concerned.into_iter().filter_map(|id| state.share_group(id));
            let tables = groups.map(|group| {
                if group.members().all(|member| member.at().is_none()) {
                    deserted.push((group.id(), group.next()));
                }
                let taking = group.members().filter_map(|member| {
                    let room = window.saturating_sub(member.open_count());
                    let at = member.at().filter(|_| room > 0)?;
                    membership.is_reachable(at.stream).then_some(Taker {
                        member: member.id(),
                        room,
                    })
                });
                Table {
                    group: group.id(),
                    takers: taking.collect(),
                    returned: group.returned().take(DEALS_MAX).collect(),
                }
            });
            tables
                .filter(|table| !table.takers.is_empty())
                .collect::<Vec<_>>()
        });
        for (id, next) in deserted {
            // When somebody comes, the members change.
            self.busy.remove(&id);
            if let Some(pending) = self.groups.get_mut(&id) {
                pending.rest(next);
            }
        }
        tables
    }

    /// Fetches what groups that are behind can take.
    async fn fetch(&mut self, tables: &[Table]) {
        let Some(index) = self.parts.groups.index(self.partition) else {
            return;
        };
        let read = Position::end_of(self.reader.position());
        let mut fetches = 0;
        for table in tables {
            let pending = self.groups.get_mut(&table.group);
            let Some((pending, after)) = pending
                .and_then(|it| Some((it.wants_fetch()?, it)))
                .map(|(after, it)| (it, after))
            else {
                continue;
            };
            if fetches == FETCHES_MAX {
                return;
            }
            fetches += 1;
            let filters = [pending.filter.clone()];
            match index.fetch(&filters, after, FETCH_BYTES).await {
                Ok(fetched) => {
                    let upto = fetched.upto;
                    let items = fetch::Fetched::from(fetched).items.into_iter();
                    pending.fetched(items.map(|item| (item.position, item.qos)), upto, read);
                }
                Err(error) => {
                    tracing::debug!(partition = %self.partition, %error, "messages of a share group not read now");
                }
            }
        }
    }

    fn deal(&mut self, tables: &mut [Table]) -> Vec<GroupDeals> {
        let read = Position::end_of(self.reader.position());
        let (mut deals, mut room) = (Vec::new(), DEALS_MAX);
        for table in tables {
            let Some(pending) = self.groups.get_mut(&table.group) else {
                continue;
            };
            let returned = std::mem::take(&mut table.returned);
            let was_returned = returned.len();
            let dealt = pending.deal(returned, &mut table.takers, room, read);
            if let Some(dealt) = dealt {
                room -= dealt.deals.len();
                let again = dealt.deals.len().min(was_returned) as u64;
                metrics::counter!("magpie_share_redelivered_total").increment(again);
                deals.push(dealt);
            }
            if pending.ready() == 0 && pending.is_live {
                self.busy.remove(&table.group);
            }
        }
        deals
    }

    /// Tells now and then how much is open and waits.
    fn tell(&mut self) {
        if self.told.elapsed() < WAIT_MAX {
            return;
        }
        self.told = Instant::now();
        let open = self.group.with_state(|state: &PartitionState| {
            state.share_groups().map(ShareGroup::open_count).sum()
        });
        let pending = self.groups.values().map(Pending::ready).sum();
        gauge("magpie_share_open_messages", self.partition, open);
        gauge("magpie_share_pending_messages", self.partition, pending);
    }
}

fn gauge(name: &'static str, partition: PartitionId, value: usize) {
    metrics::gauge!(name, "partition" => partition.to_string()).set(value as f64);
}
