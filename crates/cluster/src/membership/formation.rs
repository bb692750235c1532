//! How a blank node gets its cluster: it forms one with the other seeds, or joins the one that a seed belongs to.
//!
//! ```text
//! blank --- no seeds ------------------------------------> founding record on disk, alone
//!   |------ all seeds blank, same list, distinct nodes
//!   |          lowest id: draws the cluster -------------> founding record on disk, tells the others
//!   |          others: told by it, or by a seed's record -> founding record on disk
//!   '------ a seed has a cluster that does not name us ---> join committed there -> cluster on disk
//! founding record on disk -> control group -> (blank?) initialized with the founders -> Form committed
//! ```
//! Each step is on disk before the next begins, and a restart goes on where it was. Initializing is safe on every founder, since all of
//! them write the same first entry, and a founder that has lost its data has another identity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use magpie_state::control::{Member, Settings};
use magpie_state::{ClusterId, NodeId};

use super::proto::formation_client::FormationClient;
use super::service::{cluster_of, from_json, to_json};
use super::{Membership, proto};
use crate::Fatal;
use crate::identity_file::{Founding, draw};
use crate::rpc::PeerChannel;

/// Between rounds, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(1000);
/// A seed that takes longer does not answer.
const HELLO_WITHIN: Duration = Duration::from_secs(1);
/// A join waits for a commit, perhaps through an election.
const JOIN_WITHIN: Duration = Duration::from_secs(12);
/// More voters make each commit of the control group slower.
const VOTERS_MAX: usize = 5;

/// How many of `members` vote: an odd number up to five, or both of two.
pub(super) const fn voter_count(members: usize) -> usize {
    match members {
        0..=2 => members,
        VOTERS_MAX.. => VOTERS_MAX,
        _ => (members - 1) | 1,
    }
}

/// What one seed said.
struct Said {
    seed: String,
    member: Member,
    seeds: Vec<String>,
    cluster: Option<ClusterId>,
    founding: Option<Founding>,
}

/// What to do after a round of questions.
enum Next {
    Wait(String),
    Join(String),
    TakeOn(Founding),
    Found(Vec<Member>),
}

