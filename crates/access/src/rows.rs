//! The tables as rows of a checkpoint or snapshot: one for each user, rule and ban.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{BanTarget, RuleId, Tables};

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The numbers that go with the tables.
    Counters,
    /// A user, by name.
    User(String),
    /// A rule, by number.
    Rule(RuleId),
    /// A ban, by its target.
    Ban(BanTarget),
}

/// A row that no version up to this one writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a row of users, rules or bans")]
pub struct RowError;

/// First bytes of keys. Part of the stored format.
mod kind {
    pub(super) const COUNTERS: u8 = b'c';
    pub(super) const USER: u8 = b'u';
    pub(super) const RULE: u8 = b'r';
    pub(super) const BAN: u8 = b'b';
}

#[derive(Serialize, Deserialize)]
struct Counters {
    revision: u64,
    rules_revision: u64,
    last_rule: RuleId,
}

impl Key {
    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let with = |kind: u8, rest: &[u8]| [&[kind], rest].concat();
        match self {
            Self::Counters => with(kind::COUNTERS, &[]),
            Self::User(name) => with(kind::USER, name.as_bytes()),
            Self::Rule(RuleId(id)) => with(kind::RULE, &id.to_be_bytes()),
            Self::Ban(target) => with(kind::BAN, target.to_string().as_bytes()),
        }
    }

    /// The reverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Bytes that it does not give.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let (kind, rest) = bytes.split_first().ok_or(RowError)?;
        let text = || std::str::from_utf8(rest).map_err(|_| RowError);
        match *kind {
            kind::COUNTERS => Ok(Self::Counters),
            kind::USER => Ok(Self::User(text()?.to_owned())),
            kind::RULE => {
                let id = rest.try_into().map_err(|_| RowError)?;
                Ok(Self::Rule(RuleId(u64::from_be_bytes(id))))
            }
            kind::BAN => Ok(Self::Ban(text()?.parse().map_err(|_| RowError)?)),
            _ => Err(RowError),
        }
    }
}

impl Tables {
    /// The keys of all rows, in no order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let counters = (self.now.revision > 0).then_some(Key::Counters);
        let users = self.now.users.iter();
        let bans = self.now.bans.iter();
        counters
            .into_iter()
            .chain(users.map(|(name, _)| Key::User(name.clone())))
            .chain(self.now.rules.keys().map(|id| Key::Rule(*id)))
            .chain(bans.map(|(target, _)| Key::Ban(target.clone())))
    }

    /// The present value of a row; `None` when it is gone.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<Vec<u8>> {
        match key {
            Key::Counters => (self.now.revision > 0).then(|| {
                to_json(&Counters {
                    revision: self.now.revision,
                    rules_revision: self.now.rules_revision,
                    last_rule: self.last_rule,
                })
            }),
            Key::User(name) => self.now.users.get(name).map(|user| to_json(&**user)),
            Key::Rule(id) => self.now.rules.get(id).map(to_json),
            Key::Ban(target) => self.now.bans.get(target).map(to_json),
        }
    }

    /// Takes a row in, while the tables are being built.
    ///
    /// # Errors
    /// A value that no version up to this one writes.
    pub fn load(&mut self, key: Key, value: &[u8]) -> Result<(), RowError> {
        match key {
            Key::Counters => {
                let counters: Counters = from_json(value)?;
                self.now.revision = counters.revision;
                self.now.rules_revision = counters.rules_revision;
                self.last_rule = counters.last_rule;
            }
            Key::User(name) => {
                self.now.users.insert(name, Arc::new(from_json(value)?));
            }
            Key::Rule(id) => {
                Arc::make_mut(&mut self.now.rules).insert(id, from_json(value)?);
            }
            Key::Ban(target) => self.put_ban(target, from_json(value)?),
        }
        Ok(())
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always has a JSON form")
}

fn from_json<T: DeserializeOwned>(value: &[u8]) -> Result<T, RowError> {
    serde_json::from_slice(value).map_err(|_| RowError)
}
