//! Checking passwords of users: costly on purpose, so on threads of its own, few at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use magpie_access::{PasswordHash, verify_nobody};
use tokio::sync::Semaphore;

use crate::proven::Proven;
use crate::turn::Turns;
use crate::{AuthConfig, Refusal};

/// The pool: so many checks at a time, and so many that wait.
#[derive(Debug)]
pub(crate) struct Passwords {
    threads: Arc<Semaphore>,
    turns: Turns,
    proven: Proven,
}

/// The most passwords that are remembered: 64 bytes each.
const PROVEN_MAX: usize = 200_000;

impl Passwords {
    pub(crate) fn new(config: &AuthConfig) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = match config.password_threads {
            0 => processors(),
            threads => threads,
        };
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            turns: Turns::new(config.password_queue),
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
        let _turn = self.turns.take()?;
        let permit = Arc::clone(&self.threads).acquire_owned().await;
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            match hash {
                Some(hash) => hash.verify(&password),
                None => verify_nobody(&password),
            }
        });
        checked.await.map_err(|_| Refusal::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::{Duration, Instant};

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
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(verify(&secret).await, Ok(true));
        }
        assert!(began.elapsed() < Duration::from_millis(200));
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

    /// The means of several, one after the other.
    #[tokio::test]
    async fn nobody_takes_as_long_as_a_wrong_password() {
        let passwords = Passwords::new(&AuthConfig::default());
        let hash = hash(b"secret");
        let wrong = Bytes::from_static(b"wrong");
        let mut took = [Duration::ZERO; 2];
        for round in 0..20 {
            let which = round % 2;
            let began = Instant::now();
            let hash = (which == 0).then_some(&hash);
            assert_eq!(passwords.verify("ann", hash, &wrong).await, Ok(false));
            took[which] += began.elapsed();
        }
        let [known, unknown] = took;
        assert!(unknown > known / 2 && unknown < known * 2, "{took:?}");
    }
}
