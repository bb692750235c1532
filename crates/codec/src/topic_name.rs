//! Topic Names (section 4.7): what a message is published to.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use bytes::Bytes;

use crate::text::Scan;
use crate::{Text, TextError};

/// The topic of an Application Message: not empty, no wildcards.
///
/// Cloning is cheap; see [`Text`] for what a clone keeps alive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicName(Text);

/// Why a text is no Topic Name or no Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not even a string as MQTT knows it.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Has no character [MQTT-4.7.3-1].
    #[error("the topic is empty")]
    Empty,
    /// A Topic Name contains `+` or `#` [MQTT-3.3.2-2].
    #[error("the topic name contains a wildcard")]
    WildcardInName,
    /// A `#` that is not the whole last level of a filter [MQTT-4.7.1-1].
    #[error("the topic filter has a # that is not its last level")]
    HashMisplaced,
    /// A `+` that is not a whole level of a filter [MQTT-4.7.1-2].
    #[error("the topic filter has a + that is not a whole level")]
    PlusMisplaced,
    /// A filter that starts with `$share/` has an empty share name or a wildcard in it [MQTT-4.8.2-1].
    #[error("the share name is empty or has a wildcard")]
    ShareName,
    /// A share name that is not followed by a slash and a filter [MQTT-4.8.2-2].
    #[error("the share name is not followed by a filter")]
    ShareFilter,
}

impl TopicName {
    /// A topic that lives as long as the program.
    ///
    /// # Panics
    /// When the topic is not valid.
    pub fn from_static(topic: &'static str) -> Self {
        Self::try_from(Text::from_static(topic)).expect("the caller wrote a valid topic name")
    }

    /// The part of a packet's body that is a topic.
    #[inline(always)]
    pub(crate) fn slice(body: &Bytes, range: Range<usize>) -> Result<Self, TopicError> {
        let found = Scan::of(&body[range.clone()]);
        Self::of_scanned(Text::slice_scanned(body, range, found)?, found)
    }

    #[inline(always)]
    fn of_scanned(text: Text, found: Scan) -> Result<Self, TopicError> {
        // [MQTT-4.7.3-1 v3.1.1]
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        // [MQTT-4.7.0-1], [MQTT-3.3.2-2 v3.1.1], [MQTT-4.7.1-1 v3.1.1]
        if found.wildcard {
            return Err(TopicError::WildcardInName);
        }
        Ok(Self(text))
    }

    /// The topic as a string slice.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The text, whose bytes can be shared.
    pub const fn as_text(&self) -> &Text {
        &self.0
    }

    /// The levels between the slashes; at least one, and each may be empty.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.as_str().split('/')
    }

    /// Whether the first character is `$`, so that wildcards at the first level of a filter do not match
    /// [MQTT-4.7.2-1].
    pub fn is_dollar(&self) -> bool {
        self.0.as_bytes().first() == Some(&b'$')
    }

    /// The same topic in an allocation of its own; see [`Text::compact`].
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(self.0.compact())
    }
}

impl TryFrom<Text> for TopicName {
    type Error = TopicError;

    fn try_from(text: Text) -> Result<Self, TopicError> {
        let found = Scan::of(text.as_bytes());
        Self::of_scanned(text, found)
    }
}

impl TryFrom<Bytes> for TopicName {
    type Error = TopicError;

    fn try_from(bytes: Bytes) -> Result<Self, TopicError> {
        let text = Text::try_from(bytes)?;
        Self::try_from(text)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = TopicError;

    fn try_from(topic: &str) -> Result<Self, TopicError> {
        Self::try_from(Text::try_from(topic)?)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicError;

    fn try_from(topic: String) -> Result<Self, TopicError> {
        Self::try_from(Text::try_from(topic)?)
    }
}

impl From<TopicName> for Text {
    fn from(topic: TopicName) -> Self {
        topic.0
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

// As `str`, because of `Borrow<str>`.
impl Hash for TopicName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}
