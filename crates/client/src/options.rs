//! What a client needs to know to connect.

use std::time::Duration;

use bytes::Bytes;
use magpie_codec::{Connect, ConnectProperties, ProtocolVersion, Text, Will};

use crate::Tls;

/// Where to connect, as whom, and how.
///
/// `Debug` does not show the password.
#[derive(Clone)]
pub struct Options {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS; default none: plain TCP.
    pub tls: Option<Tls>,
    /// The protocol version; default 5.0.
    pub version: ProtocolVersion,
    /// Client Identifier; default empty, so that the server makes one up.
    pub client_id: Text,
    /// Clean Start; default true.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off; default 60. A Server Keep Alive replaces it.
    pub keep_alive_s: u16,
    /// User Name.
    pub username: Option<Text>,
    /// Password.
    pub password: Option<Bytes>,
    /// The Will.
    pub will: Option<Will>,
    /// Session expiry, Receive Maximum and the other properties; not sent before version 5.
    pub properties: ConnectProperties,
    /// How long host lookup, TCP, TLS and CONNACK may take together; default 10 s.
    pub connect_timeout: Duration,
    /// Who acknowledges incoming messages; default [`Acknowledge::Automatically`].
    pub acknowledge: Acknowledge,
    /// How many incoming messages may wait for [`Client::next`](crate::Client::next), at least 1; default 10,000. When
    /// they do, the socket is not read, and acknowledgements of own messages are not seen either.
    pub incoming_max: usize,
}

/// When PUBACK or PUBREC for an incoming message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledge {
    /// As soon as it waits for [`Client::next`](crate::Client::next).
    #[default]
    Automatically,
    /// When the user calls [`Client::acknowledge`](crate::Client::acknowledge).
    ByHand,
}

impl Options {
    /// Options with their defaults.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            version: ProtocolVersion::V5,
            client_id: Text::default(),
            clean_start: true,
            keep_alive_s: 60,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
            connect_timeout: Duration::from_secs(10),
            acknowledge: Acknowledge::default(),
            incoming_max: 10_000,
        }
    }

    pub(crate) fn to_connect(&self) -> Connect {
        let properties = (self.properties != ConnectProperties::default())
            .then(|| Box::new(self.properties.clone()));
        Connect {
            version: self.version,
            client_id: self.client_id.clone(),
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            username: self.username.clone(),
            password: self.password.clone(),
            will: self.will.clone().map(Box::new),
            properties,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("connect", &self.to_connect())
            .field("acknowledge", &self.acknowledge)
            .finish_non_exhaustive()
    }
}
