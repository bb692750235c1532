//! What one connection may do: its identity under the newest policy, with what was asked of it lately.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use magpie_access::Policy;
use magpie_auth::Identity;
use magpie_codec::{TopicFilter, TopicName};

use crate::access::Access;
use crate::sys_topics;

/// Topics whose answer is kept; past it, all are forgotten.
const ASKED_MAX: usize = 256;
/// A longer topic is asked about each time: a client must not have us keep 64 KiB for each of its topics.
const ASKED_BYTES_MAX: usize = 256;

/// The permit of a client that was let in.
#[derive(Debug)]
pub(crate) struct Permit {
    identity: Arc<Identity>,
    policy: Arc<Policy>,
    /// There are no rules for it.
    is_open: bool,
    /// Topics that it has published to, and whether it may.
    asked: HashMap<TopicName, bool, RandomState>,
    /// Of its Will Message.
    will_topic: Option<TopicName>,
    expires_at: Option<Instant>,
    /// The rules have changed since all SUBSCRIBEs that wait were asked about.
    has_other_rules: bool,
}

impl Permit {
    pub(crate) fn new(identity: Arc<Identity>, policy: Arc<Policy>, now: Instant) -> Self {
        let expires_at = expiry(&identity, now);
        Self {
            is_open: is_open(&identity, &policy),
            identity,
            policy,
            asked: HashMap::default(),
            will_topic: None,
            expires_at,
            has_other_rules: false,
        }
    }

    /// It has shown anew who it is.
    pub(crate) fn renew(&mut self, identity: Arc<Identity>, now: Instant) {
        self.expires_at = expiry(&identity, now);
        self.identity = identity;
        self.adopt(Arc::clone(&self.policy));
    }

    pub(crate) const fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// When it ends by itself.
    pub(crate) const fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// Whether it may publish to a topic. Where there are no rules, some comparisons. What nodes tell in `$SYS/` comes from them alone (section
    /// 4.7.2).
    pub(crate) fn may_publish(&mut self, access: &Access, topic: &TopicName) -> bool {
        if sys_topics::is_reserved(topic) {
            return false;
        }
        self.follow(access);
        if self.is_open {
            return true;
        }
        if let Some(answer) = self.asked.get(topic) {
            return *answer;
        }
        let answer = self
            .policy
            .may_publish(&self.identity.subject, topic.as_str());
        if topic.as_str().len() <= ASKED_BYTES_MAX {
            if self.asked.len() >= ASKED_MAX {
                self.asked.clear();
            }
            self.asked.insert(topic.compact(), answer);
        }
        answer
    }

    /// Whether it may subscribe, shared or not.
    pub(crate) fn may_subscribe(&mut self, access: &Access, filter: &TopicFilter) -> bool {
        self.follow(access);
        self.is_open
            || self
                .policy
                .may_subscribe(&self.identity.subject, filter.filter())
    }

    /// Whether subscriptions that were asked about are to be looked at again; `is_last`: none waits any more.
    pub(crate) fn must_look_again(&mut self, access: &Access, is_last: bool) -> bool {
        self.follow(access);
        let must = self.has_other_rules && !self.is_open;
        self.has_other_rules &= !is_last;
        must
    }

    /// Notes where its will is to go. False if it may not.
    pub(crate) fn leave_will(&mut self, access: &Access, topic: &TopicName) -> bool {
        let topic = topic.compact();
        let is_allowed = self.may_publish(access, &topic);
        self.will_topic = Some(topic);
        is_allowed
    }

    /// Whether its will must not be sent any more.
    pub(crate) fn forbids_will(&mut self, access: &Access) -> bool {
        match self.will_topic.take() {
            Some(topic) => !self.may_publish(access, &topic),
            None => false,
        }
    }

    /// Gives back what an idle client does not need.
    pub(crate) fn shrink(&mut self) {
        self.asked = HashMap::default();
    }

    fn follow(&mut self, access: &Access) {
        if access.has_newer_rules_than(self.policy.rules_revision()) {
            self.adopt(access.policy());
        }
    }

    fn adopt(&mut self, policy: Arc<Policy>) {
        self.is_open = is_open(&self.identity, &policy);
        self.policy = policy;
        self.has_other_rules = true;
        self.asked.clear();
    }
}

fn is_open(identity: &Identity, policy: &Policy) -> bool {
    let subject = &identity.subject;
    subject.is_superuser || (policy.is_open() && subject.own_rules.is_none())
}

fn expiry(identity: &Identity, now: Instant) -> Option<Instant> {
    let at = identity.expires_at?;
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    now.checked_add(left)
}
