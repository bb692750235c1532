//! Who belongs to the cluster, in which life, and where replicas live: forming, joining, starting, dying.
//!
//! What is agreed on stands in the control group's state; this module acts on it. [`formation`] gives a blank node its cluster,
//! [`announce`] tells each new life to the control group, [`ping`] watches the other members and learns who leads, [`replicas`] starts and
//! stops replicas as the placement says, [`control_duties`] and [`partition_duties`] are what leaders do. It knows no message and no client.

mod access;
mod announce;
mod control_duties;
mod follow;
mod formation;
mod forward;
mod load;
mod paced;
mod partition_clock;
mod partition_duties;
mod peers;
mod ping;
mod proto;
mod replicas;
mod retention_duty;
mod retention_rules;
mod service;
mod session_bytes_duty;
mod stand_in;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use magpie_access::Policy;
use magpie_state::control::{ControlState, Member, MemberState, Settings};
use magpie_state::partition::PartitionState;
use magpie_state::{Incarnation, NodeId, PartitionId, StreamId};
use magpie_storage::{KeyValue, Log};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::fatal::FatalSwitch;
use crate::groups::Groups;
use crate::identity_file::IdentityFile;
use crate::leaders::Leaders;
use crate::raft::{Observer, Registry};
use crate::rpc::{Channels, Guard, Identity};
use crate::stream::Stream;
use crate::{Config, Event, Readiness, StartError};
use load::OwnLoad;
pub use load::{Load, NodeLoad};
use paced::Paced;
use peers::Peers;

/// What watches the apply of a new replica, and the lowest index that somebody still reads.
pub(crate) type FeedOf =
    Arc<dyn Fn(PartitionId) -> (Arc<dyn Observer<PartitionState>>, Arc<AtomicU64>) + Send + Sync>;

/// What membership is made of.
pub(crate) struct MembershipParts {
    pub(crate) config: Arc<Config>,
    /// Of the open data directory; `identity` was made from it.
    pub(crate) identity_file: IdentityFile,
    pub(crate) identity: Arc<Identity>,
    pub(crate) channels: Channels,
    pub(crate) guard: Guard,
    pub(crate) registry: Registry,
    pub(crate) log: Log,
    pub(crate) store: Arc<dyn KeyValue>,
    pub(crate) groups: Groups,
    pub(crate) leaders: Leaders,
    pub(crate) feed_of: FeedOf,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) fatal: FatalSwitch,
    pub(crate) stop: CancellationToken,
}

/// This node's part in the cluster. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    file: IdentityFile,
    identity: Arc<Identity>,
    channels: Channels,
    guard: Guard,
    registry: Registry,
    log: Log,
    store: Arc<dyn KeyValue>,
    groups: Groups,
    leaders: Leaders,
    feed_of: FeedOf,
    events: mpsc::Sender<Event>,
    fatal: FatalSwitch,
    stop: CancellationToken,
    peers: Peers,
    /// What is known before the control group runs.
    blank: ControlState,
    applied: watch::Sender<u64>,
    settings: watch::Sender<Option<Settings>>,
    /// What follows from the users, rules and bans as applied here.
    policy: watch::Sender<Arc<Policy>>,
    readiness: watch::Sender<Readiness>,
    /// This life stands in the control group's state.
    announced: watch::Sender<bool>,
    /// This life stands in the state as applied here, so that the policy is no older than this start.
    is_policy_current: AtomicBool,
    /// Another node refused this life.
    doubted: Notify,
    is_draining: AtomicBool,
    load: OwnLoad,
    /// What the node waits for while it forms or joins.
    waiting: Paced,
    /// Held while this node takes on a cluster, which it does once.
    taking_on: tokio::sync::Mutex<()>,
    /// This node's streams into all partitions, once it has them.
    streams: OnceLock<Vec<Stream>>,
    /// Lives that no partition takes anything from.
    refused: Mutex<BTreeSet<StreamId>>,
    /// Lives of the members as this node knows them, for the doorkeeper.
    lives: Arc<arc_swap::ArcSwap<BTreeMap<NodeId, (Incarnation, MemberState)>>>,
}

