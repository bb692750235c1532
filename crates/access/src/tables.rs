//! What operators have set, replicated to every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ban::REASON_BYTES_MAX;
use crate::name::check_name;
use crate::shards::Shards;
use crate::{Ban, BanTarget, Change, Changed, Error, Key, Rule, RuleId, User, UserIs};

/// Most users.
pub const USERS_MAX: usize = 1_000_000;
/// Most rules.
pub const RULES_MAX: usize = 10_000;
/// Most bans.
pub const BANS_MAX: usize = 100_000;

/// Users, rules and bans. Equal on all nodes that applied the same changes.
#[derive(Debug, Default)]
pub struct Tables {
    pub(crate) now: Snapshot,
    /// The last number that a rule was given.
    pub(crate) last_rule: RuleId,
    /// Bans that end, by their end.
    ban_ends: BTreeSet<(u64, BanTarget)>,
}

/// What the tables were at some time: costs next to nothing to take, and does not change.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(crate) users: Shards<String, Arc<User>>,
    pub(crate) rules: Arc<BTreeMap<RuleId, Rule>>,
    pub(crate) bans: Shards<BanTarget, Ban>,
    /// How many networks of a family and a number of bits are banned.
    pub(crate) networks: Arc<BTreeMap<(bool, u8), usize>>,
    pub(crate) revision: u64,
    pub(crate) rules_revision: u64,
}

