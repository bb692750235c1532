//! The UTF-8 Encoded String of the wire format (section 1.5.4).

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};

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

    /// The part of a packet's body that is a text.
    #[inline(always)]
    pub(crate) fn slice(body: &Bytes, range: Range<usize>) -> Result<Self, TextError> {
        let bytes = &body[range.clone()];
        Self::slice_scanned(body, range, Scan::of(bytes))
    }

    /// As [`slice`](Self::slice), where the range was scanned.
    #[inline(always)]
    pub(crate) fn slice_scanned(
        body: &Bytes,
        range: Range<usize>,
        found: Scan,
    ) -> Result<Self, TextError> {
        check(&body[range.clone()], found)?;
        Ok(Self(body.slice(range)))
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
#[inline(always)]
fn check(bytes: &[u8], found: Scan) -> Result<(), TextError> {
    // [MQTT-4.7.3-3], [MQTT-4.7.3-3 v3.1.1]: topics and filters are texts, too.
    if bytes.len() > Text::BYTES_MAX {
        return Err(TextError::TooLong);
    }
    // [MQTT-1.5.4-1], [MQTT-1.4.0-1 v3.1.1]: surrogates cannot occur in well-formed UTF-8.
    // [MQTT-1.5.4-3], [MQTT-1.4.0-3 v3.1.1]: nothing is left out, a byte order mark no more than another character.
    if found.non_ascii && std::str::from_utf8(bytes).is_err() {
        return Err(TextError::NotUtf8);
    }
    // [MQTT-1.5.4-2], [MQTT-1.4.0-2 v3.1.1], [MQTT-4.7.3-2], [MQTT-4.7.3-2 v3.1.1]
    if found.null {
        return Err(TextError::Null);
    }
    Ok(())
}

/// What occurs in the bytes of a string that makes it worth a closer look; nearly always nothing.
#[derive(Clone, Copy)]
pub(crate) struct Scan {
    /// A byte above 0x7f: whether the string is UTF-8 has to be found out.
    pub(crate) non_ascii: bool,
    /// A null byte.
    pub(crate) null: bool,
    /// `+` or `#`.
    pub(crate) wildcard: bool,
}

impl Scan {
    /// Looks at eight bytes at a time, each exactly as often as it takes: the texts are short, so that wider
    /// instructions would not pay.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut found = Lanes::default();
        if let Some(last) = bytes.last_chunk::<8>() {
            for chunk in bytes.chunks_exact(8) {
                found.add(u64::from_ne_bytes(
                    chunk.try_into().expect("a chunk has 8 bytes"),
                ));
            }
            // The rest, and some bytes again.
            found.add(u64::from_ne_bytes(*last));
        } else {
            // Spaces for what is missing are harmless.
            let mut padded = [b' '; 8];
            for (to, from) in padded.iter_mut().zip(bytes) {
                *to = *from;
            }
            found.add(u64::from_ne_bytes(padded));
        }
        Self {
            non_ascii: found.non_ascii & HIGH_BITS != 0,
            null: found.null & HIGH_BITS != 0,
            wildcard: found.wildcard & HIGH_BITS != 0,
        }
    }
}

const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

/// What was found in each byte, in the highest bit; other bits have no meaning.
#[derive(Default)]
struct Lanes {
    non_ascii: u64,
    null: u64,
    wildcard: u64,
}

impl Lanes {
    #[inline(always)]
    const fn add(&mut self, word: u64) {
        self.non_ascii |= word;
        self.null |= zero_bytes(word);
        self.wildcard |= zero_bytes(word ^ u64::from_ne_bytes([b'+'; 8]));
        self.wildcard |= zero_bytes(word ^ u64::from_ne_bytes([b'#'; 8]));
    }
}

/// Sets the highest bit of some byte if and only if some byte is zero.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(u64::from_ne_bytes([1; 8])) & !word & HIGH_BITS
}

impl TryFrom<Bytes> for Text {
    type Error = TextError;

    fn try_from(bytes: Bytes) -> Result<Self, TextError> {
        check(&bytes, Scan::of(&bytes))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<&str> for Text {
    type Error = TextError;

    fn try_from(text: &str) -> Result<Self, TextError> {
        check(text.as_bytes(), Scan::of(text.as_bytes()))?;
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
