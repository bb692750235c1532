//! The UTF-8 Encoded String of the wire format (section 1.5.4).

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// A UTF-8 string of at most 65,535 bytes without U+0000, checked when it was built.
///
/// Cloning is cheap: the bytes are shared. A decoded `Text` is a slice of the read buffer and keeps that whole buffer
/// alive; what outlives the handling of its packet should be [`compact`](Self::compact)ed.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(Bytes);

/// Why bytes are not a [`Text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// More than 65,535 bytes.
    #[error("the string is longer than 65,535 bytes")]
    TooLong,
    /// Ill-formed UTF-8, which includes encoded surrogates [MQTT-1.5.4-1].
    #[error("the string is not well-formed UTF-8")]
    NotUtf8,
    /// Contains U+0000 [MQTT-1.5.4-2].
    #[error("the string contains the null character")]
    Null,
}

impl Text {
    /// The most bytes that a string can have on the wire.
    pub const BYTES_MAX: usize = u16::MAX as usize;

    /// A text that lives as long as the program.
    ///
    /// # Panics
    /// When the string is too long or contains U+0000.
    pub const fn from_static(text: &'static str) -> Self {
        assert!(
            text.len() <= Self::BYTES_MAX,
            "text is longer than 65,535 bytes"
        );
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] != 0, "text contains the null character");
            at += 1;
        }
        Self(Bytes::from_static(bytes))
    }

    /// The text as a string slice.
    #[expect(
        unsafe_code,
        reason = "validating again at each read would cost more than the decoding"
    )]
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor checks that the bytes are UTF-8, and `Bytes` are immutable.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    /// The bytes, shared.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The same text in an allocation of exactly its size, so that it does not keep a read buffer alive.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// Part of this text, sharing its bytes.
    ///
    /// # Panics
    /// When the range is out of bounds or cuts a character.
    #[must_use]
    pub fn slice_from(&self, start: usize) -> Self {
        assert!(
            self.as_str().is_char_boundary(start),
            "a text is cut between characters only"
        );
        Self(self.0.slice(start..))
    }
}

/// Checks the rules of section 1.5.4.
fn check(bytes: &[u8]) -> Result<(), TextError> {
    if bytes.len() > Text::BYTES_MAX {
        return Err(TextError::TooLong);
    }
    // One pass without early exit, which the compiler turns into wide instructions: nearly all strings are ASCII.
    let (mut any_non_ascii, mut any_null) = (0, false);
    for byte in bytes {
        any_non_ascii |= byte & 0x80;
        any_null |= *byte == 0;
    }
    // [MQTT-1.5.4-1]: surrogates cannot occur in well-formed UTF-8.
    if any_non_ascii != 0 && std::str::from_utf8(bytes).is_err() {
        return Err(TextError::NotUtf8);
    }
    // [MQTT-1.5.4-2]
    if any_null {
        return Err(TextError::Null);
    }
    Ok(())
}

impl TryFrom<Bytes> for Text {
    type Error = TextError;

    fn try_from(bytes: Bytes) -> Result<Self, TextError> {
        check(&bytes)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&str> for Text {
    type Error = TextError;

    fn try_from(text: &str) -> Result<Self, TextError> {
        check(text.as_bytes())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        Self::try_from(Bytes::from(text))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

// As `str`, so that a map keyed by texts can be asked with a `&str`.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}
