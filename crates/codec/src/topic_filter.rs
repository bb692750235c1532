//! Topic Filters (section 4.7) and shared subscriptions (section 4.8): what a client subscribes to.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::{Text, TopicError, TopicName};

const SHARE_PREFIX: &str = "$share/";

/// A Topic Filter whose wildcards stand where they may, with its share name if it has one.
///
/// Equality, order and hash are those of the whole text as the client sent it, `$share/...` included.
/// Filters of 3.1 and 3.1.1 clients that start with `$share/` are shared subscriptions too.
#[derive(Clone)]
pub struct TopicFilter {
    whole: Text,
    /// Where the filter proper starts in `whole`: 0, or behind `$share/{name}/`.
    filter_start: u16,
    exact: bool,
}

impl TopicFilter {
    /// A filter that lives as long as the program.
    ///
    /// # Panics
    /// When the filter is not valid.
    pub fn from_static(filter: &'static str) -> Self {
        Self::try_from(Text::from_static(filter)).expect("the caller wrote a valid topic filter")
    }

    /// The whole text as the client sent it, `$share/{name}/` included.
    pub fn as_str(&self) -> &str {
        self.whole.as_str()
    }

    /// The whole text, whose bytes can be shared.
    pub const fn as_text(&self) -> &Text {
        &self.whole
    }

    /// The share name of a shared subscription.
    pub fn share_name(&self) -> Option<&str> {
        let end = usize::from(self.filter_start).checked_sub(1)?;
        Some(&self.as_str()[SHARE_PREFIX.len()..end])
    }

    /// The filter without `$share/{name}/`: what topics are matched against.
    pub fn filter(&self) -> &str {
        &self.as_str()[usize::from(self.filter_start)..]
    }

    /// The filter without `$share/{name}/`, as a filter of its own that is not shared: also if it begins with `$share/` itself, which is then a
    /// level like any other.
    #[must_use]
    pub fn unshared(&self) -> Self {
        let start = usize::from(self.filter_start);
        Self {
            whole: self.whole.slice_from(start),
            filter_start: 0,
            exact: self.exact,
        }
    }

    /// Whether this is a shared subscription.
    pub const fn is_shared(&self) -> bool {
        self.filter_start > 0
    }

    /// Whether [`filter`](Self::filter) has no wildcard, so that it matches exactly one topic.
    pub const fn is_exact(&self) -> bool {
        self.exact
    }

    /// The levels of [`filter`](Self::filter) between the slashes; at least one, and each may be empty.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.filter().split('/')
    }

    /// Whether messages to `topic` belong to this filter (section 4.7).
    pub fn matches(&self, topic: &TopicName) -> bool {
        // [MQTT-4.7.3-4], [MQTT-4.7.3-4 v3.1.1]: byte by byte.
        if self.exact {
            return self.filter() == topic.as_str();
        }
        // [MQTT-4.7.2-1], [MQTT-4.7.2-1 v3.1.1]: a leading wildcard does not match topics that begin with `$`.
        if topic.is_dollar() && self.filter().starts_with(['+', '#']) {
            return false;
        }
        let mut topic_levels = topic.levels();
        for filter_level in self.levels() {
            if filter_level == "#" {
                // Also when no level is left: `sport/#` matches `sport`.
                return true;
            }
            match topic_levels.next() {
                Some(topic_level) if filter_level == "+" || filter_level == topic_level => {}
                _ => return false,
            }
        }
        topic_levels.next().is_none()
    }

    /// The same filter in an allocation of its own; see [`Text::compact`].
    #[must_use]
    pub fn compact(&self) -> Self {
        Self {
            whole: self.whole.compact(),
            filter_start: self.filter_start,
            exact: self.exact,
        }
    }
}

impl TryFrom<Text> for TopicFilter {
    type Error = TopicError;

    fn try_from(whole: Text) -> Result<Self, TopicError> {
        let filter_start = filter_start(&whole)?;
        let exact = check_wildcards(&whole.as_str()[usize::from(filter_start)..])?;
        Ok(Self {
            whole,
            filter_start,
            exact,
        })
    }
}

/// The length of `$share/{name}/`, or 0 for a filter that is not shared.
fn filter_start(whole: &str) -> Result<u16, TopicError> {
    let Some(rest) = whole.strip_prefix(SHARE_PREFIX) else {
        return Ok(0);
    };
    let (name, filter) = rest.split_once('/').unwrap_or((rest, ""));
    // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(TopicError::ShareName);
    }
    if filter.is_empty() {
        return Err(TopicError::ShareFilter);
    }
    Ok(u16::try_from(whole.len() - filter.len()).expect("a text has at most 65,535 bytes"))
}

/// Checks that wildcards stand alone in their level and `#` last, and tells whether there is none.
fn check_wildcards(filter: &str) -> Result<bool, TopicError> {
    // [MQTT-4.7.3-1 v3.1.1]
    if filter.is_empty() {
        return Err(TopicError::Empty);
    }
    let bytes = filter.as_bytes();
    let mut exact = true;
    for (at, byte) in bytes.iter().enumerate() {
        let starts_level = at == 0 || bytes[at - 1] == b'/';
        match byte {
            // [MQTT-4.7.1-1], [MQTT-4.7.1-2 v3.1.1]
            b'#' if !starts_level || at + 1 != bytes.len() => {
                return Err(TopicError::HashMisplaced);
            }
            // [MQTT-4.7.1-2], [MQTT-4.7.1-3 v3.1.1]
            b'+' if !starts_level || bytes.get(at + 1).is_some_and(|next| *next != b'/') => {
                return Err(TopicError::PlusMisplaced);
            }
            b'#' | b'+' => exact = false,
            _ => {}
        }
    }
    Ok(exact)
}

impl TryFrom<Bytes> for TopicFilter {
    type Error = TopicError;

    fn try_from(bytes: Bytes) -> Result<Self, TopicError> {
        Self::try_from(Text::try_from(bytes)?)
    }
}

impl TryFrom<&str> for TopicFilter {
    type Error = TopicError;

    fn try_from(filter: &str) -> Result<Self, TopicError> {
        Self::try_from(Text::try_from(filter)?)
    }
}

impl TryFrom<String> for TopicFilter {
    type Error = TopicError;

    fn try_from(filter: String) -> Result<Self, TopicError> {
        Self::try_from(Text::try_from(filter)?)
    }
}

impl From<TopicFilter> for Text {
    fn from(filter: TopicFilter) -> Self {
        filter.whole
    }
}

impl AsRef<str> for TopicFilter {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for TopicFilter {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for TopicFilter {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for TopicFilter {}

impl PartialOrd for TopicFilter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TopicFilter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.whole.cmp(&other.whole)
    }
}

// As `str`, because of `Borrow<str>`.
impl Hash for TopicFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}
