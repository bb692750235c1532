//! Checking passwords of users: costly on purpose.

use bytes::Bytes;
use magpie_access::{PasswordHash, verify_nobody};

use crate::pool::Pool;
use crate::proven::Proven;
use crate::{AuthConfig, Refusal};

/// Passwords are checked in a pool of their own; those that were right are remembered.
#[derive(Debug)]
pub(crate) struct Passwords {
    pool: Pool,
    proven: Proven,
}

/// The most passwords that are remembered: 64 bytes each.
const PROVEN_MAX: usize = 200_000;

impl Passwords {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        Self {
            pool: Pool::new(config),
            proven: Proven::new(config.password_memory, PROVEN_MAX),
        }
    }

    /// Whether this is the password of a user. `None`: there is no such user, which takes as long to find.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when too many wait.
    pub(crate) async fn verify(
        &self,
        name: &str,
        hash: Option<&PasswordHash>,
        password: &Bytes,
    ) -> Result<bool, Refusal> {
        let key = hash.map(|hash| {
            self.proven
                .key(&[name.as_bytes(), hash.as_str().as_bytes(), password])
        });
        if let Some(key) = &key
            && self.proven.contains(key)
        {
            return Ok(true);
        }
        let is_right = self.check(hash.cloned(), password.clone()).await?;
        if let (true, Some(key)) = (is_right, key) {
            self.proven.insert(key);
        }
        Ok(is_right)
    }

    async fn check(&self, hash: Option<PasswordHash>, password: Bytes) -> Result<bool, Refusal> {
        let check = move || match hash {
            Some(hash) => hash.verify(&password),
            None => verify_nobody(&password),
        };
        self.pool.run(check).await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn hash(password: &[u8]) -> PasswordHash {
        PasswordHash::of(password, [7; 16]).unwrap()
    }

    #[tokio::test]
    async fn a_password_is_right_or_wrong_and_remembered_when_right() {
        let passwords = Passwords::new(&AuthConfig::default());
        let hash = hash(b"secret");
        let secret = Bytes::from_static(b"secret");
        let wrong = Bytes::from_static(b"wrong");
        let verify = async |password| passwords.verify("ann", Some(&hash), password).await;
        assert_eq!(verify(&wrong).await, Ok(false));
        assert_eq!(verify(&secret).await, Ok(true));
        let turns = passwords.pool.all_turns();
        assert_eq!(verify(&secret).await, Ok(true));
        assert_eq!(verify(&wrong).await, Err(Refusal::Busy));
        drop(turns);
        assert_eq!(verify(&wrong).await, Ok(false));
        // Of another user it says nothing, nor of another password of this one.
        let changed = self::hash(b"changed");
        assert_eq!(
            passwords.verify("ann", Some(&changed), &secret).await,
            Ok(false)
        );
        assert_eq!(passwords.verify("ann", None, &secret).await, Ok(false));
    }

    #[tokio::test]
    async fn too_many_are_told_to_come_again() {
        let passwords = Passwords::new(&AuthConfig {
            password_queue: 2,
            password_threads: 1,
            ..AuthConfig::default()
        });
        let hash = hash(b"secret");
        let wrong = Bytes::from_static(b"wrong");
        let verify = || passwords.verify("ann", Some(&hash), &wrong);
        let (a, b, c) = tokio::join!(verify(), verify(), verify());
        assert_eq!((a, b, c), (Ok(false), Ok(false), Err(Refusal::Busy)));
        assert_eq!(verify().await, Ok(false), "there is room again");
    }

    /// That its check costs as much as another is shown where the hashes are.
    #[tokio::test]
    async fn nobody_is_checked_like_a_wrong_password() {
        let passwords = Passwords::new(&AuthConfig::default());
        let wrong = Bytes::from_static(b"wrong");
        let verify = || passwords.verify("ann", None, &wrong);
        assert_eq!(verify().await, Ok(false));
        let _turns = passwords.pool.all_turns();
        assert_eq!(verify().await, Err(Refusal::Busy));
    }
}
