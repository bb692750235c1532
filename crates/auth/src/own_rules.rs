//! Rules that come with a client's credentials: from a token, or from the answer of a web service.

use std::sync::Arc;

use magpie_access::{Action, Effect, Pattern, Rule, Who};
use serde::Deserialize;

/// The most rules of one client.
const RULES_MAX: usize = 256;

/// One rule, as tokens and answers have it.
#[derive(Debug, Deserialize)]
struct OwnRule {
    #[serde(alias = "effect", default = "allow")]
    permission: Effect,
    #[serde(default = "all")]
    action: Action,
    #[serde(alias = "pattern")]
    topic: Pattern,
}

const fn allow() -> Effect {
    Effect::Allow
}

const fn all() -> Action {
    Action::All
}

/// Reads a list of rules.
///
/// # Errors
/// What is wrong, for the log. One rule that cannot be read spoils all: to leave out a deny would allow.
pub(crate) fn parse(rules: &serde_json::Value) -> Result<Arc<[Rule]>, String> {
    let rules: Vec<OwnRule> =
        Deserialize::deserialize(rules).map_err(|error| format!("rules: {error}"))?;
    if rules.len() > RULES_MAX {
        return Err(format!("more than {RULES_MAX} rules"));
    }
    let rules = rules.into_iter().map(|rule| Rule {
        effect: rule.permission,
        action: rule.action,
        who: Who::Everybody,
        pattern: rule.topic,
    });
    Ok(rules.collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rule_allows_everything_unless_it_says_otherwise() {
        let rules = parse(&json!([
            {"topic": "a/%u/#"},
            {"permission": "deny", "action": "publish", "topic": "b"},
        ]))
        .unwrap();
        assert_eq!(
            (rules[0].effect, rules[0].action),
            (Effect::Allow, Action::All)
        );
        assert_eq!(
            (rules[1].effect, rules[1].action),
            (Effect::Deny, Action::Publish)
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(parse(&json!([{"topic": "a/#/b"}])).is_err());
        assert!(parse(&json!([{"permission": "perhaps", "topic": "a"}])).is_err());
        assert!(parse(&json!("all")).is_err());
        let many = vec![json!({"topic": "a"}); RULES_MAX + 1];
        assert!(parse(&json!(many)).is_err());
    }
}