impl Tables {
    /// How often anything has changed.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.now.revision
    }

    /// The tables as they are.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// Does a change, and adds to `touched` which rows differ now.
    ///
    /// # Errors
    /// A change that breaks a rule or a limit; nothing was changed then.
    pub fn apply(&mut self, change: Change, touched: &mut Vec<Key>) -> Result<Changed, Error> {
        let before = touched.len();
        let changed = match change {
            Change::SetUser { name, user, expect } => self.set_user(name, user, expect, touched),
            Change::SetPassword {
                name,
                password,
                scram,
            } => Ok(self.edit_user(name, touched, |user| {
                user.password = password;
                user.scram = scram;
            })),
            Change::SetSuperuser { name, is_superuser } => {
                Ok(self.edit_user(name, touched, |user| user.is_superuser = is_superuser))
            }
            Change::RemoveUser { name } => Ok(match self.now.users.remove(&name) {
                Some(_) => done(touched, Key::User(name)),
                None => Changed::Absent,
            }),
            Change::AddRule { rule } => self.add_rule(rule, touched),
            Change::RemoveRule { id } => Ok(self.remove_rule(id, touched)),
            Change::AddBan {
                target,
                ban,
                now_ms,
            } => self.add_ban(target, ban, now_ms, touched),
            Change::RemoveBan { target, now_ms } => {
                let removed = match self.drop_ban(&target) {
                    true => done(touched, Key::Ban(target)),
                    false => Changed::Absent,
                };
                self.drop_ended_bans(now_ms, touched);
                Ok(removed)
            }
        };
        if touched.len() > before {
            self.now.revision += 1;
            touched.push(Key::Counters);
        }
        changed
    }

    fn set_user(
        &mut self,
        name: String,
        user: User,
        expect: UserIs,
        touched: &mut Vec<Key>,
    ) -> Result<Changed, Error> {
        check_name(&name)?;
        match self.now.users.get(&name) {
            // The same with the same salt: the answer to it was lost.
            Some(known) if **known == user => return Ok(Changed::Done),
            Some(_) if expect == UserIs::New => return Err(Error::UserExists),
            None if self.now.users.len() >= USERS_MAX => {
                return Err(Error::Full(USERS_MAX, "users"));
            }
            _ => {}
        }
        self.now.users.insert(name.clone(), Arc::new(user));
        Ok(done(touched, Key::User(name)))
    }

    fn edit_user(
        &mut self,
        name: String,
        touched: &mut Vec<Key>,
        edit: impl FnOnce(&mut User),
    ) -> Changed {
        let Some(known) = self.now.users.get(&name) else {
            return Changed::Absent;
        };
        let mut user = User::clone(known);
        edit(&mut user);
        if user == **known {
            return Changed::Done;
        }
        self.now.users.insert(name.clone(), Arc::new(user));
        done(touched, Key::User(name))
    }

    fn add_rule(&mut self, rule: Rule, touched: &mut Vec<Key>) -> Result<Changed, Error> {
        let rules = &mut self.now.rules;
        if let Some((id, _)) = rules.iter().find(|(_, known)| **known == rule) {
            return Ok(Changed::Rule(*id));
        }
        if rules.len() >= RULES_MAX {
            return Err(Error::Full(RULES_MAX, "rules"));
        }
        self.last_rule.0 += 1;
        self.now.rules_revision += 1;
        Arc::make_mut(rules).insert(self.last_rule, rule);
        touched.push(Key::Rule(self.last_rule));
        Ok(Changed::Rule(self.last_rule))
    }

    fn remove_rule(&mut self, id: RuleId, touched: &mut Vec<Key>) -> Changed {
        if !self.now.rules.contains_key(&id) {
            // Numbers are not given again: one that was given is of a rule that is removed, whoever asks for it once more.
            return match RuleId(1) <= id && id <= self.last_rule {
                true => Changed::Done,
                false => Changed::Absent,
            };
        }
        Arc::make_mut(&mut self.now.rules).remove(&id);
        self.now.rules_revision += 1;
        done(touched, Key::Rule(id))
    }

    fn add_ban(
        &mut self,
        target: BanTarget,
        ban: Ban,
        now_ms: u64,
        touched: &mut Vec<Key>,
    ) -> Result<Changed, Error> {
        target.check()?;
        if ban.reason.len() > REASON_BYTES_MAX {
            return Err(Error::Reason);
        }
        self.drop_ended_bans(now_ms, touched);
        if !ban.holds(now_ms) {
            // Over before it begins: what is left of the one that it replaces.
            if self.drop_ban(&target) {
                touched.push(Key::Ban(target));
            }
            return Ok(Changed::Done);
        }
        match self.now.bans.get(&target) {
            Some(known) if *known == ban => return Ok(Changed::Done),
            None if self.now.bans.len() >= BANS_MAX => return Err(Error::Full(BANS_MAX, "bans")),
            _ => {}
        }
        self.drop_ban(&target);
        self.put_ban(target.clone(), ban);
        Ok(done(touched, Key::Ban(target)))
    }

    fn drop_ended_bans(&mut self, now_ms: u64, touched: &mut Vec<Key>) {
        while let Some((until_ms, target)) = self.ban_ends.first()
            && *until_ms <= now_ms
        {
            let target = target.clone();
            self.drop_ban(&target);
            touched.push(Key::Ban(target));
        }
    }

    pub(crate) fn put_ban(&mut self, target: BanTarget, ban: Ban) {
        if let Some(until_ms) = ban.until_ms {
            self.ban_ends.insert((until_ms, target.clone()));
        }
        if let BanTarget::Network(network) = &target {
            let networks = Arc::make_mut(&mut self.now.networks);
            *networks
                .entry((network.is_v4(), network.bits()))
                .or_default() += 1;
        }
        self.now.bans.insert(target, ban);
    }

    fn drop_ban(&mut self, target: &BanTarget) -> bool {
        let Some(ban) = self.now.bans.remove(target) else {
            return false;
        };
        if let Some(until_ms) = ban.until_ms {
            self.ban_ends.remove(&(until_ms, target.clone()));
        }
        if let BanTarget::Network(network) = target {
            let networks = Arc::make_mut(&mut self.now.networks);
            let kind = (network.is_v4(), network.bits());
            let count = networks.get_mut(&kind);
            let count = count.expect("counted when the ban was put");
            *count -= 1;
            if *count == 0 {
                networks.remove(&kind);
            }
        }
        true
    }
}

impl Snapshot {
    /// How often anything had changed.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many users there are.
    #[must_use]
    pub const fn user_count(&self) -> usize {
        self.users.len()
    }

    /// How many bans there are, those that have ended but were not taken away yet included.
    #[must_use]
    pub const fn ban_count(&self) -> usize {
        self.bans.len()
    }

    /// A user.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// The first users behind `after` by name, at most `limit`.
    #[must_use]
    pub fn users_after(&self, after: Option<&str>, limit: usize) -> Vec<(&str, &User)> {
        let after = after.map(str::to_owned);
        let page = self.users.page(after.as_ref(), limit);
        page.into_iter()
            .map(|(name, user)| (name.as_str(), &**user))
            .collect()
    }

    /// The rules by number.
    #[must_use]
    pub fn rules(&self) -> &BTreeMap<RuleId, Rule> {
        &self.rules
    }

    /// The first bans behind `after` in the order of targets, at most `limit`, those that have ended but were not taken away yet included.
    #[must_use]
    pub fn bans_after(&self, after: Option<&BanTarget>, limit: usize) -> Vec<(&BanTarget, &Ban)> {
        self.bans.page(after, limit)
    }
}

fn done(touched: &mut Vec<Key>, key: Key) -> Changed {
    touched.push(key);
    Changed::Done
}

#[cfg(test)]
mod tests;
