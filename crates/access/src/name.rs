//! User names and client ids, as operators write them.

use magpie_codec::{Text, TextError};

/// Longest user name or client id that a rule, a ban or a user can have; longer ones of clients match none of them.
pub const NAME_BYTES_MAX: usize = 1024;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name has at least one character")]
    Empty,
    /// More than [`NAME_BYTES_MAX`].
    #[error("a name has at most {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// No client can have it.
    #[error("no client can have this name: {0}")]
    NotMqtt(#[from] TextError),
}

/// Whether it is the name of a user, or a client id, that tables take.
///
/// # Errors
/// What no client could be called, or is longer than we keep.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    Text::try_from(name)?;
    Ok(())
}
