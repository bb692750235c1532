//! Who may do what: the users, rules and bans that operators set, and the policy that is compiled from them.
//!
//! This crate is pure: it knows no socket, clock, task, lock or disk, and draws no random number; salts and the time come in. [`Tables`]
//! are replicated in the control group and changed by [`Change`]; every node compiles a [`Policy`] of them, which answers for a
//! [`Subject`] without a lookup elsewhere. Who a connection *is* (authentication) is found out by others, with the hashes of this crate.

mod ban;
mod change;
mod name;
mod password;
mod pattern;
mod policy;
mod rows;
mod rule;
mod scram;
mod shards;
mod subject;
mod tables;
mod user;

pub use ban::{Ban, BanTarget, Network};
pub use change::{Change, Changed, UserIs};
pub use name::{NAME_BYTES_MAX, NameError, check_name};
pub use password::{PASSWORD_BYTES_MAX, PasswordError, PasswordHash, SALT_BYTES, verify_nobody};
pub use pattern::{PATTERN_BYTES_MAX, PATTERN_LEVELS_MAX, Pattern, PatternError};
pub use policy::Policy;
pub use rows::{Key, RowError};
pub use rule::{Action, Effect, Rule, RuleId, Who};
pub use scram::{SCRAM_ITERATIONS, ScramVerifier};
pub use subject::Subject;
pub use tables::{BANS_MAX, RULES_MAX, Snapshot, Tables, USERS_MAX};
pub use user::User;

/// Why something is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A user name or client id.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pattern of a rule.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A password or a hash of one.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Text that stands for no subject of a rule.
    #[error("{0:?} is none of everybody, anonymous, user:NAME and client:ID")]
    Who(String),
    /// Text that stands for nothing that can be banned.
    #[error("{0:?} is none of client:ID, user:NAME, address:IP and network:IP/BITS")]
    BanTarget(String),
    /// The words for the operators.
    #[error("the reason has more than {} bytes", ban::REASON_BYTES_MAX)]
    Reason,
    /// Another operator was first.
    #[error("there is a user of this name already")]
    UserExists,
    /// A table is full.
    #[error("there are {0} {1} already, which is the most")]
    Full(usize, &'static str),
}
