//! The policy: the tables, compiled to be asked by every connection.

mod rule_set;
mod trie;

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::sync::Arc;

use crate::{Action, Ban, BanTarget, Effect, Network, Snapshot, Subject, Tables, User};
use rule_set::RuleSet;

/// What a node goes by; does not change, and is shared by all its connections.
#[derive(Debug, Default)]
pub struct Policy {
    tables: Snapshot,
    rules: Arc<RuleSet>,
}

impl Policy {
    /// Compiles the tables.
    #[must_use]
    pub fn new(tables: &Tables) -> Self {
        Self::default().followed_by(tables.snapshot())
    }

    /// Compiles what has changed since this policy.
    #[must_use]
    pub fn followed_by(&self, tables: Snapshot) -> Self {
        let is_same = Arc::ptr_eq(&tables.rules, &self.tables.rules)
            || tables.rules_revision == self.tables.rules_revision;
        let rules = match is_same {
            true => Arc::clone(&self.rules),
            false => Arc::new(RuleSet::new(&tables.rules)),
        };
        Self { tables, rules }
    }

    /// The tables that this is made of.
    #[must_use]
    pub const fn tables(&self) -> &Snapshot {
        &self.tables
    }

    /// Grows with every change of users, rules or bans.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.tables.revision
    }

    /// Grows with every change of the rules. What [`may_publish`](Self::may_publish) said of a subject holds as long as this does not change.
    #[must_use]
    pub const fn rules_revision(&self) -> u64 {
        self.tables.rules_revision
    }

    /// No rule exists: whoever brings no rules of its own may do everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tables.rules.is_empty()
    }

    /// Whether any user exists.
    #[must_use]
    pub const fn has_users(&self) -> bool {
        self.tables.user_count() > 0
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.tables.user(name)
    }

    /// A ban of this client, this user (as proven), or this address, that holds at `now_ms` (milliseconds since 1970).
    #[must_use]
    pub fn ban_of(
        &self,
        client_id: &str,
        username: Option<&str>,
        address: IpAddr,
        now_ms: u64,
    ) -> Option<&Ban> {
        if self.tables.ban_count() == 0 {
            return None;
        }
        let user = username.map(|name| BanTarget::User(name.to_owned()));
        self.ban(&BanTarget::Client(client_id.to_owned()), now_ms)
            .or_else(|| self.ban(&user?, now_ms))
            .or_else(|| self.address_ban(address, now_ms))
    }

    /// A ban of this address or of a network that it is in, that holds at `now_ms`: can be asked before anything was read.
    #[must_use]
    pub fn address_ban(&self, address: IpAddr, now_ms: u64) -> Option<&Ban> {
        if self.tables.ban_count() == 0 {
            return None;
        }
        let address = address.to_canonical();
        self.ban(&BanTarget::Address(address), now_ms).or_else(|| {
            let kinds = self.tables.networks.keys();
            kinds
                .filter(|(is_v4, _)| *is_v4 == address.is_ipv4())
                .filter_map(|(_, bits)| Network::of(address, *bits))
                .find_map(|network| self.ban(&BanTarget::Network(network), now_ms))
        })
    }

    fn ban(&self, target: &BanTarget, now_ms: u64) -> Option<&Ban> {
        let ban = self.tables.bans.get(target)?;
        ban.holds(now_ms).then_some(ban)
    }

    /// Whether the subject may publish to this topic (a Topic Name).
    #[must_use]
    pub fn may_publish(&self, subject: &Subject, topic: &str) -> bool {
        self.decides(subject, Action::Publish, topic)
    }

    /// Whether the subject may subscribe with this Topic Filter; of `$share/name/filter` the caller passes `filter`.
    ///
    /// Allowed is what one allow pattern covers whole and no deny pattern touches, so that nothing has to be asked for each delivery.
    #[must_use]
    pub fn may_subscribe(&self, subject: &Subject, filter: &str) -> bool {
        self.decides(subject, Action::Subscribe, filter)
    }

    /// Whether the subject may still read a stored or retained message of this topic (a Topic Name).
    #[must_use]
    pub fn may_read(&self, subject: &Subject, topic: &str) -> bool {
        self.decides(subject, Action::Subscribe, topic)
    }

    fn decides(&self, subject: &Subject, action: Action, filter: &str) -> bool {
        if subject.is_superuser {
            return true;
        }
        let own = subject.own_rules.as_deref();
        if self.is_open() && own.is_none() {
            return true;
        }
        let applies = |effect| {
            own.unwrap_or_default().iter().any(|rule| {
                rule.effect == effect
                    && rule.action.includes(action)
                    && rule.is_about(subject)
                    && match effect {
                        Effect::Allow => rule.pattern.covers(filter, subject),
                        Effect::Deny => rule.pattern.overlaps(filter, subject),
                    }
            })
        };
        if applies(Effect::Deny) {
            return false;
        }
        match self.rules.verdict(subject, action, filter) {
            Some(Effect::Deny) => false,
            Some(Effect::Allow) => true,
            None => applies(Effect::Allow),
        }
    }
}
