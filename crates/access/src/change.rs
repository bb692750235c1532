//! What operators do to the tables.

use serde::{Deserialize, Serialize};

use crate::{Ban, BanTarget, PasswordHash, Rule, RuleId, ScramVerifier, User};

/// A change of the tables. Repeating one does no harm: the answer to it may get lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Adds a user, or sets all of one.
    SetUser {
        /// The user name.
        name: String,
        /// What is to be known.
        user: User,
        /// Whether there may be one of this name.
        expect: UserIs,
    },
    /// Sets the password of a user, nothing else.
    SetPassword {
        /// The user name.
        name: String,
        /// The new hash.
        password: PasswordHash,
        /// Keys for SCRAM of the same password; without, the user cannot use SCRAM any more.
        scram: Option<ScramVerifier>,
    },
    /// Sets whether rules apply to a user, nothing else.
    SetSuperuser {
        /// The user name.
        name: String,
        /// They do not.
        is_superuser: bool,
    },
    /// Removes a user. Rules about the name stay.
    RemoveUser {
        /// The user name.
        name: String,
    },
    /// Adds a rule; an equal one is not added again.
    AddRule {
        /// The rule.
        rule: Rule,
    },
    /// Removes a rule; one that was removed before counts as removed.
    RemoveRule {
        /// Its number.
        id: RuleId,
    },
    /// Bans somebody, or changes the reason or the end of a ban.
    AddBan {
        /// Whom.
        target: BanTarget,
        /// Why and how long.
        ban: Ban,
        /// Milliseconds since 1970: bans that are over are taken away.
        now_ms: u64,
    },
    /// Takes a ban away.
    RemoveBan {
        /// Of whom.
        target: BanTarget,
        /// Milliseconds since 1970: bans that are over are taken away.
        now_ms: u64,
    },
}

/// What [`Change::SetUser`] expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserIs {
    /// A user of this name would be somebody else.
    New,
    /// It does not matter.
    NewOrKnown,
}

/// What came of a change that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// It is so now.
    Done,
    /// The rule has this number now, or had it before.
    Rule(RuleId),
    /// There is no such user, rule or ban.
    Absent,
}
