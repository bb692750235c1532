//! Asking every member, again and again, whether it lives and what it leads.

use std::time::{Duration, UNIX_EPOCH};

use magpie_state::{Incarnation, NodeId, StreamId};
use tokio::time::Instant;
use tonic::Code;

use super::Membership;
use super::load::Load;
use super::peers::{Answer, Report};
use super::proto;
use super::proto::membership_client::MembershipClient;
use crate::Readiness;
use crate::groups::{CONTROL, group_of};
use crate::raft::{GroupId, Members, RaftGroup};
use crate::rpc::Purpose;

/// Between questions while the node is not ready, at most.
const IMPATIENT: Duration = Duration::from_millis(100);

impl Membership {
    /// Asks until the node stops.
    pub(super) async fn ping_all(self) {
        loop {
            self.confirm_own();
            for (node, _) in self.addresses() {
                if node != self.node() && self.inner.peers.begin(node) {
                    tokio::spawn(self.clone().ping(node));
                }
            }
            let usual = self.inner.config.heartbeat * 2;
            let is_ready = *self.inner.readiness.borrow() == Readiness::Ready;
            let pause = if is_ready {
                usual
            } else {
                usual.min(IMPATIENT)
            };
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One question. Whatever it proves was so when it was sent.
    async fn ping(self, node: NodeId) {
        let asked = Instant::now();
        let channel = self.inner.channels.to(node, Purpose::Control);
        let mut client = MembershipClient::new(channel);
        let call = client.ping(proto::PingRequest {});
        let answer = match tokio::time::timeout(self.inner.config.quorum_lost_after, call).await {
            Ok(Ok(reply)) => Some(self.learn(node, asked, &reply.into_inner())),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                // The other node holds this life for over. The control group decides whether it is.
                self.inner.doubted.notify_one();
                None
            }
            Ok(Err(_)) | Err(_) => None,
        };
        self.inner.peers.answered(node, answer);
    }

    fn learn(&self, node: NodeId, asked: Instant, reply: &proto::PingReply) -> Answer {
        for led in &reply.led {
            let group = GroupId(led.group);
            let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
            let members = Members {
                voters: nodes(&led.voters),
                learners: nodes(&led.learners),
                is_joint: led.is_joint,
                index: 0,
            };
            let proven = asked
                .checked_sub(Duration::from_millis(led.since_quorum_ms))
                .unwrap_or(asked);
            self.led(group, node, led.term, proven, asked, members);
        }
        let here_ms = wall_ms() as i64 - (asked.elapsed().as_millis() / 2) as i64;
        Answer {
            asked,
            stream: StreamId {
                node,
                incarnation: Incarnation {
                    counter: reply.counter,
                    nonce: reply.nonce,
                },
            },
            clock_ahead_ms: reply.wall_ms as i64 - here_ms,
            hosted: reply.hosted.iter().copied().map(GroupId).collect(),
            is_draining: reply.is_draining,
            load: reply.load.map_or_else(Load::default, Load::from),
        }
    }

    /// The groups that are led here prove themselves without a question.
    fn confirm_own(&self) {
        let now = Instant::now();
        for led in self.led_here() {
            let since = Duration::from_millis(led.proto.since_quorum_ms);
            let proven = now.checked_sub(since).unwrap_or(now);
            self.led(
                led.group,
                self.node(),
                led.proto.term,
                proven,
                now,
                led.members,
            );
        }
    }

    fn led(
        &self,
        group: GroupId,
        leader: NodeId,
        term: u64,
        proven: Instant,
        asked: Instant,
        members: Members,
    ) {
        self.inner.leaders.confirm(group, leader, term, proven);
        let report = Report {
            leader,
            term,
            asked,
            members,
        };
        self.inner.peers.report(group, report);
    }

    /// The answer to a question of another member.
    pub(super) fn answer_ping(&self) -> proto::PingReply {
        let life = self.inner.identity.incarnation;
        let groups = &self.inner.groups;
        let partitions = groups.partitions();
        let control = groups.control().map(|_| CONTROL.0);
        let partitions = partitions
            .iter()
            .map(|(partition, _)| group_of(*partition).0);
        proto::PingReply {
            counter: life.counter,
            nonce: life.nonce,
            wall_ms: wall_ms(),
            led: self.led_here().into_iter().map(|led| led.proto).collect(),
            hosted: control.into_iter().chain(partitions).collect(),
            is_draining: self.is_draining(),
            load: Some(self.own_load().into()),
        }
    }

    /// Groups that this node leads with a live quorum.
    fn led_here(&self) -> Vec<LedHere> {
        let groups = &self.inner.groups;
        let within = self.inner.config.quorum_lost_after;
        let control = groups
            .control()
            .and_then(|group| led_here(group, self.node(), within));
        let partitions = groups.partitions();
        let partitions = partitions
            .iter()
            .filter_map(|(_, group)| led_here(group, self.node(), within));
        control.into_iter().chain(partitions).collect()
    }
}

/// A group that is led here.
struct LedHere {
    group: GroupId,
    members: Members,
    proto: proto::Led,
}

fn led_here<M: magpie_state::StateMachine>(
    group: &RaftGroup<M>,
    this: NodeId,
    within: Duration,
) -> Option<LedHere> {
    if !group.is_leader() {
        return None;
    }
    let members = group.members();
    let metrics = group.metrics();
    let is_alone = members.voters.len() == 1 && members.voters.contains(&this);
    let since_quorum = if is_alone {
        Duration::ZERO
    } else {
        metrics.since_quorum.filter(|since| *since <= within)?
    };
    let ids = |nodes: &std::collections::BTreeSet<NodeId>| nodes.iter().map(|id| id.0).collect();
    Some(LedHere {
        group: group.group(),
        proto: proto::Led {
            group: group.group().0,
            term: metrics.term,
            since_quorum_ms: since_quorum.as_millis() as u64 + 1,
            voters: ids(&members.voters),
            learners: ids(&members.learners),
            is_joint: members.is_joint,
        },
        members,
    })
}

/// Milliseconds since 1970.
fn wall_ms() -> u64 {
    let since = magpie_failpoint::wall_clock().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
