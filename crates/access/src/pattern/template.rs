//! Levels with names in them.

use smallvec::SmallVec;

use crate::Subject;

/// A level such as `%c` or `device-%u`. Nothing is put together to compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: SmallVec<[Part; 2]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// `%u`
    Username,
    /// `%c`
    ClientId,
}

impl Template {
    /// `None` for a level without names.
    pub(crate) fn parse(level: &str) -> Option<Self> {
        let mut parts = SmallVec::new();
        let mut rest = level;
        let is_name = |at: &(usize, &str)| matches!(rest_of(level, at.0), b"%u" | b"%c");
        while let Some((at, _)) = level[level.len() - rest.len()..]
            .match_indices('%')
            .map(|(at, percent)| (at + level.len() - rest.len(), percent))
            .find(is_name)
        {
            let literal = &level[level.len() - rest.len()..at];
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(match rest_of(level, at) {
                b"%u" => Part::Username,
                _ => Part::ClientId,
            });
            rest = &level[at + 2..];
        }
        if parts.is_empty() {
            return None;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Some(Self { parts })
    }

    /// Whether the subject has all the names that occur.
    pub(crate) fn exists(&self, subject: &Subject) -> bool {
        self.parts.iter().all(|part| part.text(subject).is_some())
    }

    /// Whether `level` is this level with the subject's names in it.
    pub(crate) fn equals(&self, level: &str, subject: &Subject) -> bool {
        let mut rest = level;
        for part in &self.parts {
            let left = part.text(subject).and_then(|text| rest.strip_prefix(text));
            let Some(left) = left else {
                return false;
            };
            rest = left;
        }
        rest.is_empty()
    }

    /// Whether the names can be trusted to be one level of a topic and nothing more. Only then may a rule allow something by them: a client
    /// that calls itself `+` or `$SYS` gets nothing by it.
    pub(crate) fn is_safe(&self, subject: &Subject, is_first: bool) -> bool {
        let names = self.parts.iter().filter(|part| part.is_name());
        let mut names = names.filter_map(|part| part.text(subject));
        let is_literal = names.all(|name| !name.contains(['+', '#', '/', '\0']));
        // A `$` that the operator wrote is meant.
        let is_meant = matches!(self.parts.first(), Some(Part::Literal(_)));
        is_literal && (!is_first || is_meant || !self.is_dollar(subject))
    }

    /// Whether it begins with `$`.
    pub(crate) fn is_dollar(&self, subject: &Subject) -> bool {
        let mut texts = self.parts.iter().filter_map(|part| part.text(subject));
        texts
            .find(|text| !text.is_empty())
            .is_some_and(|text| text.starts_with('$'))
    }
}

impl Part {
    const fn is_name(&self) -> bool {
        matches!(self, Self::Username | Self::ClientId)
    }

    fn text<'a>(&'a self, subject: &'a Subject) -> Option<&'a str> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Username => subject.username.as_deref(),
            Self::ClientId => Some(&subject.client_id),
        }
    }
}

/// Two bytes from `at` on, or fewer.
fn rest_of(level: &str, at: usize) -> &[u8] {
    let bytes = &level.as_bytes()[at..];
    &bytes[..bytes.len().min(2)]
}
