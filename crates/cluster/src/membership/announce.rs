//! Telling the control group that this node lives, in which life. Until that is committed, the node accepts no clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use magpie_state::NodeId;
use magpie_state::control::{ControlAnswer, ControlCommand};
use tokio::time::Instant;

use super::Membership;
use super::proto;
use super::proto::formation_client::FormationClient;
use super::service::to_json;
use crate::rpc::PeerChannel;

/// Before another round of attempts, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// One member may take so long; then another is asked.
const CALL_WITHIN: Duration = Duration::from_secs(3);
/// A question that needs no commit.
const JUDGE_WITHIN: Duration = Duration::from_secs(1);

impl Membership {
    /// Announces this life, and again whenever another node doubts it.
    pub(super) async fn announce(self) {
        let mut channels = HashMap::new();
        let mut pause = PAUSE_MIN;
        loop {
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            if self.inner.groups.control().is_none() {
                pause = PAUSE_MIN;
                continue;
            }
            match self.announce_once(&mut channels).await {
                Some(ControlAnswer::Done) => {
                    self.inner.announced.send_replace(true);
                    channels.clear();
                    tokio::select! {
                        () = self.inner.stop.cancelled() => return,
                        () = self.inner.doubted.notified() => pause = PAUSE_MIN,
                    }
                }
                Some(ControlAnswer::Fenced { newest }) => return self.fenced(newest),
                Some(ControlAnswer::Down) => return self.declared_down(),
                Some(ControlAnswer::Left) => return self.left(),
                // Not a member: a founder that is faster than the cluster's first command.
                Some(ControlAnswer::Refused(why)) => {
                    self.inner.waiting.say(&format!("not announced: {why}"));
                    pause = pause.min(PAUSE_MIN * 4);
                }
                Some(ControlAnswer::RoutesRefused { .. } | ControlAnswer::Access(_)) | None => {}
            }
        }
    }

    /// After a start with a cluster: keeps this node out of every Raft group until it is known that its directory is not an old copy.
    ///
    /// A committed announcement settles it. While there is no leader to commit one, as when all nodes start at once, every member that
    /// answers is asked, and a majority of them has to know nothing against this life.
    pub(super) async fn clear(self) {
        let mut announced = self.inner.announced.subscribe();
        let others = self.addresses().into_iter();
        let others: BTreeMap<NodeId, PeerChannel> = others
            .filter(|(node, _)| *node != self.node())
            .map(|(node, address)| (node, self.inner.channels.stranger(&address)))
            .collect();
        let started = Instant::now();
        while !others.is_empty() && !self.inner.fatal.is_tripped() {
            if self.is_cleared_by(&others, started).await {
                break;
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                _ = announced.wait_for(|announced| *announced) => break,
                () = tokio::time::sleep(PAUSE_MIN) => {}
            }
        }
        if !self.inner.fatal.is_tripped() {
            self.inner.registry.open();
        }
    }

    /// One round of questions. Those that do not answer are waited for a little.
    async fn is_cleared_by(
        &self,
        others: &BTreeMap<NodeId, PeerChannel>,
        started: Instant,
    ) -> bool {
        let request = self.announcement();
        let calls = others.iter().map(async |(node, channel)| {
            let mut client = FormationClient::new(channel.clone());
            let call = client.judge(request.clone());
            let reply = tokio::time::timeout(JUDGE_WITHIN, call).await.ok()?.ok()?;
            let answer: ControlAnswer = serde_json::from_slice(&reply.into_inner().answer).ok()?;
            Some((*node, answer))
        });
        let answers = futures::future::join_all(calls).await.into_iter().flatten();
        let mut clearing = BTreeSet::from([self.node()]);
        for (node, answer) in answers {
            match answer {
                ControlAnswer::Fenced { newest } => self.fenced(newest),
                ControlAnswer::Left => self.left(),
                // Not heard of here: nothing is known against it.
                ControlAnswer::Done
                | ControlAnswer::Down
                | ControlAnswer::Refused(_)
                | ControlAnswer::RoutesRefused { .. }
                | ControlAnswer::Access(_) => {
                    clearing.insert(node);
                }
            }
        }
        if self.inner.fatal.is_tripped() {
            return false;
        }
        let voters = self
            .inner
            .groups
            .control()
            .map(|group| group.members().voters);
        let voters = voters
            .filter(|voters| !voters.is_empty())
            .unwrap_or_else(|| {
                let all = others.keys().copied();
                all.chain([self.node()]).collect()
            });
        let is_majority = voters.intersection(&clearing).count() * 2 > voters.len();
        let is_complete = clearing.len() > others.len();
        is_majority && (is_complete || started.elapsed() > self.inner.config.election_timeout / 2)
    }

    fn announcement(&self) -> proto::AnnounceRequest {
        let previous = self.inner.file.previous();
        proto::AnnounceRequest {
            member: to_json(&self.member()).into(),
            previous_counter: previous.counter,
            previous_nonce: previous.nonce,
        }
    }

    /// One round: by this node if it leads, else by whichever member or seed passes it on.
    async fn announce_once(
        &self,
        channels: &mut HashMap<String, PeerChannel>,
    ) -> Option<ControlAnswer> {
        let is_leader = self.inner.groups.control()?.is_leader();
        if is_leader {
            let (member, previous) = (self.member(), self.inner.file.previous());
            let command = ControlCommand::Announce { member, previous };
            return self.propose(command).await.ok().map(|(_, answer)| answer);
        }
        let request = self.announcement();
        let others = self.addresses().into_iter();
        let others = others.filter(|(node, _)| *node != self.node());
        let mut addresses: Vec<String> = others.map(|(_, address)| address).collect();
        for seed in self.seeds() {
            if !addresses.contains(&seed) && seed != self.inner.config.cluster_advertise {
                addresses.push(seed);
            }
        }
        for address in addresses {
            let channel = channels
                .entry(address)
                .or_insert_with_key(|address| self.inner.channels.stranger(address));
            let mut client = FormationClient::new(channel.clone());
            let call = client.announce(request.clone());
            let reply = tokio::time::timeout(CALL_WITHIN, call).await;
            if let Ok(Ok(reply)) = reply
                && let Ok(answer) = serde_json::from_slice(&reply.into_inner().answer)
            {
                return Some(answer);
            }
        }
        None
    }
}
