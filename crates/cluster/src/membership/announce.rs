//! Telling the control group that this node lives, in which life. Until that is committed, the node accepts no clients.

use std::collections::HashMap;
use std::time::Duration;

use magpie_state::control::{ControlAnswer, ControlCommand};

use super::Membership;
use super::proto;
use super::proto::formation_client::FormationClient;
use crate::rpc::PeerChannel;

/// Before another round of attempts, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// One member may take so long; then another is asked.
const CALL_WITHIN: Duration = Duration::from_secs(3);

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
                None => {}
            }
        }
    }

    /// One round: by this node if it leads, else by whichever member or seed passes it on.
    async fn announce_once(
        &self,
        channels: &mut HashMap<String, PeerChannel>,
    ) -> Option<ControlAnswer> {
        let (member, previous) = (self.member(), self.inner.file.previous());
        let is_leader = self.inner.groups.control()?.is_leader();
        if is_leader {
            let command = ControlCommand::Announce { member, previous };
            return self.propose(command).await.ok().map(|(_, answer)| answer);
        }
        let request = proto::AnnounceRequest {
            member: serde_json::to_vec(&member).ok()?.into(),
            previous_counter: previous.counter,
            previous_nonce: previous.nonce,
        };
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
