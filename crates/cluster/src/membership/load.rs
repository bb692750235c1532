//! What each node carries, told with the answers to pings: for people who watch, nothing is decided by it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use magpie_state::control::MemberState;
use magpie_state::partition::PartitionState;
use magpie_state::{NodeId, StreamId};

use super::Membership;
use super::proto;

/// What a node that did not answer for so long was carrying says nothing any more.
const OLD_AFTER: Duration = Duration::from_secs(10);

/// What one node carries. Counts of messages and bytes are since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Attached clients.
    pub clients: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// PUBLISH packets from clients.
    pub messages_received: u64,
    /// Payload bytes of those.
    pub bytes_received: u64,
    /// PUBLISH packets to clients.
    pub messages_sent: u64,
    /// Payload bytes of those.
    pub bytes_sent: u64,
    /// Deliveries that were not made.
    pub messages_dropped: u64,
    /// Sessions that wait for their client, in the partitions that the node leads.
    pub sessions_waiting: u64,
    /// Retained messages, in the partitions that the node leads.
    pub retained: u64,
}

/// What one member carries, as it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLoad {
    /// Identity.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Whether it is the node that is asked.
    pub is_this: bool,
    /// What it carries.
    pub load: Load,
}

/// What this node carries, as the broker said last.
pub(super) struct OwnLoad {
    load: Mutex<Load>,
    started: Instant,
}

impl Default for OwnLoad {
    fn default() -> Self {
        Self {
            load: Mutex::default(),
            started: Instant::now(),
        }
    }
}

impl Membership {
    /// Takes what the broker knows of this node's load.
    pub(crate) fn tell_load(&self, load: Load) {
        *self
            .inner
            .load
            .load
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = load;
    }

    /// This node's load, with what it leads.
    pub(super) fn own_load(&self) -> Load {
        let own = &self.inner.load;
        let mut load = *own.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.uptime_s = own.started.elapsed().as_secs();
        for (_, group) in self.inner.groups.partitions() {
            if group.is_leader() {
                let (waiting, retained) = group.with_state(|state: &PartitionState| {
                    let waiting =
                        state.session_count() - state.attachment_count().min(state.session_count());
                    (waiting, state.retained_count())
                });
                load.sessions_waiting += waiting as u64;
                load.retained += retained as u64;
            }
        }
        load
    }

    /// What the members carry that are up and answered lately, this node first.
    pub(crate) fn loads(&self) -> Vec<NodeLoad> {
        let members = self.state(|state| {
            let up = state.members().values();
            let up = up.filter(|member| member.state == MemberState::Up);
            let life = |member: &magpie_state::control::Member| StreamId {
                node: member.id,
                incarnation: member.incarnation,
            };
            up.map(|member| (life(member), member.name.clone()))
                .collect::<Vec<_>>()
        });
        let mut loads: Vec<NodeLoad> = members
            .into_iter()
            .filter_map(|(life, name)| {
                let is_this = life.node == self.node();
                let load = match is_this {
                    true => Some(self.own_load()),
                    false => self.inner.peers.load_of(life, OLD_AFTER),
                };
                load.map(|load| NodeLoad {
                    node: life.node,
                    name,
                    is_this,
                    load,
                })
            })
            .collect();
        loads.sort_by_key(|load| (!load.is_this, load.node));
        loads
    }
}

impl From<Load> for proto::Load {
    fn from(load: Load) -> Self {
        Self {
            uptime_s: load.uptime_s,
            clients: load.clients,
            subscriptions: load.subscriptions,
            messages_received: load.messages_received,
            bytes_received: load.bytes_received,
            messages_sent: load.messages_sent,
            bytes_sent: load.bytes_sent,
            messages_dropped: load.messages_dropped,
            sessions_waiting: load.sessions_waiting,
            retained: load.retained,
        }
    }
}

impl From<proto::Load> for Load {
    fn from(load: proto::Load) -> Self {
        Self {
            uptime_s: load.uptime_s,
            clients: load.clients,
            subscriptions: load.subscriptions,
            messages_received: load.messages_received,
            bytes_received: load.bytes_received,
            messages_sent: load.messages_sent,
            bytes_sent: load.bytes_sent,
            messages_dropped: load.messages_dropped,
            sessions_waiting: load.sessions_waiting,
            retained: load.retained,
        }
    }
}
