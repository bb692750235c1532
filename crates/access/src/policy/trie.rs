//! Patterns by their levels.

use std::ops::BitOr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::pattern::{Level, Template, split};
use crate::{Action, Effect, Pattern, Subject};

/// What rules say on one point: a set of effects on publishing and subscribing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effects(u8);

/// A trie of patterns. Walking it costs what the matching branches have in levels, however many rules there are.
#[derive(Debug)]
pub(super) struct Trie {
    /// The first is the root.
    nodes: Vec<Node>,
}

/// Where patterns with the same first levels meet. Child 0 is none: the root is nobody's child.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, u32, RandomState>,
    /// `+`
    any: u32,
    templates: Vec<(Template, u32)>,
    /// Of patterns that end here.
    here: Effects,
    /// Of patterns that end here with `#`.
    rest: Effects,
    /// Of all patterns that come by here.
    within: Effects,
}

/// A walk for one question.
struct Walk<'a> {
    nodes: &'a [Node],
    subject: &'a Subject,
    /// The asked filter begins with `$`.
    is_dollar: bool,
    /// Whatever else is found, this settles it.
    deny: Effects,
    found: Effects,
}

impl Trie {
    pub(super) fn insert(&mut self, pattern: &Pattern, effects: Effects) {
        let mut at = 0;
        self.nodes[at].within = self.nodes[at].within | effects;
        for level in pattern.levels() {
            if *level == Level::Rest {
                self.nodes[at].rest = self.nodes[at].rest | effects;
                return;
            }
            at = self.child(at, level);
            self.nodes[at].within = self.nodes[at].within | effects;
        }
        self.nodes[at].here = self.nodes[at].here | effects;
    }

    /// The child for a level, made if need be.
    fn child(&mut self, at: usize, level: &Level) -> usize {
        let new = u32::try_from(self.nodes.len()).expect("10,000 rules of 128 levels");
        let node = &mut self.nodes[at];
        let child = match level {
            Level::Any | Level::Rest => {
                if node.any == 0 {
                    node.any = new;
                }
                node.any
            }
            Level::Literal(literal) => *node.literals.entry_ref(&**literal).or_insert(new),
            Level::Template(template) => {
                let known = node.templates.iter().find(|(known, _)| known == template);
                match known {
                    Some((_, child)) => *child,
                    None => {
                        node.templates.push((template.clone(), new));
                        new
                    }
                }
            }
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child as usize
    }

    /// Which of the `asked` effects patterns have that match every topic of `filter`; all but some, if one of `deny` is among them.
    pub(super) fn covering(
        &self,
        filter: &str,
        subject: &Subject,
        asked: Effects,
        deny: Effects,
    ) -> Effects {
        let mut walk = Walk {
            nodes: &self.nodes,
            subject,
            is_dollar: filter.starts_with('$'),
            deny,
            found: Effects::default(),
        };
        walk.cover(0, Some(filter), asked);
        walk.found
    }

    /// Whether a pattern of an effect in `deny` matches some topic of `filter`.
    pub(super) fn overlaps(&self, filter: &str, subject: &Subject, deny: Effects) -> bool {
        let walk = Walk {
            nodes: &self.nodes,
            subject,
            is_dollar: filter.starts_with('$'),
            deny,
            found: Effects::default(),
        };
        walk.meets(0, Some(filter))
    }
}

impl Walk<'_> {
    /// Recursion is as deep as the deepest pattern, which has a limit.
    fn cover(&mut self, at: u32, rest: Option<&str>, asked: Effects) {
        let node = &self.nodes[at as usize];
        if !node.within.has(asked) {
            return;
        }
        // Section 4.7.2: a leading wildcard does not match topics that begin with `$`.
        let is_wild = at != 0 || !self.is_dollar;
        if is_wild {
            self.found = self.found | node.rest.only(asked);
        }
        let Some(rest) = rest else {
            self.found = self.found | node.here.only(asked);
            return;
        };
        let (level, next) = split(rest);
        if level == "#" || self.found.has(self.deny) {
            return;
        }
        if node.any != 0 && is_wild {
            self.cover(node.any, next, asked);
        }
        if level == "+" {
            return;
        }
        if let Some(child) = node.literals.get(level) {
            self.cover(*child, next, asked);
        }
        for (template, child) in &node.templates {
            if template.equals(level, self.subject) {
                let asked = match template.is_safe(self.subject, at == 0) {
                    true => asked,
                    false => asked.only(self.deny),
                };
                self.cover(*child, next, asked);
            }
        }
    }

    fn meets(&self, at: u32, rest: Option<&str>) -> bool {
        let node = &self.nodes[at as usize];
        if !node.within.has(self.deny) {
            return false;
        }
        let is_first = at == 0;
        let is_wild = !is_first || !self.is_dollar;
        if is_wild && node.rest.has(self.deny) {
            return true;
        }
        let Some(rest) = rest else {
            return node.here.has(self.deny);
        };
        let (level, next) = split(rest);
        let (any, is_rest) = (is_wild.then_some(node.any), level == "#");
        let any = any.filter(|child| *child != 0);
        if !is_rest && level != "+" {
            let literal = node.literals.get(level).copied();
            let templates = node
                .templates
                .iter()
                .filter(|(template, _)| template.equals(level, self.subject));
            return any
                .into_iter()
                .chain(literal)
                .chain(templates.map(|(_, child)| *child))
                .any(|child| self.meets(child, next));
        }
        // `#` is there again at the next level, and stands for none too.
        let next = if is_rest { Some("#") } else { next };
        (is_rest && node.here.has(self.deny))
            || any.is_some_and(|child| self.meets(child, next))
            || node.literals.iter().any(|(literal, child)| {
                !(is_first && literal.starts_with('$')) && self.meets(*child, next)
            })
            || node.templates.iter().any(|(template, child)| {
                template.exists(self.subject)
                    && !(is_first && template.is_dollar(self.subject))
                    && self.meets(*child, next)
            })
    }
}

impl Effects {
    /// The effects of a rule.
    pub(super) const fn of(effect: Effect, action: Action) -> Self {
        let on = match action {
            Action::Publish => 1,
            Action::Subscribe => 2,
            Action::All => 3,
        };
        match effect {
            Effect::Allow => Self(on),
            Effect::Deny => Self(on << 2),
        }
    }

    /// Whether any of these is among them.
    pub(super) const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }

    const fn only(self, these: Self) -> Self {
        Self(self.0 & these.0)
    }
}

impl BitOr for Effects {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}
