//! Memberships that nobody ends: their Session was subscribed when its node died between two steps, or has ended before its join was
//! committed. The leader asks the partitions of the Sessions about members that are away, and drops those that they know nothing of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use magpie_codec::{Text, TopicFilter};
use magpie_state::partition::{PartitionCommand, PartitionState, ShareMember};
use magpie_state::{ClientId, Epoch, MembershipId, PartitionId, partition_of};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;

use super::{Partition, ShareParts};
use crate::groups::{Groups, group_of};
use crate::proto;

/// Between two rounds. A member that is away at the beginning of one is asked about in the next.
const EVERY: Duration = Duration::from_secs(30);
/// Members that are asked about in one round.
const MEMBERS_MAX: usize = 4096;
/// An answer that takes longer is none.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A proposal that takes longer is looked at again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);

/// What a leader remembers from round to round.
#[derive(Default)]
pub(super) struct Sweep {
    looked: Option<Instant>,
    /// Members that were away when it looked last, with the connections that they had.
    away: HashMap<MembershipId, Epoch>,
    asking: Option<JoinHandle<()>>,
}

/// A member that has been away for a round.
struct Absent {
    membership: MembershipId,
    epoch: Epoch,
    subscriber: proto::Subscriber,
}

impl Sweep {
    /// Begins a round if it is time.
    pub(super) fn look(
        &mut self,
        parts: &Arc<ShareParts>,
        partition: PartitionId,
        group: &Partition,
    ) {
        let is_asking = self.asking.as_ref().is_some_and(|it| !it.is_finished());
        if is_asking || self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut away = HashMap::new();
        let mut absent: HashMap<PartitionId, Vec<Absent>> = HashMap::new();
        let mut count = 0;
        group.with_state(|state: &PartitionState| {
            for known in state.share_groups() {
                for member in known.members() {
                    let Some((client, it)) = absent_of(member, known.filter()) else {
                        continue;
                    };
                    away.insert(it.membership, it.epoch);
                    if self.away.get(&it.membership) == Some(&it.epoch) && count < MEMBERS_MAX {
                        count += 1;
                        let sessions = partition_of(&client.0, parts.partitions);
                        absent.entry(sessions).or_default().push(it);
                    }
                }
            }
        });
        self.away = away;
        if !absent.is_empty() {
            let asking = ask_all(Arc::clone(parts), partition, group.clone(), absent);
            self.asking = Some(tokio::spawn(asking));
        }
    }
}

fn absent_of<'a>(member: &'a ShareMember, filter: &TopicFilter) -> Option<(&'a ClientId, Absent)> {
    let session = member.session().filter(|_| member.at().is_none())?;
    let absent = Absent {
        membership: member.id(),
        epoch: session.epoch,
        subscriber: proto::Subscriber {
            client: session.client.to_string(),
            session: session.session.0,
            filter: filter.to_string(),
        },
    };
    Some((&session.client, absent))
}

async fn ask_all(
    parts: Arc<ShareParts>,
    partition: PartitionId,
    group: Partition,
    absent: HashMap<PartitionId, Vec<Absent>>,
) {
    let mut memberships = Vec::new();
    for (sessions, absent) in absent {
        let request = proto::SubscribedRequest {
            sessions: u32::from(sessions.0),
            subscribers: absent.iter().map(|it| it.subscriber.clone()).collect(),
        };
        // Who does not answer is asked in the next round.
        let Some(reply) = ask(&parts, sessions, request).await else {
            continue;
        };
        if reply.subscribed.len() == absent.len() {
            let unknown = absent
                .iter()
                .zip(reply.subscribed)
                .filter(|(_, known)| !known);
            memberships.extend(unknown.map(|(it, _)| (it.membership, it.epoch)));
        }
    }
    if memberships.is_empty() {
        return;
    }
    tracing::info!(%partition, count = memberships.len(), "dropping members of share groups whose sessions have ended");
    let command = PartitionCommand::DropShares { memberships };
    let _ = tokio::time::timeout(PROPOSE_WITHIN, group.propose(command.encode())).await;
}

async fn ask(
    parts: &ShareParts,
    sessions: PartitionId,
    request: proto::SubscribedRequest,
) -> Option<proto::SubscribedReply> {
    let leader = parts.leaders.leader(group_of(sessions))?;
    if leader == parts.node {
        let answer = serve_subscribed(&parts.groups, request);
        return tokio::time::timeout(ANSWER_WITHIN, answer).await.ok()?.ok();
    }
    let channel = parts.channels.forwarding(leader);
    let mut client = proto::partitions_client::PartitionsClient::new(channel);
    let mut request = tonic::Request::new(request);
    request.set_timeout(ANSWER_WITHIN);
    Some(client.subscribed(request).await.ok()?.into_inner())
}

/// Answers for the Sessions of a partition that this node leads, linearizably.
pub(crate) async fn serve_subscribed(
    groups: &Groups,
    request: proto::SubscribedRequest,
) -> Result<proto::SubscribedReply, Status> {
    let sessions = u16::try_from(request.sessions)
        .map_err(|_| Status::invalid_argument("no such partition"))?;
    let group = groups
        .partition(PartitionId(sessions))
        .ok_or_else(|| Status::failed_precondition("no replica of that partition lives here"))?;
    let unavailable = |error: crate::raft::ReadError| Status::unavailable(error.to_string());
    let index = group.read_index().await.map_err(unavailable)?;
    group.wait_applied(index).await.map_err(unavailable)?;
    let mut subscribed = Vec::with_capacity(request.subscribers.len());
    for it in request.subscribers {
        let client =
            Text::try_from(it.client).map_err(|_| Status::invalid_argument("not a client id"))?;
        let session = group.with_state(|state: &PartitionState| state.session(&ClientId(client)));
        let is_subscribed = session.is_some_and(|session| {
            let mut filters = session.subscriptions.iter();
            session.session.0 == it.session
                && filters.any(|subscription| subscription.filter.as_str() == it.filter)
        });
        subscribed.push(is_subscribed);
        tokio::task::consume_budget().await;
    }
    Ok(proto::SubscribedReply { subscribed })
}
