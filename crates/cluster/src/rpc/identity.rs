//! Who this node is, and the headers that tell it to others.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use hmac::{Hmac, Mac as _};
use magpie_state::{ClusterId, Incarnation, NodeId};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Metadata key: cluster, source node, its incarnation, and target node, as hex numbers; `-` for what is not known.
pub(super) const PEER: &str = "magpie-peer";
/// Metadata key: the cluster secret as hex.
pub(super) const SECRET: &str = "magpie-secret";

/// The shared secret of a cluster. Has no `Debug`, so that no log can show it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the secret's bytes as configured.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let mut hex = String::with_capacity(secret.len() * 2 + 1);
        // A header value must not be empty; the prefix allows an empty secret for a cluster of one on loopback.
        hex.push('s');
        for byte in secret {
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(hex.into())
    }

    fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Compares in a time that depends on the length only.
    pub(super) fn matches(&self, header: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(header).into()
    }
}

impl Identity {
    /// A key for one purpose that all nodes of the cluster have in common, and nobody else has. Without a secret, in a cluster of one, it is the
    /// node's.
    #[must_use]
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.0.as_bytes())
            .expect("HMAC takes keys of any length");
        mac.update(purpose.as_bytes());
        if self.secret.is_empty() {
            mac.update(&self.node.0.to_le_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

/// What this node says about itself in every call.
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    pub(super) secret: Secret,
    cluster: OnceLock<ClusterId>,
}

impl Identity {
    /// The identity of a node that may not belong to a cluster yet.
    #[must_use]
    pub fn new(node: NodeId, incarnation: Incarnation, secret: Secret) -> Arc<Self> {
        Arc::new(Self {
            node,
            incarnation,
            secret,
            cluster: OnceLock::new(),
        })
    }

    /// The cluster, once it is known. Before that, calls between members are neither made nor admitted.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }

    /// Joins a cluster, for the life of the process. Returns whether the node now belongs to that cluster: joining the same one again
    /// is fine, another one is refused.
    pub fn join(&self, cluster: ClusterId) -> bool {
        *self.cluster.get_or_init(|| cluster) == cluster
    }
}

/// Adds the headers of one target to every call, on the client's side.
#[derive(Clone)]
pub struct Credentials {
    identity: Arc<Identity>,
    target: Option<NodeId>,
    /// Built at the first call after the cluster became known; then only cloned, which is a reference count.
    headers: Arc<OnceLock<(MetadataValue<Ascii>, MetadataValue<Ascii>)>>,
}

impl Credentials {
    /// For calls to the member `target`, or, with `None`, to an address behind which any node may be.
    pub(super) fn new(identity: Arc<Identity>, target: Option<NodeId>) -> Self {
        Self {
            identity,
            target,
            headers: Arc::default(),
        }
    }

    fn build(&self) -> (MetadataValue<Ascii>, MetadataValue<Ascii>) {
        let identity = &self.identity;
        let cluster = identity
            .cluster()
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        let target = self
            .target
            .map_or_else(|| "-".to_owned(), |id| id.to_string());
        let peer = format!(
            "{cluster} {} {:x} {:016x} {target}",
            identity.node, identity.incarnation.counter, identity.incarnation.nonce
        );
        let ascii = |text: &str| {
            MetadataValue::try_from(text).expect("hex digits and blanks are a valid header")
        };
        (ascii(&peer), ascii(&identity.secret.0))
    }

    fn add(&self, metadata: &mut MetadataMap) {
        let (peer, secret) = if self.identity.cluster().is_some() {
            self.headers.get_or_init(|| self.build()).clone()
        } else {
            self.build()
        };
        metadata.insert(PEER, peer);
        metadata.insert(SECRET, secret);
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.add(request.metadata_mut());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A comparison that stopped at the first difference would be thousands of times faster for the first of these.
    #[test]
    fn how_much_of_a_secret_is_right_does_not_show_in_the_time() {
        let secret = Secret::new(&[7; 1 << 18]);
        let right = secret.0.as_bytes().to_vec();
        assert!(secret.matches(&right));
        let last = right.len() - 1;
        let time = |wrong_at: usize| {
            let mut header = right.clone();
            header[wrong_at] ^= 1;
            let times = (0..20).map(|_| {
                let began = Instant::now();
                assert!(!secret.matches(&header));
                began.elapsed()
            });
            times.min().unwrap_or(Duration::MAX)
        };
        let (early, late) = (time(1), time(last));
        assert!(late < early * 10, "{early:?} {late:?}");
    }
}
