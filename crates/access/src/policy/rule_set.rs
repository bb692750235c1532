//! The rules by whom they are about, each as a trie.

use std::collections::BTreeMap;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::trie::{Effects, Trie};
use crate::{Action, Effect, Rule, RuleId, Subject, Who};

/// All rules of the cluster, so arranged that a subject is only held against those about it.
#[derive(Debug, Default)]
pub(super) struct RuleSet {
    everybody: Trie,
    anonymous: Trie,
    users: HashMap<Box<str>, Trie, RandomState>,
    clients: HashMap<Box<str>, Trie, RandomState>,
}

impl RuleSet {
    pub(super) fn new(rules: &BTreeMap<RuleId, Rule>) -> Self {
        let mut set = Self::default();
        for rule in rules.values() {
            let trie = match &rule.who {
                Who::Everybody => &mut set.everybody,
                Who::Anonymous => &mut set.anonymous,
                Who::User(name) => set.users.entry_ref(&**name).or_default(),
                Who::Client(id) => set.clients.entry_ref(&**id).or_default(),
            };
            trie.insert(&rule.pattern, Effects::of(rule.effect, rule.action));
        }
        set
    }

    /// What the rules say on `action` (publish or subscribe), if anything.
    pub(super) fn verdict(
        &self,
        subject: &Subject,
        action: Action,
        filter: &str,
    ) -> Option<Effect> {
        let allow = Effects::of(Effect::Allow, action);
        let deny = Effects::of(Effect::Deny, action);
        let is_exact = !filter.bytes().any(|byte| matches!(byte, b'+' | b'#'));
        let by_name = match &subject.username {
            Some(name) => self.users.get(name.as_str()),
            None => Some(&self.anonymous),
        };
        let by_client = self.clients.get(subject.client_id.as_str());
        let mut is_allowed = false;
        for trie in [Some(&self.everybody), by_name, by_client]
            .into_iter()
            .flatten()
        {
            // Without wildcards, to be covered and to be touched are the same: one walk finds both.
            let asked = if is_exact { allow | deny } else { allow };
            let found = trie.covering(filter, subject, asked, deny);
            let is_denied = found.has(deny) || (!is_exact && trie.overlaps(filter, subject, deny));
            if is_denied {
                return Some(Effect::Deny);
            }
            is_allowed |= found.has(allow);
        }
        is_allowed.then_some(Effect::Allow)
    }
}
