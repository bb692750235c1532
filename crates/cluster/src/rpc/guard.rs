//! Who is let in, on the server's side.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use magpie_state::{ClusterId, Incarnation, NodeId};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::identity::{Identity, PEER, SECRET};

/// Different refusals remembered, so that each is logged once; past it, none is logged any more.
const REFUSALS_LOGGED_MAX: usize = 64;

/// The node that called, as its headers say. The handler finds it in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The cluster it belongs to; `None` for a node that does not know one yet.
    pub cluster: Option<ClusterId>,
    /// The calling node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The node it meant to call; `None` when it only knew an address.
    pub target: Option<NodeId>,
}

impl Peer {
    /// Who made a call.
    ///
    /// # Errors
    /// The service that was called stands behind no guard.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get().copied();
        peer.ok_or_else(|| Status::internal("the call passed no guard"))
    }
}

/// A further check of callers, set by the membership module: refuses old incarnations, with the reason.
type Doorkeeper = Box<dyn Fn(&Peer) -> Result<(), String> + Send + Sync>;

/// Checks the headers of every call. Cheap to clone.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    doorkeeper: ArcSwapOption<Doorkeeper>,
    logged: Mutex<HashSet<String>>,
}

impl Guard {
    /// A guard for the services of this node.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                doorkeeper: ArcSwapOption::empty(),
                logged: Mutex::default(),
            }),
        }
    }

    /// Sets the check that members pass besides secret, cluster and target. It runs on every call and must not block.
    pub fn set_doorkeeper(
        &self,
        check: impl Fn(&Peer) -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.inner.doorkeeper.store(Some(Arc::new(Box::new(check))));
    }

    /// Interceptor for services between members: secret, same cluster, this node as target, doorkeeper.
    #[must_use]
    pub fn members(&self) -> MemberGuard {
        MemberGuard(self.clone())
    }

    /// Interceptor for services that nodes use before they belong to a cluster: the secret only.
    #[must_use]
    pub fn strangers(&self) -> StrangerGuard {
        StrangerGuard(self.clone())
    }

    fn admit(&self, metadata: &MetadataMap, member: bool) -> Result<Peer, Status> {
        let outcome = self.check(metadata, member);
        if let Err((who, refusal)) = &outcome {
            self.log_once(who, refusal);
        }
        outcome.map_err(|(_, refusal)| refusal)
    }

    fn check(&self, metadata: &MetadataMap, member: bool) -> Result<Peer, (String, Status)> {
        let refuse = |who: &dyn ToString, status: Status| Err((who.to_string(), status));
        let identity = &self.inner.identity;
        let secret = metadata.get(SECRET).map(|value| value.as_encoded_bytes());
        if !secret.is_some_and(|secret| identity.secret.matches(secret)) {
            return refuse(
                &"unknown",
                Status::unauthenticated("the cluster secret is not the same"),
            );
        }
        let header = metadata.get(PEER).and_then(|value| value.to_str().ok());
        let Some(peer) = header.and_then(parse) else {
            return refuse(
                &"unknown",
                Status::invalid_argument("the caller does not say who it is"),
            );
        };
        if !member {
            return Ok(peer);
        }
        let Some(cluster) = identity.cluster() else {
            return refuse(
                &peer.node,
                Status::failed_precondition("this node belongs to no cluster yet"),
            );
        };
        if peer.cluster != Some(cluster) {
            return refuse(
                &peer.node,
                Status::failed_precondition(format!("this node belongs to cluster {cluster}")),
            );
        }
        if peer.target != Some(identity.node) {
            return refuse(
                &peer.node,
                Status::failed_precondition(format!("this is node {}", identity.node)),
            );
        }
        if let Some(doorkeeper) = &*self.inner.doorkeeper.load()
            && let Err(reason) = doorkeeper(&peer)
        {
            return refuse(&peer.node, Status::permission_denied(reason));
        }
        Ok(peer)
    }

    fn log_once(&self, who: &str, refusal: &Status) {
        let mut logged = self
            .inner
            .logged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if logged.len() < REFUSALS_LOGGED_MAX
            && logged.insert(format!("{who} {}", refusal.message()))
        {
            tracing::warn!(
                peer = who,
                reason = refusal.message(),
                "call of another node refused"
            );
        }
    }
}

/// See [`Guard::members`].
#[derive(Clone)]
pub struct MemberGuard(Guard);

