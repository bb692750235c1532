//! The keys that tokens are checked with, and where they come from.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::web::{Web, is_url};
use crate::{AuthConfig, Error};

/// Keys of a set that are looked at.
const KEYS_MAX: usize = 64;
/// Bytes of a secret: as many as the hash has.
const SECRET_BYTES_MIN: usize = 32;
/// How long reading the set may take.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Pause before the set is read again because of a key that is not known.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A key, and the one algorithm that it is good for.
pub(crate) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// All keys of the node.
#[derive(Debug)]
pub(crate) struct Keys {
    /// From files that are read once.
    fixed: Vec<Arc<Key>>,
    set: Option<KeySet>,
}

/// A JSON Web Key Set that is read again and again.
#[derive(Debug)]
struct KeySet {
    source: Source,
    web: Web,
    keys: RwLock<Vec<Arc<Key>>>,
    /// When it was read last, with or without success. Whoever reads holds the lock.
    read_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(String),
}

impl Keys {
    pub(crate) fn new(config: &AuthConfig, web: &Web) -> Result<Arc<Self>, Error> {
        let mut fixed = Vec::new();
        if let Some(path) = &config.jwt_secret_file {
            let secret = read("jwt_secret_file", path)?;
            let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
            if secret.len() < SECRET_BYTES_MIN {
                return Err(Error::Value {
                    key: "jwt_secret_file",
                    what: format!("a secret has at least {SECRET_BYTES_MIN} bytes"),
                });
            }
            fixed.push(Key::new(
                None,
                Algorithm::HS256,
                DecodingKey::from_secret(secret),
            ));
        }
        if let Some(path) = &config.jwt_public_key_file {
            let pem = read("jwt_public_key_file", path)?;
            let rsa = DecodingKey::from_rsa_pem(&pem).map(|key| (Algorithm::RS256, key));
            let ec = || DecodingKey::from_ec_pem(&pem).map(|key| (Algorithm::ES256, key));
            let (algorithm, key) = rsa.or_else(|_| ec()).map_err(|error| Error::Value {
                key: "jwt_public_key_file",
                what: format!("neither a public key of RSA nor of P-256 in PEM form: {error}"),
            })?;
            fixed.push(Key::new(None, algorithm, key));
        }
        let set = config.jwks.as_ref().map(|jwks| KeySet {
            source: match is_url(jwks) {
                true => Source::Url(jwks.clone()),
                false => Source::File(jwks.into()),
            },
            web: web.clone(),
            keys: RwLock::default(),
            read_at: Mutex::default(),
        });
        if let Some(KeySet {
            source: Source::File(path),
            keys,
            ..
        }) = &set
        {
            let wrong = |what| Error::Value { key: "jwks", what };
            let parsed = parse(&read("jwks", path)?).map_err(wrong)?;
            *keys.write().unwrap_or_else(PoisonError::into_inner) = parsed;
        }
        let keys = Arc::new(Self { fixed, set });
        if keys.set.is_some() {
            tokio::spawn(refresh(Arc::downgrade(&keys), config.jwks_refresh));
        }
        Ok(keys)
    }

    /// Those that the token may have been signed with.
    pub(crate) async fn candidates(&self, header: &Header) -> Vec<Arc<Key>> {
        let mut candidates: Vec<_> = self
            .fixed
            .iter()
            .filter(|it| it.fits(header))
            .cloned()
            .collect();
        if let Some(set) = &self.set {
            let mut of_set = set.fitting(header);
            if of_set.is_empty() {
                // The issuer may have a new one.
                set.read_again().await;
                of_set = set.fitting(header);
            }
            candidates.extend(of_set);
        }
        candidates
    }
}

#[cfg(test)]
impl Keys {
    /// As if the pause after the last reading were over.
    pub(super) async fn forget_reading(&self) {
        if let Some(set) = &self.set {
            *set.read_at.lock().await = None;
        }
    }
}

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Arc<Self> {
        Arc::new(Self { id, algorithm, key })
    }

    fn fits(&self, header: &Header) -> bool {
        let is_named = match (&header.kid, &self.id) {
            (Some(named), Some(id)) => named == id,
            (None, _) | (_, None) => true,
        };
        is_named && header.alg == self.algorithm
    }

    /// `None`: of a kind that is not taken. A secret in a set would be readable to whoever may read the set.
    fn from_jwk(jwk: &Jwk) -> Option<Arc<Self>> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            _ => return None,
        };
        let named = common.key_algorithm.as_ref().map(ToString::to_string);
        if named.is_some_and(|named| named != format!("{algorithm:?}")) {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self::new(common.key_id.clone(), algorithm, key))
    }
}

impl KeySet {
    fn fitting(&self, header: &Header) -> Vec<Arc<Key>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter()
            .filter(|key| key.fits(header))
            .cloned()
            .collect()
    }

    /// Reads the set, unless somebody just has. If it cannot be read, the keys that were known stay.
    async fn read_again(&self) {
        let mut read_at = self.read_at.lock().await;
        if read_at.is_some_and(|at| at.elapsed() < READ_AGAIN_AFTER) {
            return;
        }
        self.read().await;
        *read_at = Some(Instant::now());
    }

    async fn read(&self) {
        let read = async {
            match &self.source {
                Source::Url(url) => self.web.get(url).await.map(Vec::from),
                Source::File(path) => tokio::fs::read(path)
                    .await
                    .map_err(|error| error.to_string()),
            }
        };
        let read = tokio::time::timeout(READ_WITHIN, read).await;
        let read = read.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        match read.and_then(|bytes| parse(&bytes)) {
            Ok(keys) => {
                info!(keys = keys.len(), "key set read");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            Err(what) => {
                metrics::counter!("magpie_auth_jwks_errors_total").increment(1);
                warn!(%what, source = ?self.source, "the set of keys for tokens cannot be read; those that were known stay");
            }
        }
    }
}

async fn refresh(keys: Weak<Keys>, every: Duration) {
    loop {
        if let Some(keys) = keys.upgrade()
            && let Some(set) = &keys.set
        {
            set.read_again().await;
        } else {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Arc<Key>>, String> {
    let set: JwkSet =
        serde_json::from_slice(bytes).map_err(|error| format!("no key set: {error}"))?;
    let keys: Vec<_> = set
        .keys
        .iter()
        .filter_map(Key::from_jwk)
        .take(KEYS_MAX)
        .collect();
    if keys.is_empty() {
        return Err("no key of RSA (RS256) or P-256 (ES256) in it".to_owned());
    }
    Ok(keys)
}

fn read(key: &'static str, path: &std::path::Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::File {
        key,
        path: path.display().to_string(),
        error,
    })
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}
