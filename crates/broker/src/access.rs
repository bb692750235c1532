//! Who may do what on this node: who is asked, the newest policy, and what follows for those who are connected when it changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use magpie_access::Policy;
use magpie_audit::{Audit, Refusal, What};
use magpie_auth::{Authenticator, Identity};
use magpie_cluster::Cluster;
use magpie_session::Eviction;
use tokio::sync::watch;

use crate::clock;
use crate::handle::Handle;
use crate::mailbox::Post;
use crate::node::Shared;

/// Connections that are looked at before others get their turn.
const STEP: usize = 256;

/// What connections share of it.
pub(crate) struct Access {
    pub(crate) authenticator: Authenticator,
    pub(crate) audit: Audit,
    /// What the salts of users who are not there are made of.
    pub(crate) scram_secret: [u8; 32],
    policy: watch::Receiver<Arc<Policy>>,
    /// Of the policy, or of one just before it; readable without a lock.
    rules_revision: AtomicU64,
}

impl Access {
    pub(crate) fn new(authenticator: Authenticator, audit: Audit, cluster: &Cluster) -> Self {
        Self {
            authenticator,
            audit,
            scram_secret: cluster.derive_key("scram users that are not there"),
            rules_revision: AtomicU64::new(0),
            policy: cluster.policy(),
        }
    }

    /// The newest policy.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    /// Whether what was asked under these rules is to be asked anew.
    pub(crate) fn has_newer_rules_than(&self, revision: u64) -> bool {
        self.rules_revision.load(Ordering::Relaxed) > revision
    }

    /// Tells the audit log.
    pub(crate) fn refused(
        &self,
        what: What,
        why: &'static str,
        handle: &Handle,
        topic: Option<&str>,
    ) {
        let identity = handle.identity();
        let user = identity
            .as_ref()
            .and_then(|it| it.subject.username.as_deref());
        let client = handle.client().map_or("", |client| &client.0);
        self.tell(what, why, client, user, handle.peer.remote, topic);
    }

    /// Tells the audit log of somebody who is not known yet.
    pub(crate) fn tell(
        &self,
        what: What,
        why: &'static str,
        client: &str,
        user: Option<&str>,
        remote: SocketAddr,
        topic: Option<&str>,
    ) {
        self.audit.refused(&Refusal {
            what,
            why,
            client,
            user,
            remote: Some(remote),
            topic,
        });
    }

    /// Why somebody who was let in cannot stay, under this policy.
    pub(crate) fn objection(
        policy: &Policy,
        identity: &Identity,
        remote: SocketAddr,
    ) -> Option<Eviction> {
        let subject = &identity.subject;
        let username = subject.username.as_deref();
        let ban = policy.ban_of(&subject.client_id, username, remote.ip(), clock::wall_ms());
        if ban.is_some() {
            Some(Eviction::Banned)
        } else if !identity.holds(policy) {
            Some(Eviction::NotAuthorized)
        } else {
            None
        }
    }
}

/// Follows the policy until the node stops. A connection that begins meanwhile looks for itself once it is in the registry.
pub(crate) async fn run(node: Arc<Shared>, mut changes: watch::Receiver<Arc<Policy>>) {
    let mut rules_revision = None;
    loop {
        let policy = Arc::clone(&changes.borrow_and_update());
        let revision = policy.rules_revision();
        node.access
            .rules_revision
            .store(revision, Ordering::Relaxed);
        let has_other_rules = rules_revision.is_some_and(|seen| seen != revision);
        rules_revision = Some(revision);
        for (count, handle) in node.registry.handles().iter().enumerate() {
            look_at(&node, &policy, has_other_rules, handle);
            if count % STEP == STEP - 1 {
                tokio::task::yield_now().await;
            }
        }
        tokio::select! {
            () = node.stopped() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// A connection goes if its client may not stay. What it may still read, its own task finds out.
fn look_at(node: &Shared, policy: &Policy, has_other_rules: bool, handle: &Handle) {
    let Some(identity) = handle.identity() else {
        return;
    };
    if let Some(why) = Access::objection(policy, &identity, handle.peer.remote) {
        node.access.refused(What::Stay, why_not(why), handle, None);
        handle.mailbox.evict(why);
    } else if has_other_rules && !identity.subject.is_superuser {
        // One that is closing needs it no more.
        let _ = handle.mailbox.post(Post::RulesChanged);
    }
}

/// For the audit log.
pub(crate) const fn why_not(why: Eviction) -> &'static str {
    match why {
        Eviction::Banned => "banned",
        _ => "the user is gone or was changed",
    }
}