impl Interceptor for MemberGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = self.0.admit(request.metadata(), true)?;
        request.extensions_mut().insert(peer);
        Ok(request)
    }
}

/// See [`Guard::strangers`].
#[derive(Clone)]
pub struct StrangerGuard(Guard);

impl Interceptor for StrangerGuard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let peer = self.0.admit(request.metadata(), false)?;
        request.extensions_mut().insert(peer);
        Ok(request)
    }
}

fn parse(header: &str) -> Option<Peer> {
    let mut words = header.split(' ');
    let mut word = || words.next();
    let cluster = word()?;
    let node = word()?;
    let counter = word()?;
    let nonce = word()?;
    let target = word()?;
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
    Some(Peer {
        cluster: match cluster {
            "-" => None,
            hex => Some(ClusterId(u128::from_str_radix(hex, 16).ok()?)),
        },
        node: NodeId(number(node)?),
        incarnation: Incarnation {
            counter: number(counter)?,
            nonce: number(nonce)?,
        },
        target: match target {
            "-" => None,
            hex => Some(NodeId(number(hex)?)),
        },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::rpc::{Credentials, Secret};

    fn identity(node: u64, cluster: Option<u128>, secret: &[u8]) -> Arc<Identity> {
        let incarnation = Incarnation {
            counter: 3,
            nonce: u64::MAX,
        };
        let identity = Identity::new(NodeId(node), incarnation, Secret::new(secret));
        if let Some(cluster) = cluster {
            assert!(identity.join(ClusterId(cluster)));
        }
        identity
    }

    /// What the guard of node 2 in cluster 7 says to a call of node 1.
    fn call(
        cluster: Option<u128>,
        secret: &[u8],
        target: Option<u64>,
    ) -> [Result<Peer, Status>; 2] {
        let guard = Guard::new(identity(2, Some(7), b"secret"));
        let mut credentials = Credentials::new(identity(1, cluster, secret), target.map(NodeId));
        let request = credentials.call(Request::new(())).unwrap();
        let peer = |request: Result<Request<()>, Status>| {
            request.map(|request| *request.extensions().get::<Peer>().unwrap())
        };
        let copy = || {
            let mut copy = Request::new(());
            *copy.metadata_mut() = request.metadata().clone();
            copy
        };
        [
            peer(guard.members().call(copy())),
            peer(guard.strangers().call(copy())),
        ]
    }

    #[test]
    fn a_member_is_admitted_and_named() {
        let [member, _] = call(Some(7), b"secret", Some(2));
        let peer = member.unwrap();
        assert_eq!((peer.node, peer.target), (NodeId(1), Some(NodeId(2))));
        assert_eq!(
            (peer.incarnation.counter, peer.incarnation.nonce),
            (3, u64::MAX)
        );
        assert_eq!(peer.cluster, Some(ClusterId(7)));
    }

    #[test]
    fn what_does_not_match_is_refused() {
        for (cluster, secret, target, code) in [
            (
                Some(8),
                &b"secret"[..],
                Some(2),
                tonic::Code::FailedPrecondition,
            ),
            (None, b"secret", Some(2), tonic::Code::FailedPrecondition),
            (Some(7), b"secret", Some(3), tonic::Code::FailedPrecondition),
            (Some(7), b"secret", None, tonic::Code::FailedPrecondition),
            (Some(7), b"secrex", Some(2), tonic::Code::Unauthenticated),
            (Some(7), b"secret2", Some(2), tonic::Code::Unauthenticated),
        ] {
            let [member, stranger] = call(cluster, secret, target);
            assert_eq!(member.unwrap_err().code(), code);
            // A stranger only needs the secret.
            assert_eq!(stranger.is_ok(), secret == b"secret");
        }
    }

    #[test]
    fn a_call_without_headers_is_refused() {
        let guard = Guard::new(identity(2, Some(7), b""));
        let refused = guard.strangers().call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn the_doorkeeper_has_the_last_word() {
        let guard = Guard::new(identity(2, Some(7), b""));
        guard.set_doorkeeper(|peer| Err(format!("{} is fenced", peer.node)));
        let mut credentials = Credentials::new(identity(1, Some(7), b""), Some(NodeId(2)));
        let request = credentials.call(Request::new(())).unwrap();
        let refused = guard.members().call(request).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    }
}
