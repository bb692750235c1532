//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: the client proves that it knows the password without showing it, and the server
//! that it knows what the password was turned into.
//!
//! ```text
//! client-first ──► Scram::begin ──► server-first ──► client-final ──► Scram::finish ──► server-final
//! ```
//! An unknown user is asked as a known one would be, with a salt that is always the same for the name, and fails at the proof.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use magpie_access::{Policy, SALT_BYTES, SCRAM_ITERATIONS, ScramVerifier};
use magpie_codec::Text;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{Refusal, proven};

/// Its name as an Authentication Method of MQTT 5.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Longest message of a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;
const NONCE_BYTES: usize = 18;

/// An exchange that waits for the client's proof.
#[derive(Debug)]
pub struct Scram {
    username: Text,
    verifier: ScramVerifier,
    /// Whether there is such a user: else no proof holds.
    is_known: bool,
    /// The client's header on channel binding, which its proof covers.
    gs2_header: String,
    nonce: String,
    /// What both have said so far.
    transcript: String,
}

impl Scram {
    /// Takes the client's first message; gives the exchange, and what the server says to it.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorized`]: not a message of this method, or one that asks for channel binding, which is not offered.
    pub fn begin(
        policy: &Policy,
        secret: &[u8; 32],
        message: &[u8],
    ) -> Result<(Self, Bytes), Refusal> {
        Self::begin_with(
            policy,
            secret,
            message,
            &BASE64.encode(proven::random::<NONCE_BYTES>()),
        )
    }

    fn begin_with(
        policy: &Policy,
        secret: &[u8; 32],
        message: &[u8],
        server_nonce: &str,
    ) -> Result<(Self, Bytes), Refusal> {
        let first = ClientFirst::parse(message).ok_or(Refusal::NotAuthorized)?;
        let username = Text::try_from(first.username).map_err(|_| Refusal::NotAuthorized)?;
        let known = policy.user(&username).and_then(|user| user.scram.as_ref());
        let is_known = known.is_some();
        let verifier = known.map_or_else(|| nobody(secret, &username), Clone::clone);
        let nonce = format!("{}{server_nonce}", first.nonce);
        let answer = format!(
            "r={nonce},s={},i={}",
            BASE64.encode(verifier.salt),
            verifier.iterations
        );
        let exchange = Self {
            username,
            verifier,
            is_known,
            gs2_header: first.gs2_header.to_owned(),
            nonce,
            transcript: format!("{},{answer}", first.bare),
        };
        Ok((exchange, Bytes::from(answer)))
    }

    /// Takes the client's last message, its proof; gives the user name that is proven, and what the server says to it, its own proof.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorized`], whatever does not fit.
    pub fn finish(self, message: &[u8]) -> Result<(Text, Bytes), Refusal> {
        let last = ClientFinal::parse(message).ok_or(Refusal::NotAuthorized)?;
        if last.binding != self.gs2_header.as_bytes() || last.nonce != self.nonce {
            return Err(Refusal::NotAuthorized);
        }
        let transcript = format!("{},{}", self.transcript, last.without_proof);
        let signature = hmac(&self.verifier.stored_key, transcript.as_bytes());
        let client_key: [u8; 32] = std::array::from_fn(|at| last.proof[at] ^ signature[at]);
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let is_right = bool::from(stored_key.ct_eq(&self.verifier.stored_key));
        if !(is_right & self.is_known) {
            return Err(Refusal::NotAuthorized);
        }
        let signature = hmac(&self.verifier.server_key, transcript.as_bytes());
        let answer = format!("v={}", BASE64.encode(signature));
        Ok((self.username, Bytes::from(answer)))
    }

    /// Who it says it is: not proven yet.
    #[must_use]
    pub const fn claimed(&self) -> &Text {
        &self.username
    }
}

/// `n,,n=user,r=nonce`
struct ClientFirst<'a> {
    gs2_header: &'a str,
    bare: &'a str,
    username: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let message = text(message)?;
        let mut parts = message.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // `p` asks for channel binding; `y` would if we had said that we can.
        if !matches!(flag, "n" | "y") {
            return None;
        }
        let mut attributes = bare.split(',');
        // First in order, so that `m=`, an extension that nobody may ignore, is refused too.
        let username = name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        // To act as somebody else is not offered.
        let acts_as = match authzid {
            "" => None,
            authzid => Some(name(authzid.strip_prefix("a=")?)?),
        };
        if acts_as.is_some_and(|acts_as| acts_as != username) {
            return None;
        }
        Some(Self {
            gs2_header: &message[..message.len() - bare.len()],
            bare,
            username,
            nonce,
        })
    }
}

/// `c=biws,r=nonce,p=proof`
struct ClientFinal<'a> {
    binding: Vec<u8>,
    nonce: &'a str,
    proof: [u8; 32],
    without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let message = text(message)?;
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next()?.strip_prefix("c=")?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        Some(Self {
            binding: BASE64.decode(binding).ok()?,
            nonce,
            proof: BASE64.decode(proof).ok()?.try_into().ok()?,
            without_proof,
        })
    }
}

fn text(message: &[u8]) -> Option<&str> {
    if message.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(message).ok()
}

/// A name, in which `=2C` stands for a comma and `=3D` for an equals sign.
fn name(escaped: &str) -> Option<String> {
    let mut name = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(at) = rest.find('=') {
        name.push_str(&rest[..at]);
        name.push(match rest.get(at..at + 3)? {
            "=2C" => ',',
            "=3D" => '=',
            _ => return None,
        });
        rest = &rest[at + 3..];
    }
    name.push_str(rest);
    (!name.is_empty()).then_some(name)
}

/// What stands in for the keys of a user that is not there: the same at each try, and on each node.
fn nobody(secret: &[u8; 32], username: &str) -> ScramVerifier {
    let derive = |label: &str| hmac(secret, format!("{label}:{username}").as_bytes());
    let salt = derive("scram salt");
    ScramVerifier {
        salt: std::array::from_fn::<u8, SALT_BYTES, _>(|at| salt[at]),
        iterations: SCRAM_ITERATIONS,
        stored_key: derive("scram stored key"),
        server_key: derive("scram server key"),
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
