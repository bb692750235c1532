//! Rules: who may, or may not, do what to which topics.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::check_name;
use crate::{Error, Pattern, Subject};

/// One line of the access control list. The order of rules means nothing: any deny that matches wins over any allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What follows from it.
    pub effect: Effect,
    /// What it is about.
    pub action: Action,
    /// Whom it is about.
    pub who: Who,
    /// The topics.
    pub pattern: Pattern,
}

/// Number of a rule, given when it is added and never used again.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RuleId(pub u64);

/// What follows from a rule that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Yes, unless a deny matches too.
    Allow,
    /// No, whatever others say.
    Deny,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Sending messages, a will included.
    Publish,
    /// Subscribing, and reading what was stored or retained.
    Subscribe,
    /// Both.
    All,
}

/// Whom a rule is about. As text `everybody`, `anonymous`, `user:NAME`, `client:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Who {
    /// Every client, anonymous ones included.
    Everybody,
    /// The clients of this user.
    User(String),
    /// The client with this id, whoever it is. Clients choose their ids: without users, this holds nobody back.
    Client(String),
    /// Clients without a user name.
    Anonymous,
}

impl Rule {
    /// Whether it is about this subject.
    pub(crate) fn is_about(&self, subject: &Subject) -> bool {
        match &self.who {
            Who::Everybody => true,
            Who::Anonymous => subject.username.is_none(),
            Who::User(name) => subject
                .username
                .as_ref()
                .is_some_and(|username| username.as_str() == name),
            Who::Client(id) => subject.client_id.as_str() == id,
        }
    }
}

impl Action {
    /// Whether a rule about `self` says something on `asked`, which is not [`Action::All`].
    pub(crate) fn includes(self, asked: Self) -> bool {
        self == Self::All || self == asked
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Client(id) => write!(f, "client:{id}"),
        }
    }
}

impl FromStr for Who {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let named = |name: &str| check_name(name).map(|()| name.to_owned());
        match text.split_once(':') {
            None if text == "everybody" => Ok(Self::Everybody),
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("user", name)) => Ok(Self::User(named(name)?)),
            Some(("client", id)) => Ok(Self::Client(named(id)?)),
            _ => Err(Error::Who(text.to_owned())),
        }
    }
}

impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}

impl TryFrom<String> for Who {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::All => "all",
        })
    }
}
