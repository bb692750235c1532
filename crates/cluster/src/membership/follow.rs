//! Following the control group's state: addresses, lives, settings, and what it says about this node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use magpie_state::NodeId;
use magpie_state::control::{ControlState, MemberState};
use tokio::sync::watch;

use super::Membership;
use super::replicas::raft_config;
use crate::Fatal;
use crate::groups::CONTROL;
use crate::raft::{GroupParts, RaftGroup};

impl Membership {
    /// Starts the control group, once the cluster is known.
    pub(super) async fn start_control(&self) -> Result<(), String> {
        let inner = &self.inner;
        for (node, address) in self.addresses() {
            inner.channels.directory().set(node, address);
        }
        let group = RaftGroup::<ControlState>::start(GroupParts {
            group: CONTROL,
            node: self.node(),
            log: inner.log.clone(),
            store: Arc::clone(&inner.store),
            channels: inner.channels.clone(),
            registry: inner.registry.clone(),
            config: raft_config(&inner.config),
            observer: Arc::new(()),
            hold: Arc::new(u64::MAX.into()),
        })
        .await
        .map_err(|error| error.to_string())?;
        self.watch_failure(group.fatal());
        let applied = group.watch_applied();
        inner.groups.set_control(group);
        self.follow_state();
        self.follow_policy().await;
        tokio::spawn(self.clone().follow(applied));
        Ok(())
    }

    /// A group that stopped itself stops the node.
    pub(super) fn watch_failure(&self, mut failure: watch::Receiver<Option<Arc<str>>>) {
        let (fatal, stop) = (self.inner.fatal.clone(), self.inner.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                failed = failure.wait_for(Option::is_some) => {
                    let why = failed.ok().and_then(|why| why.clone());
                    if let Some(why) = why.filter(|_| !stop.is_cancelled()) {
                        fatal.trip(Fatal::Disk(why.to_string()));
                    }
                }
            }
        });
    }

    async fn follow(self, mut applied: watch::Receiver<u64>) {
        loop {
            let index = *applied.borrow_and_update();
            self.follow_state();
            // Before anybody is told: what was applied here holds here.
            self.follow_policy().await;
            self.inner.applied.send_replace(index);
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
            }
        }
    }

    fn follow_state(&self) {
        let inner = &self.inner;
        let known = inner.lives.load();
        let (lives, addresses, settings) = self.state(|state| {
            let members = state.members().values();
            let lives: BTreeMap<_, _> = members
                .clone()
                .map(|member| (member.id, (member.incarnation, member.state)))
                .collect();
            let addresses: Vec<_> = members
                .map(|member| (member.id, member.cluster_addr.clone()))
                .collect();
            let settings = state.cluster().map(|_| state.settings().clone());
            (lives, addresses, settings)
        });
        inner.settings.send_if_modified(|known| {
            let changed = *known != settings;
            *known = settings;
            changed
        });
        if addresses.is_empty() {
            return;
        }
        for (node, address) in addresses {
            inner.channels.directory().set(node, address);
        }
        if **known != lives {
            let members: BTreeSet<NodeId> = lives.keys().copied().collect();
            let before = inner.channels.directory().watch().borrow().clone();
            for gone in before.keys().filter(|node| !members.contains(node)) {
                inner.channels.directory().remove(*gone);
                inner.channels.forget(*gone);
            }
            inner.peers.retain(&members);
            inner.lives.store(Arc::new(lives));
        }
        self.look_at_self();
    }

    /// What the state says about this node may be the end of this life.
    fn look_at_self(&self) {
        let here = self.stream();
        let (known, is_former) = self.state(|state| {
            let known = state.members().get(&here.node);
            let known = known.map(|member| (member.incarnation, member.state));
            (known, state.is_former(here.node))
        });
        match known {
            None if is_former => self.left(),
            Some((life, MemberState::Down)) if life == here.incarnation => self.declared_down(),
            Some((life, _)) if life.counter > here.incarnation.counter => self.fenced(life),
            Some((life, _))
                if life.counter == here.incarnation.counter && life != here.incarnation =>
            {
                self.fenced(life);
            }
            _ => {}
        }
    }

    pub(super) fn left(&self) {
        let fatal = Fatal::Fenced(
            self.inner
                .file
                .fence("this node was removed from the cluster, or replaced"),
        );
        self.inner.fatal.trip(fatal);
    }

    pub(super) fn declared_down(&self) {
        let why = "the cluster declared this node down while it was cut off; it has to start again";
        self.inner.fatal.trip(Fatal::Down(String::from(why)));
    }

    pub(super) fn fenced(&self, newest: magpie_state::Incarnation) {
        let why = format!(
            "it is an old copy: the cluster knows a newer life of this node (start {} of it)",
            newest.counter
        );
        self.inner
            .fatal
            .trip(Fatal::Fenced(self.inner.file.fence(&why)));
    }
}
