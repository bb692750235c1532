//! Share groups of the replicated class: the partition's leader picks one member per group and message, and writes the choice into the
//! log with the message, so that every node reads the same choice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use magpie_codec::TopicFilter;
use magpie_failpoint::fail_point;
use magpie_router::{Matches, Policy, Router};
use magpie_state::partition::{
    Append, PartitionAnswer, PartitionCommand, PartitionState, ShareChoice, ShareMemberId,
};
use magpie_state::{PartitionId, Record, StreamId};

use crate::proto;
use crate::raft::{ProposeError, RaftGroup};

/// Bytes of an append beside its records and choices, generously.
const COMMAND_HEAD_BYTES: usize = 256;
/// Bytes of a choice beside its filter, generously.
const CHOICE_BYTES: usize = 48;

/// Whether a node's life can be handed messages now.
pub(crate) type IsReachable = Arc<dyn Fn(StreamId) -> bool + Send + Sync>;

/// One chooser per partition. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Choosers {
    by_partition: Arc<Mutex<HashMap<PartitionId, Arc<Mutex<Chooser>>>>>,
    is_reachable: IsReachable,
}

/// The members of a partition's share groups, and whose turn it is.
pub(crate) struct Chooser {
    /// Of the state that the router was built from.
    generation: u64,
    router: Router<ShareMemberId, ()>,
    matches: Matches,
    is_reachable: IsReachable,
}

impl Choosers {
    pub(crate) fn new(is_reachable: IsReachable) -> Self {
        Self {
            by_partition: Arc::default(),
            is_reachable,
        }
    }

    pub(crate) fn of(&self, partition: PartitionId) -> Arc<Mutex<Chooser>> {
        let mut choosers = self
            .by_partition
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Mutex::new(Chooser {
                generation: 0,
                router: Router::new(),
                matches: Matches::default(),
                is_reachable: Arc::clone(&self.is_reachable),
            }))
        };
        Arc::clone(choosers.entry(partition).or_insert_with(new))
    }
}

impl Chooser {
    fn choose(
        &mut self,
        group: &RaftGroup<PartitionState>,
        records: &Bytes,
        count: u32,
    ) -> Vec<ShareChoice> {
        self.follow(group);
        let mut choices = Vec::new();
        if self.generation == 0 || self.router.share_groups() == 0 {
            return choices;
        }
        // Records and choices have to fit into one entry. A message without a choice is lost to its group, which is counted.
        let mut room = group
            .command_bytes_max()
            .saturating_sub(records.len() + COMMAND_HEAD_BYTES);
        let mut rest = records.clone();
        for ordinal in 0..count {
            let Ok(record) = Record::decode(&mut rest) else {
                break;
            };
            let Record::Publish(publish) = record else {
                continue;
            };
            if publish.retain_only {
                continue;
            }
            self.router
                .matches(&publish.message.topic, &mut self.matches);
            for share in self.router.shares(&self.matches) {
                let reachable = |member: ShareMemberId, (): &()| (self.is_reachable)(member.stream);
                // With nobody reachable, somebody: a node that is only slow gets it in time.
                let picked = share.group.pick(Policy::RoundRobin, reachable);
                let picked = picked.or_else(|| share.group.pick(Policy::RoundRobin, |_, ()| true));
                let filter =
                    TopicFilter::try_from(format!("$share/{}/{}", share.name, share.filter));
                if let (Some((member, ())), Ok(filter)) = (picked, filter) {
                    let bytes = filter.as_str().len() + CHOICE_BYTES;
                    if bytes > room {
                        metrics::counter!("magpie_share_choices_dropped_total").increment(1);
                        continue;
                    }
                    room -= bytes;
                    choices.push(ShareChoice {
                        ordinal,
                        filter,
                        member,
                    });
                }
            }
        }
        choices
    }

    /// Catches up with the partition's applied state.
    fn follow(&mut self, group: &RaftGroup<PartitionState>) {
        let known = self.generation;
        let fresh = group.with_state(|state| {
            let generation = state.share_generation();
            (generation != known).then(|| {
                let mut router = Router::new();
                for (filter, members) in state.share_groups() {
                    for member in members {
                        // A table that is full leaves members out; joining is bounded by the subscriptions' limit.
                        let _ = router.subscribe(filter, *member, ());
                    }
                }
                (generation, router)
            })
        });
        if let Some((generation, router)) = fresh {
            self.generation = generation;
            self.router = router;
        }
    }
}

/// Proposes a batch of `stream` on the leader, with the choices for its share groups.
pub(crate) async fn propose_append(
    group: &RaftGroup<PartitionState>,
    chooser: &Mutex<Chooser>,
    stream: StreamId,
    batch: proto::AppendBatch,
    done: impl FnOnce(Result<(u64, PartitionAnswer), ProposeError>) + Send + 'static,
) {
    let proto::AppendBatch {
        seq,
        count,
        has_control,
        records,
        ..
    } = batch;
    fail_point!("leader.taken", [&records]);
    let choices = chooser
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .choose(group, &records, count);
    let append = Append {
        stream,
        seq,
        has_control,
        count,
        choices,
        records,
    };
    group
        .submit(PartitionCommand::Append(append).encode(), done)
        .await;
}