impl Membership {
    /// Runs until the cluster is known and, on a founder, until the control group is initialized.
    pub(super) async fn find_cluster(self) {
        let work = async {
            if self.inner.file.cluster().is_none() {
                self.form_or_join().await;
            }
            if let Some(founding) = self.inner.file.founding() {
                self.initialize_control(&founding).await;
            }
        };
        tokio::select! {
            () = self.inner.stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn form_or_join(&self) {
        let seeds = self.seeds();
        let channels: BTreeMap<String, PeerChannel> = seeds
            .iter()
            .map(|seed| (seed.clone(), self.inner.channels.stranger(seed)))
            .collect();
        let mut pause = PAUSE_MIN;
        while self.inner.file.cluster().is_none() {
            let next = if seeds.is_empty() {
                Next::Found(vec![self.member()])
            } else {
                let questions = channels.iter().map(|(seed, channel)| hello(seed, channel));
                let answers = futures::future::join_all(questions).await;
                self.judge(&seeds, answers.into_iter().flatten().collect())
            };
            let outcome = match next {
                Next::Wait(why) => Err(why),
                Next::Join(seed) => self.join_through(&seed, &channels[&seed]).await,
                Next::TakeOn(founding) => self.take_on_founding(founding).await,
                Next::Found(members) => self.found(members).await,
            };
            match outcome {
                Ok(()) => return,
                Err(why) => self.inner.waiting.say(&why),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
        }
    }

    /// The rules of forming and joining.
    fn judge(&self, seeds: &[String], said: Vec<Said>) -> Next {
        let this = self.node();
        for said in &said {
            if let Some(founding) = &said.founding
                && founding.members.iter().any(|member| member.id == this)
            {
                return Next::TakeOn(founding.clone());
            }
        }
        let clusters: BTreeSet<ClusterId> = said.iter().filter_map(|said| said.cluster).collect();
        if clusters.len() > 1 {
            return Next::Wait(String::from(
                "the seeds belong to different clusters: correct the list of seeds",
            ));
        }
        if let Some(with_data) = said.iter().find(|said| said.cluster.is_some()) {
            return Next::Join(with_data.seed.clone());
        }
        let silent: Vec<&str> = seeds
            .iter()
            .filter(|seed| said.iter().all(|said| said.seed != **seed))
            .map(String::as_str)
            .collect();
        if !silent.is_empty() {
            return Next::Wait(format!(
                "waiting for seeds to answer: {}",
                silent.join(", ")
            ));
        }
        if let Some(other) = said.iter().find(|said| said.seeds != seeds) {
            return Next::Wait(format!(
                "{} was started with another list of seeds",
                other.seed
            ));
        }
        let members: BTreeMap<NodeId, Member> = said
            .into_iter()
            .map(|said| (said.member.id, said.member))
            .collect();
        if members.len() != seeds.len() {
            return Next::Wait(String::from(
                "two seeds are the same node: correct the list of seeds",
            ));
        }
        let advertised = &self.inner.config.cluster_advertise;
        if !seeds.contains(advertised) || !members.contains_key(&this) {
            return Next::Wait(format!(
                "the advertised address {advertised} is not among the seeds: waiting for the seeds to form a cluster"
            ));
        }
        match members.keys().next() {
            Some(lowest) if *lowest == this => Next::Found(members.into_values().collect()),
            Some(lowest) => Next::Wait(format!("node {lowest} is to form the cluster")),
            None => Next::Wait(String::from("no seeds")),
        }
    }

    /// This node draws the cluster.
    async fn found(&self, members: Vec<Member>) -> Result<(), String> {
        let config = &self.inner.config;
        let draw = || draw().map_err(|error| error.to_string());
        let founding = Founding {
            cluster: ClusterId(u128::from(draw()?) << 64 | u128::from(draw()?)),
            settings: Settings {
                partitions: config.partitions,
                replication_factor: config.replication_factor,
                direct_filters: config.direct_filters.clone(),
            },
            members,
        };
        tracing::info!(cluster = %founding.cluster, nodes = founding.members.len(), "forming a cluster");
        self.take_on_founding(founding).await
    }

    /// Writes the founding record and starts the control group, unless the node has a cluster: the same one is fine.
    pub(super) async fn take_on_founding(&self, founding: Founding) -> Result<(), String> {
        let _one = self.inner.taking_on.lock().await;
        match self.inner.file.cluster() {
            Some(cluster) if cluster == founding.cluster => return Ok(()),
            Some(cluster) => return Err(format!("this node belongs to cluster {cluster}")),
            None => {}
        }
        if founding
            .members
            .iter()
            .all(|member| member.id != self.node())
        {
            return Err(format!("node {} is not among the founders", self.node()));
        }
        let (file, cluster) = (self.inner.file.clone(), founding.cluster);
        self.take_on(cluster, move || file.set_founding(founding))
            .await
    }

    async fn join_through(&self, seed: &str, channel: &PeerChannel) -> Result<(), String> {
        let request = proto::JoinRequest {
            member: to_json(&self.member()).into(),
        };
        let mut client = FormationClient::new(channel.clone());
        let reply = match tokio::time::timeout(JOIN_WITHIN, client.join(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => {
                return Err(format!("cannot join through {seed}: {}", status.message()));
            }
            Err(_) => return Err(format!("cannot join through {seed}: no answer")),
        };
        if !reply.refused.is_empty() {
            return Err(format!("cannot join: {}", reply.refused));
        }
        let cluster = cluster_of(&reply.cluster).ok_or("no cluster id in the answer")?;
        let addresses = reply.addresses.into_iter();
        let addresses: Vec<_> = addresses
            .map(|known| (NodeId(known.node), known.address))
            .collect();
        let _one = self.inner.taking_on.lock().await;
        if self.inner.file.cluster().is_some() {
            return Ok(());
        }
        tracing::info!(%cluster, through = seed, "joining a cluster");
        let file = self.inner.file.clone();
        self.take_on(cluster, move || file.set_joined(cluster, addresses))
            .await
    }

    /// The cluster is on disk before anything is sent in its name.
    async fn take_on(
        &self,
        cluster: ClusterId,
        write: impl FnOnce() -> Result<(), magpie_storage::Error> + Send + 'static,
    ) -> Result<(), String> {
        let written = tokio::task::spawn_blocking(write).await;
        written
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        self.inner.identity.join(cluster);
        self.start_control().await.inspect_err(|why| {
            // The node has its cluster, and only a restart tries again.
            self.inner.fatal.trip(Fatal::Disk(why.clone()));
        })
    }

    /// Gives the control group its first members, once: the lowest founder at once, others if nothing happened for a while.
    async fn initialize_control(&self, founding: &Founding) {
        let Some(control) = self.inner.groups.control() else {
            return;
        };
        let ids: BTreeSet<NodeId> = founding.members.iter().map(|member| member.id).collect();
        let voters: BTreeSet<NodeId> = ids.iter().copied().take(voter_count(ids.len())).collect();
        if !voters.contains(&self.node()) {
            return;
        }
        if ids.first() == Some(&self.node()) {
            self.tell_founders(founding).await;
        } else {
            tokio::time::sleep(self.inner.config.election_timeout * 3).await;
        }
        while control.members().voters.is_empty() {
            if let Err(error) = control.initialize(&voters).await {
                self.inner
                    .waiting
                    .say(&format!("the control group cannot begin: {error}"));
                tokio::time::sleep(PAUSE_MIN).await;
            }
        }
    }

    /// Returns when every other founder has the record on disk, or a majority and some time has passed.
    async fn tell_founders(&self, founding: &Founding) {
        let request = proto::FoundRequest {
            founding: to_json(founding).into(),
            seeds: self.seeds(),
        };
        let mut open: BTreeMap<NodeId, PeerChannel> = founding
            .members
            .iter()
            .filter(|member| member.id != self.node())
            .map(|member| {
                (
                    member.id,
                    self.inner.channels.stranger(&member.cluster_addr),
                )
            })
            .collect();
        let told = tokio::time::Instant::now();
        loop {
            let has_majority = open.len() * 2 < founding.members.len();
            let is_late = told.elapsed() > self.inner.config.election_timeout * 2;
            let is_done = self
                .inner
                .groups
                .control()
                .is_some_and(|group| !group.members().voters.is_empty());
            if open.is_empty() || is_done || (has_majority && is_late) {
                return;
            }
            let calls = open.iter().map(async |(node, channel)| {
                let mut client = FormationClient::new(channel.clone());
                let call = tokio::time::timeout(HELLO_WITHIN, client.found(request.clone()));
                (*node, call.await.is_ok_and(|reply| reply.is_ok()))
            });
            for (node, has_it) in futures::future::join_all(calls).await {
                if has_it {
                    open.remove(&node);
                }
            }
            if !open.is_empty() {
                let names: Vec<_> = open.keys().map(ToString::to_string).collect();
                self.inner
                    .waiting
                    .say(&format!("waiting for founders: {}", names.join(", ")));
                tokio::time::sleep(PAUSE_MIN).await;
            }
        }
    }
}

async fn hello(seed: &str, channel: &PeerChannel) -> Option<Said> {
    let mut client = FormationClient::new(channel.clone());
    let call = client.hello(proto::HelloRequest {});
    let reply = tokio::time::timeout(HELLO_WITHIN, call).await.ok()?;
    let reply = reply
        .inspect_err(|status| tracing::debug!(seed, %status, "seed does not answer"))
        .ok()?
        .into_inner();
    Some(Said {
        seed: seed.to_owned(),
        member: from_json(&reply.member).ok()?,
        seeds: reply.seeds,
        cluster: cluster_of(&reply.cluster),
        founding: from_json(&reply.founding).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::voter_count;

    #[test]
    fn voters_are_odd_but_for_two_nodes() {
        let counts: Vec<_> = (0..8).map(voter_count).collect();
        assert_eq!(counts, [0, 1, 2, 3, 3, 5, 5, 5]);
    }
}
