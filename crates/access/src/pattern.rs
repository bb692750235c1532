//! Patterns: topic filters with the subject's names in them.

mod template;

use std::fmt;
use std::sync::Arc;

use magpie_codec::{TopicError, TopicFilter};
use serde::{Deserialize, Serialize};

use crate::Subject;
pub(crate) use template::Template;

/// Longest text of a pattern.
pub const PATTERN_BYTES_MAX: usize = 4096;
/// Most levels of a pattern.
pub const PATTERN_LEVELS_MAX: usize = 128;

/// A topic filter in whose levels `%u` stands for the subject's user name and `%c` for its client id.
///
/// A level with a name in it is compared as a whole, character by character: nothing in a name acts as a wildcard or as the end of a
/// level. A pattern with `%u` matches nothing for a subject without a user name.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Pattern {
    text: Arc<str>,
    /// Never empty; [`Level::Rest`] only as the last.
    levels: Arc<[Level]>,
}

/// One level of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Level {
    /// Exactly this.
    Literal(Box<str>),
    /// Exactly this, once the names are filled in.
    Template(Template),
    /// `+`
    Any,
    /// `#`
    Rest,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Its wildcards are not where they may be, or it is empty.
    #[error("the pattern is no topic filter: {0}")]
    Topic(#[from] TopicError),
    /// More than [`PATTERN_BYTES_MAX`].
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`PATTERN_LEVELS_MAX`].
    #[error("a pattern has at most {PATTERN_LEVELS_MAX} levels")]
    TooDeep,
    /// Rules look at the filter behind the share name.
    #[error("a pattern is written without $share/NAME/: rules hold for shared subscriptions too")]
    Shared,
}

impl Pattern {
    /// As the operator wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Whether every topic that `filter` matches is matched by this pattern of a rule that allows. A topic is a filter without wildcards.
    pub(crate) fn covers(&self, filter: &str, subject: &Subject) -> bool {
        let left = self.walk(filter, |level, asked, is_first| match level {
            Level::Any | Level::Rest => true,
            Level::Literal(literal) => asked == &**literal,
            Level::Template(template) => {
                template.equals(asked, subject) && template.is_safe(subject, is_first)
            }
        });
        matches!(left, Some(Left { filter: None, .. }))
    }

    /// Whether some topic is matched by both `filter` and this pattern.
    pub(crate) fn overlaps(&self, filter: &str, subject: &Subject) -> bool {
        let left = self.walk(filter, |level, asked, is_first| match level {
            level if asked == "+" => level.is_met_by_wildcard(subject, is_first),
            Level::Any | Level::Rest => true,
            Level::Literal(literal) => asked == &**literal,
            Level::Template(template) => template.equals(asked, subject),
        });
        match left {
            Some(Left { filter: None, .. }) => true,
            // It goes on to match whatever the pattern's remaining levels are.
            Some(Left {
                filter: Some("#"),
                levels,
                is_first,
            }) => levels
                .iter()
                .zip(first_of(is_first))
                .all(|(level, is_first)| level.is_met_by_wildcard(subject, is_first)),
            _ => false,
        }
    }

    /// Goes along pattern and filter, level by level, up to a `#` or the end of either. `None` if a level does not fit.
    fn walk<'a>(
        &'a self,
        filter: &'a str,
        fits: impl Fn(&Level, &str, bool) -> bool,
    ) -> Option<Left<'a>> {
        let is_dollar = filter.starts_with('$');
        let mut left = Left {
            filter: Some(filter),
            levels: &self.levels,
            is_first: true,
        };
        while let Some((level, levels)) = left.levels.split_first() {
            // Section 4.7.2: a leading wildcard does not match topics that begin with `$`.
            let is_wild = matches!(level, Level::Any | Level::Rest);
            if is_wild && left.is_first && is_dollar {
                return None;
            }
            if *level == Level::Rest {
                left.filter = None;
                break;
            }
            let (asked, next) = split(left.filter?);
            if asked == "#" {
                break;
            }
            if !fits(level, asked, left.is_first) {
                return None;
            }
            left = Left {
                filter: next,
                levels,
                is_first: false,
            };
        }
        Some(left)
    }
}

/// What a walk has not come to.
struct Left<'a> {
    /// `None`: it has come to its end, or the pattern has `#` for all of it.
    filter: Option<&'a str>,
    levels: &'a [Level],
    is_first: bool,
}

impl Level {
    /// Whether a wildcard of a filter can stand for this level.
    pub(crate) fn is_met_by_wildcard(&self, subject: &Subject, is_first: bool) -> bool {
        match self {
            // Section 4.7.2: not for topics that begin with `$`.
            Self::Literal(literal) => !(is_first && literal.starts_with('$')),
            Self::Template(template) => {
                template.exists(subject) && !(is_first && template.is_dollar(subject))
            }
            Self::Any | Self::Rest => true,
        }
    }
}

/// As told, then false.
fn first_of(is_first: bool) -> impl Iterator<Item = bool> {
    std::iter::once(is_first).chain(std::iter::repeat(false))
}

/// The first level, and what is left behind its slash.
pub(crate) fn split(filter: &str) -> (&str, Option<&str>) {
    match filter.as_bytes().iter().position(|byte| *byte == b'/') {
        Some(at) => (&filter[..at], Some(&filter[at + 1..])),
        None => (filter, None),
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if text.starts_with("$share/") {
            return Err(PatternError::Shared);
        }
        let filter = TopicFilter::try_from(text.as_str())?;
        let mut levels: Vec<Level> = filter.levels().map(Level::from).collect();
        if levels.len() > PATTERN_LEVELS_MAX {
            return Err(PatternError::TooDeep);
        }
        if levels == [Level::Any, Level::Rest] {
            // Every topic has a level, so the two say the same; level by level they could not be seen to.
            levels = vec![Level::Rest];
        }
        Ok(Self {
            text: text.into(),
            levels: levels.into(),
        })
    }
}

impl TryFrom<&str> for Pattern {
    type Error = PatternError;

    fn try_from(text: &str) -> Result<Self, PatternError> {
        Self::try_from(text.to_owned())
    }
}

impl From<&str> for Level {
    fn from(level: &str) -> Self {
        match level {
            "+" => Self::Any,
            "#" => Self::Rest,
            literal => match Template::parse(literal) {
                Some(template) => Self::Template(template),
                None => Self::Literal(literal.into()),
            },
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.as_str().to_owned()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.text, f)
    }
}
