//! Who is at the other end of a connection, as far as the transport tells.

use std::net::SocketAddr;
use std::sync::Arc;

use magpie_auth::CertificateNames;

/// What is known of a client before its CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The client's address, by PROXY protocol if it came so.
    pub(crate) remote: SocketAddr,
    /// How it came.
    pub(crate) transport: Transport,
    /// Of the certificate that it showed, and that an authority of ours has signed.
    pub(crate) certificate: Option<Arc<CertificateNames>>,
}

impl Peer {
    /// Of a plain connection.
    pub(crate) const fn tcp(remote: SocketAddr) -> Self {
        Self {
            remote,
            transport: Transport::Tcp,
            certificate: None,
        }
    }
}

/// What carries the bytes of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// In small letters, for people and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}
