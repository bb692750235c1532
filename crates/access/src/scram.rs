//! What a server keeps to check SCRAM-SHA-256 (RFC 5802, RFC 7677) without the password.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{PASSWORD_BYTES_MAX, PasswordError, SALT_BYTES};

/// Rounds of PBKDF2 that the client does at every login; RFC 7677 asks for 4096 at least.
pub const SCRAM_ITERATIONS: u32 = 15_000;

/// The keys derived from a password. Secret: with them, one can pretend to be the server, and try passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramVerifier {
    /// Told to the client.
    #[serde(with = "as_base64")]
    pub salt: [u8; SALT_BYTES],
    /// Told to the client.
    pub iterations: u32,
    /// The hash of the client's key: what its proof is checked with.
    #[serde(with = "as_base64")]
    pub stored_key: [u8; 32],
    /// What the server proves itself with.
    #[serde(with = "as_base64")]
    pub server_key: [u8; 32],
}

impl ScramVerifier {
    /// Derives the keys; `salt` is random. Takes some milliseconds. The password is taken byte by byte as it is: clients that normalize
    /// (SASLprep) arrive at the same for ASCII.
    ///
    /// # Errors
    /// An empty or too long password.
    pub fn of(
        password: &[u8],
        salt: [u8; SALT_BYTES],
        iterations: u32,
    ) -> Result<Self, PasswordError> {
        if password.is_empty() {
            return Err(PasswordError::Empty);
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(PasswordError::TooLong);
        }
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, &salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        Ok(Self {
            salt,
            iterations,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, b"Server Key"),
        })
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier")
    }
}

mod as_base64 {
    use super::{BASE64, Deserialize, Deserializer, Engine, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        BASE64.encode(bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        let bytes = BASE64.decode(text).map_err(serde::de::Error::custom)?;
        bytes
            .try_into()
            .map_err(|_| serde::de::Error::custom("not of that length"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// The exchange of RFC 7677, section 3: user "user", password "pencil".
    #[test]
    fn the_exchange_of_the_rfc_is_reproduced() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::of(b"pencil", salt.try_into().unwrap(), 4096).unwrap();
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = BASE64
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap();
        let signature = hmac(&verifier.stored_key, auth_message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha256::digest(client_key).as_slice(), verifier.stored_key);
        let server = hmac(&verifier.server_key, auth_message.as_bytes());
        assert_eq!(
            BASE64.encode(server),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_verifier_survives_json() {
        let verifier = ScramVerifier::of(b"pencil", [3; 16], 10).unwrap();
        let json = serde_json::to_string(&verifier).unwrap();
        assert_eq!(
            serde_json::from_str::<ScramVerifier>(&json).unwrap(),
            verifier
        );
    }
}