impl Membership {
    /// Starts the groups that are on disk, and returns. Forming or joining a cluster, announcing this life, and everything that follows goes
    /// on in the background until `stop`.
    ///
    /// # Errors
    /// A group on disk that cannot be opened.
    pub(crate) async fn start(parts: MembershipParts) -> Result<Self, StartError> {
        let this = Self {
            inner: Arc::new(Inner {
                config: parts.config,
                file: parts.identity_file,
                identity: parts.identity,
                channels: parts.channels,
                guard: parts.guard,
                registry: parts.registry,
                log: parts.log,
                store: parts.store,
                groups: parts.groups,
                leaders: parts.leaders,
                feed_of: parts.feed_of,
                events: parts.events,
                fatal: parts.fatal,
                stop: parts.stop,
                peers: Peers::default(),
                blank: ControlState::default(),
                applied: watch::Sender::new(0),
                settings: watch::Sender::new(None),
                policy: watch::Sender::default(),
                readiness: watch::Sender::new(Readiness::NotReady(String::from("starting"))),
                announced: watch::Sender::new(false),
                is_policy_current: AtomicBool::new(false),
                doubted: Notify::new(),
                is_draining: AtomicBool::new(false),
                load: OwnLoad::default(),
                waiting: Paced::default(),
                taking_on: tokio::sync::Mutex::default(),
                streams: OnceLock::new(),
                refused: Mutex::default(),
                lives: Arc::default(),
            }),
        };
        this.set_doorkeeper();
        if let Some(cluster) = this.inner.file.cluster() {
            this.inner.identity.join(cluster);
            // Groups start to read their state; they take part once `clear` says so.
            this.inner.registry.hold_back();
            this.start_control().await.map_err(StartError::DataDir)?;
            this.start_partitions_on_disk()
                .await
                .map_err(StartError::DataDir)?;
            tokio::spawn(this.clone().clear());
        }
        tokio::spawn(this.clone().find_cluster());
        tokio::spawn(this.clone().announce());
        tokio::spawn(this.clone().ping_all());
        tokio::spawn(this.clone().place_replicas());
        tokio::spawn(this.clone().lead_control());
        tokio::spawn(this.clone().watch_readiness());
        tokio::spawn(this.clone().stand_in_for_the_gone());
        Ok(this)
    }

    /// This node.
    pub(crate) fn node(&self) -> NodeId {
        self.inner.identity.node
    }

    /// The way into all partitions. Called once, when they are known.
    pub(crate) fn lead_through(&self, streams: Vec<Stream>) {
        let _ = self.inner.streams.set(streams);
    }

    /// This node in this life.
    pub(crate) fn stream(&self) -> StreamId {
        StreamId {
            node: self.inner.identity.node,
            incarnation: self.inner.identity.incarnation,
        }
    }

    /// Reads the control group's state as applied here; before the group runs, an empty one.
    pub(crate) fn state<R>(&self, read: impl FnOnce(&ControlState) -> R) -> R {
        match self.inner.groups.control() {
            Some(control) => control.with_state(read),
            None => read(&self.inner.blank),
        }
    }

    /// Index of the control log up to which it is applied here, growing.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// Returns when `index` of the control log is applied here; never, if the node stops before.
    pub(crate) async fn wait_applied(&self, index: u64) {
        let mut applied = self.applied();
        if applied.wait_for(|applied| *applied >= index).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this node may accept clients.
    pub(crate) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.inner.readiness.subscribe()
    }

    /// The cluster's settings, once they are known.
    pub(crate) fn settings(&self) -> watch::Receiver<Option<Settings>> {
        self.inner.settings.subscribe()
    }

    /// Whether that life of a node answered lately.
    pub(crate) fn is_reachable(&self, stream: StreamId) -> bool {
        let age = self.inner.config.quorum_lost_after;
        stream == self.stream() || self.inner.peers.is_reachable(stream, age)
    }

    /// Whether this node knows that a life is over. Cheap enough to be asked for every batch.
    pub(crate) fn is_over(&self, stream: StreamId) -> bool {
        let lives = self.inner.lives.load();
        lives
            .get(&stream.node)
            .is_some_and(|(known, state)| match stream.incarnation == *known {
                true => *state == MemberState::Down,
                false => stream.incarnation.counter <= known.counter,
            })
    }

    fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::Relaxed)
    }

    /// This node as a member, in this life.
    fn member(&self) -> Member {
        let config = &self.inner.config;
        Member {
            id: self.node(),
            incarnation: self.inner.identity.incarnation,
            name: config.node_name.clone(),
            cluster_addr: config.cluster_advertise.clone(),
            http_addr: config.http_addr.clone(),
            mqtt_addr: config.mqtt_addr.clone(),
            state: MemberState::Up,
        }
    }

    /// Every member with its address, as far as this node knows.
    fn addresses(&self) -> Vec<(NodeId, String)> {
        let members: Vec<_> = self.state(|state| {
            let members = state.members().values();
            members
                .map(|member| (member.id, member.cluster_addr.clone()))
                .collect()
        });
        if !members.is_empty() {
            return members;
        }
        match self.inner.file.founding() {
            Some(founding) => founding
                .members
                .into_iter()
                .map(|member| (member.id, member.cluster_addr))
                .collect(),
            None => self.inner.file.addresses(),
        }
    }

    /// The seeds in an order that is the same on all nodes.
    fn seeds(&self) -> Vec<String> {
        let mut seeds = self.inner.config.seeds.clone();
        seeds.sort();
        seeds.dedup();
        seeds
    }

    /// Refuses calls of lives that are over.
    fn set_doorkeeper(&self) {
        let lives = Arc::clone(&self.inner.lives);
        self.inner.guard.set_doorkeeper(move |peer| {
            let lives = lives.load();
            let Some((known, state)) = lives.get(&peer.node) else {
                // Perhaps a newcomer that this node has not heard of yet.
                return Ok(());
            };
            let life = peer.incarnation;
            if life.counter < known.counter || (life.counter == known.counter && life != *known) {
                return Err(format!("node {} has a newer life", peer.node));
            }
            if life == *known && *state == MemberState::Down {
                return Err(format!("this life of node {} was declared down", peer.node));
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests;
