//! What the rest of the node knows of a connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use magpie_auth::{CertificateNames, Identity};
use magpie_cluster::ShareMember;
use magpie_codec::ProtocolVersion;
use magpie_state::{ClientId, Epoch, ShareSession};

use crate::mailbox::{Mailbox, MailboxConfig};
use crate::peer::{Peer, Transport};

/// One connection, as others see it. The task owns everything else.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Unique in the node's life.
    pub(crate) number: u64,
    pub(crate) peer: Peer,
    pub(crate) accepted_at: SystemTime,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) traffic: Traffic,
    /// Set when CONNECT was taken.
    greeting: OnceLock<Greeting>,
    /// Once it was let in; another object when it shows again who it is.
    identity: ArcSwapOption<Identity>,
    /// 0 until attached.
    epoch: AtomicU64,
    /// Set when it is attached, if the session outlives its connection.
    share_session: OnceLock<ShareSession>,
}

/// What CONNECT said.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) client: ClientId,
    pub(crate) version: ProtocolVersion,
    pub(crate) keep_alive_s: u16,
    pub(crate) session_expiry_s: u32,
}

/// Application Messages of one connection; only its task adds.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
}

/// A connected client, for the operator.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// Client Identifier.
    pub client: ClientId,
    /// User name that it has proven.
    pub username: Option<String>,
    /// Who vouches for it: `anonymous`, `users`, `scram`, `jwt`, `http` or `certificate`.
    pub authenticated_by: &'static str,
    /// Address of the client.
    pub remote: SocketAddr,
    /// What carries its bytes.
    pub transport: Transport,
    /// The names in the certificate that it showed, if it did.
    pub certificate: Option<Arc<CertificateNames>>,
    /// Version that it speaks.
    pub version: ProtocolVersion,
    /// Wall clock time of the connection.
    pub connected_at: SystemTime,
    /// Keep Alive as it asked for, seconds; 0 is off.
    pub keep_alive_s: u16,
    /// Age of its attachment.
    pub epoch: Epoch,
    /// Subscriptions, shared ones included.
    pub subscriptions: usize,
    /// PUBLISH packets from the client.
    pub messages_received: u64,
    /// Payload bytes of those.
    pub bytes_received: u64,
    /// PUBLISH packets to the client.
    pub messages_sent: u64,
    /// Payload bytes of those.
    pub bytes_sent: u64,
    /// Messages that wait in the mailbox.
    pub waiting: usize,
}

impl Handle {
    pub(crate) fn new(number: u64, peer: Peer, mailbox: &MailboxConfig) -> Self {
        Self {
            number,
            peer,
            accepted_at: SystemTime::now(),
            mailbox: Arc::new(Mailbox::new(mailbox)),
            traffic: Traffic::default(),
            greeting: OnceLock::new(),
            identity: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
            share_session: OnceLock::new(),
        }
    }

    /// Its number in share groups.
    pub(crate) const fn member(&self) -> ShareMember {
        ShareMember(self.number)
    }

    /// The session that it stands for in share groups, if that outlives it.
    pub(crate) fn share_session(&self) -> Option<&ShareSession> {
        self.share_session.get()
    }

    /// Notes that the session outlives it, once.
    pub(crate) fn keep_session(&self, session: ShareSession) {
        // A connection is attached once.
        let _ = self.share_session.set(session);
    }

    /// Notes who it is, once.
    pub(crate) fn greet(&self, greeting: Greeting) {
        // A second CONNECT is a protocol error that ends the connection; who it is does not change.
        let _ = self.greeting.set(greeting);
    }

    /// Notes who its client is.
    pub(crate) fn identify(&self, identity: Arc<Identity>) {
        self.identity.store(Some(identity));
    }

    /// Who its client is, once that is known.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    pub(crate) fn client(&self) -> Option<&ClientId> {
        self.greeting.get().map(|greeting| &greeting.client)
    }

    /// What the fail points of this connection are about.
    pub(crate) fn about(&self) -> Option<&str> {
        self.client().map(|client| &*client.0)
    }

    /// Whether its session outlives its connection, as CONNECT said.
    pub(crate) fn is_durable(&self) -> bool {
        self.greeting
            .get()
            .is_some_and(|greeting| greeting.session_expiry_s > 0)
    }

    /// `None` until attached.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        match self.epoch.load(Ordering::Acquire) {
            0 => None,
            epoch => Some(Epoch(epoch)),
        }
    }

    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// For the operator; `None` before it is attached.
    pub(crate) fn info(&self, subscriptions: usize) -> Option<ClientInfo> {
        let greeting = self.greeting.get()?;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let identity = self.identity()?;
        let username = identity.subject.username.as_ref();
        Some(ClientInfo {
            client: greeting.client.clone(),
            username: username.map(ToString::to_string),
            authenticated_by: identity.by.name(),
            remote: self.peer.remote,
            transport: self.peer.transport,
            certificate: self.peer.certificate.clone(),
            version: greeting.version,
            connected_at: self.accepted_at,
            keep_alive_s: greeting.keep_alive_s,
            epoch: self.epoch()?,
            subscriptions,
            messages_received: count(&self.traffic.received),
            bytes_received: count(&self.traffic.received_bytes),
            messages_sent: count(&self.traffic.sent),
            bytes_sent: count(&self.traffic.sent_bytes),
            waiting: self.mailbox.held().messages,
        })
    }
}
