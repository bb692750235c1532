//! A string that needs no allocation up to 22 bytes. Levels and most filters of inboxes are that short, and a router
//! keeps millions.

const INLINE_MAX: usize = 22;

#[derive(Clone, Debug)]
pub(crate) enum ShortText {
    Inline { len: u8, bytes: [u8; INLINE_MAX] },
    Heap(Box<str>),
}

impl ShortText {
    pub(crate) fn new(text: &str) -> Self {
        if text.len() > INLINE_MAX {
            return Self::Heap(text.into());
        }
        let mut bytes = [0; INLINE_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::Inline {
            len: text.len() as u8,
            bytes,
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(text) => text.as_bytes(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Inline { .. } => {
                std::str::from_utf8(self.as_bytes()).expect("it was copied whole from a str")
            }
            Self::Heap(text) => text,
        }
    }

    pub(crate) const fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(text) => text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_was_given() {
        for text in [
            "",
            "a",
            "1234567890123456789012",
            "12345678901234567890123",
            "ä/ö/ü/ß/+/#",
        ] {
            assert_eq!(ShortText::new(text).as_str(), text);
        }
        assert_eq!(size_of::<Option<ShortText>>(), 24);
    }
}
