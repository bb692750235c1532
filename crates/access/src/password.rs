//! Passwords, as argon2id hashes.
//!
//! Hashing and verifying take some 20 ms of a processor and 19 MiB on purpose: callers do it where nothing waits for them.

use std::fmt;
use std::hint::black_box;

use argon2::password_hash::{PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};

/// Longest password that can be set.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Random bytes that go into a hash.
pub const SALT_BYTES: usize = 16;

/// What a hash that was made elsewhere may cost at most, so that nobody sets one that takes the node's memory.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;
const HASH_TEXT_BYTES_MAX: usize = 512;

/// What a wrong password is compared with when there is no such user: the hash of nothing in particular, as costly as any of ours.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5aGFzdGhpcw$aU5JjsqyTnLEbTcPDWWVNOxJDCOwsPUo7WiZH9A0Jwg";

/// An argon2id hash in PHC form (`$argon2id$v=19$m=...`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PasswordHash(String);

/// Why a text is no password or no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Nothing there.
    #[error("a password has at least one character")]
    Empty,
    /// More than [`PASSWORD_BYTES_MAX`].
    #[error("a password has at most {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// Another algorithm or a damaged text.
    #[error("not an argon2id hash in PHC form")]
    NotArgon2id,
    /// Verifying it would take too much.
    #[error(
        "the hash asks for more than {} MiB, {PASSES_MAX} passes or {LANES_MAX} lanes",
        MEMORY_KIB_MAX >> 10
    )]
    TooCostly,
}

impl PasswordHash {
    /// Hashes a password. `salt` is random.
    ///
    /// # Errors
    /// An empty or too long password.
    pub fn of(password: &[u8], salt: [u8; SALT_BYTES]) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let salt = SaltString::encode_b64(&salt).map_err(|_| PasswordError::NotArgon2id)?;
        let hash = argon2().hash_password(password, &salt);
        let hash = hash.map_err(|_| PasswordError::NotArgon2id)?;
        Ok(Self(hash.to_string()))
    }

    /// Whether this is the hash of `password`.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let Ok(hash) = argon2::PasswordHash::new(&self.0) else {
            return false;
        };
        argon2().verify_password(password, &hash).is_ok()
    }

    /// The PHC text. A secret: it goes into the replicated state and nowhere else.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Takes as long as verifying a password of ours, and says no: whoever asks cannot tell an unknown user from a wrong password.
#[must_use]
pub fn verify_nobody(password: &[u8]) -> bool {
    black_box(PasswordHash(String::from(NOBODY)).verify(black_box(password)));
    false
}

/// Parameters as OWASP recommends them for argon2id: 19 MiB, two passes, one lane.
fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

impl TryFrom<String> for PasswordHash {
    type Error = PasswordError;

    fn try_from(text: String) -> Result<Self, PasswordError> {
        if text.len() > HASH_TEXT_BYTES_MAX {
            return Err(PasswordError::NotArgon2id);
        }
        let hash = argon2::PasswordHash::new(&text).map_err(|_| PasswordError::NotArgon2id)?;
        let is_whole = hash.salt.is_some() && hash.hash.is_some();
        if hash.algorithm != argon2::ARGON2ID_IDENT || !is_whole {
            return Err(PasswordError::NotArgon2id);
        }
        let params = Params::try_from(&hash).map_err(|_| PasswordError::NotArgon2id)?;
        if params.m_cost() > MEMORY_KIB_MAX
            || params.t_cost() > PASSES_MAX
            || params.p_cost() > LANES_MAX
        {
            return Err(PasswordError::TooCostly);
        }
        Ok(Self(text))
    }
}

impl From<PasswordHash> for String {
    fn from(hash: PasswordHash) -> Self {
        hash.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_hash_knows_its_password() {
        let hash = PasswordHash::of(b"correct horse", [7; 16]).unwrap();
        assert!(hash.verify(b"correct horse"));
        assert!(!hash.verify(b"battery staple"));
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(PasswordHash::try_from(String::from(hash.clone())), Ok(hash));
    }

    #[test]
    fn no_hash_shows_itself() {
        let hash = PasswordHash::of(b"x", [7; 16]).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash");
    }

    #[test]
    fn nobody_is_a_hash_like_ours_and_never_right() {
        let nobody = PasswordHash::try_from(String::from(NOBODY)).unwrap();
        let ours = PasswordHash::of(b"x", [7; 16]).unwrap();
        let costs = |hash: &PasswordHash| {
            let hash = argon2::PasswordHash::new(&hash.0).unwrap();
            let size = hash.hash.unwrap().len();
            (Params::try_from(&hash).unwrap(), size)
        };
        assert_eq!(costs(&nobody).0.m_cost(), costs(&ours).0.m_cost());
        assert_eq!(costs(&nobody).0.t_cost(), costs(&ours).0.t_cost());
        assert_eq!(costs(&nobody).0.p_cost(), costs(&ours).0.p_cost());
        assert_eq!(costs(&nobody).1, costs(&ours).1);
        assert!(!verify_nobody(b"anything"));
    }

    #[test]
    fn foreign_hashes_are_looked_at() {
        let parse = |text: &str| PasswordHash::try_from(text.to_owned()).unwrap_err();
        assert_eq!(parse("secret"), PasswordError::NotArgon2id);
        let costly = NOBODY.replace("m=19456", "m=4194304");
        assert_eq!(parse(&costly), PasswordError::TooCostly);
        let other = NOBODY.replace("argon2id", "argon2i");
        assert_eq!(parse(&other), PasswordError::NotArgon2id);
        assert_eq!(PasswordHash::of(b"", [0; 16]), Err(PasswordError::Empty));
    }
}
