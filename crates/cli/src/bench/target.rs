//! The servers under load, and how a bench's connections get there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use clap::Args;
use magpie_client::reason_in_words;
use magpie_codec::{
    Connect, ConnectProperties, Decoder, Limits, Packet, PacketId, ProtocolVersion, QoS, Subscribe,
    SubscriptionOptions, Text, TopicFilter, encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::connect_args::parse_version;

/// Which servers, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArgs {
    /// Servers, HOST:PORT,...: with several, publishers connect to the first and subscribers to the others
    #[arg(
        long,
        default_value = "127.0.0.1:1883",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    hosts: Vec<String>,
    /// Publishers on all servers, each subscriber on another server than its publisher: every message crosses nodes
    #[arg(long, conflicts_with = "local")]
    cross: bool,
    /// Publishers on all servers, each subscriber on the server of its publisher
    #[arg(long)]
    local: bool,
    /// Protocol version: mqttv5 or 5, mqttv311 or 311, mqttv31 or 31
    #[arg(short = 'V', long, default_value = "mqttv311", value_name = "VERSION", value_parser = parse_version)]
    pub(super) protocol_version: ProtocolVersion,
    /// User name
    #[arg(short = 'u', long, value_name = "NAME")]
    username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD")]
    password: Option<String>,
    /// First levels of every topic; a random one when left out, so that runs do not meet
    #[arg(long, value_name = "PREFIX")]
    topic_prefix: Option<String>,
    /// Processes of the servers, on this machine: their CPU time and memory are measured
    #[arg(long = "pid", value_delimiter = ',', value_name = "PID")]
    pub(super) pids: Vec<u32>,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    pub(super) threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The servers with their names resolved.
pub(super) struct Target {
    addresses: Vec<SocketAddr>,
    spread: Spread,
    version: ProtocolVersion,
    username: Option<Text>,
    password: Option<String>,
    topic_prefix: String,
    /// Sets the client ids of this run apart.
    run: u32,
    sockets: AtomicU32,
}

#[derive(Clone, Copy)]
enum Spread {
    FirstAndRest,
    Cross,
    Local,
}

/// A connection after its handshake.
pub(super) struct Established {
    pub(super) stream: TcpStream,
    /// What came behind the last answer.
    pub(super) read: BytesMut,
    /// The server's Receive Maximum.
    pub(super) receive_maximum: u16,
    /// Whether the server had a session.
    pub(super) session_present: bool,
}

/// Whether a connection's session outlives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// A new session that ends with the connection; what there was under the name is forgotten.
    Connection,
    /// The session under the name goes on, and is kept.
    Durable,
}

/// DISCONNECT is the same in all versions.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];
/// How long the server is asked to keep a durable session, in seconds.
const SESSION_EXPIRY_S: u32 = 3600;
/// How long a handshake may take.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Connections from one source address to one server: the kernel has about 28,000 ports for them.
const PORTS_PER_SOURCE: u32 = 20_000;

impl Target {
    pub(super) async fn new(args: &TargetArgs) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        for host in &args.hosts {
            let mut found = tokio::net::lookup_host(host)
                .await
                .with_context(|| format!("cannot resolve {host}, which should be HOST:PORT"))?;
            addresses.push(
                found
                    .next()
                    .with_context(|| format!("{host} has no address"))?,
            );
        }
        let spread = match (args.cross, args.local) {
            (true, _) => Spread::Cross,
            (_, true) => Spread::Local,
            _ => Spread::FirstAndRest,
        };
        if matches!(spread, Spread::Cross) && addresses.len() < 2 {
            bail!("--cross needs at least two --hosts");
        }
        let run = std::process::id()
            ^ std::time::UNIX_EPOCH
                .elapsed()
                .map_or(0, |now| now.subsec_nanos());
        Ok(Self {
            addresses,
            spread,
            version: args.protocol_version,
            username: args.username.as_deref().map(Text::try_from).transpose()?,
            password: args.password.clone(),
            topic_prefix: args
                .topic_prefix
                .clone()
                .unwrap_or_else(|| format!("bench/{run:08x}")),
            run,
            sockets: AtomicU32::new(0),
        })
    }

    pub(super) const fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// A topic of this run.
    pub(super) fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.topic_prefix)
    }

    /// The server of a publisher.
    pub(super) fn publisher_host(&self, publisher: usize) -> usize {
        match self.spread {
            Spread::FirstAndRest => 0,
            Spread::Cross | Spread::Local => publisher % self.addresses.len(),
        }
    }

    /// The server of a subscriber, which hears this publisher or, if it hears several, is paired with it.
    pub(super) fn subscriber_host(&self, publisher: usize, subscriber: usize) -> usize {
        let hosts = self.addresses.len();
        match self.spread {
            _ if hosts == 1 => 0,
            Spread::FirstAndRest => 1 + subscriber % (hosts - 1),
            Spread::Local => self.publisher_host(publisher),
            Spread::Cross => {
                let step = 1 + (subscriber / hosts) % (hosts - 1);
                (self.publisher_host(publisher) + step) % hosts
            }
        }
    }

    /// The server of the n-th connection where nothing is published.
    pub(super) fn any_host(&self, connection: usize) -> usize {
        connection % self.addresses.len()
    }

    /// Opens a connection and waits for CONNACK.
    pub(super) async fn connect(
        &self,
        host: usize,
        name: &str,
        lifetime: Lifetime,
    ) -> anyhow::Result<Established> {
        let address = self.addresses[host];
        tokio::time::timeout(ANSWER_WAIT, self.handshake(address, name, lifetime))
            .await
            .with_context(|| format!("{address} does not answer"))?
            .with_context(|| format!("cannot connect to {address}"))
    }

    async fn handshake(
        &self,
        address: SocketAddr,
        name: &str,
        lifetime: Lifetime,
    ) -> anyhow::Result<Established> {
        let is_durable = lifetime == Lifetime::Durable;
        let properties = (is_durable && self.version.has_properties()).then(|| {
            Box::new(ConnectProperties {
                session_expiry_interval_s: SESSION_EXPIRY_S,
                ..ConnectProperties::default()
            })
        });
        let mut stream = self.open(address).await?;
        let connect = Connect {
            version: self.version,
            client_id: Text::try_from(format!("bench-{:08x}-{name}", self.run))?,
            clean_start: !is_durable,
            keep_alive_s: 0,
            username: self.username.clone(),
            password: self.password.clone().map(Into::into),
            will: None,
            properties,
        };
        let mut read = BytesMut::new();
        let connect = Packet::Connect(Box::new(connect));
        match ask(&mut stream, self.version, &connect, &mut read).await? {
            Packet::ConnAck(connack) if connack.reason.is_error() => {
                bail!("{}", reason_in_words(connack.reason))
            }
            Packet::ConnAck(connack) => {
                let receive_maximum = connack
                    .properties
                    .and_then(|properties| properties.receive_maximum);
                let receive_maximum = receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get);
                Ok(Established {
                    stream,
                    read,
                    receive_maximum,
                    session_present: connack.session_present,
                })
            }
            other => bail!("unexpected {:?}", other.packet_type()),
        }
    }

    async fn open(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        let number = self.sockets.fetch_add(1, Ordering::Relaxed);
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && number >= PORTS_PER_SOURCE {
            // All of 127.0.0.0/8 is this machine.
            let source = u32::from(Ipv4Addr::LOCALHOST) + number / PORTS_PER_SOURCE;
            socket.bind(SocketAddr::new(Ipv4Addr::from(source).into(), 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Ends the session under a name.
    pub(super) async fn forget(&self, host: usize, name: &str) -> anyhow::Result<()> {
        let mut established = self.connect(host, name, Lifetime::Connection).await?;
        established.stream.write_all(&DISCONNECT).await?;
        Ok(())
    }

    /// Subscribes on a new connection and waits for SUBACK.
    pub(super) async fn subscribe(
        &self,
        established: &mut Established,
        filter: &str,
        qos: QoS,
    ) -> anyhow::Result<()> {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            subscription_id: None,
            user_properties: Vec::new(),
            filters: vec![(TopicFilter::try_from(filter)?, options)],
        });
        let Established { stream, read, .. } = established;
        let answer = tokio::time::timeout(ANSWER_WAIT, ask(stream, self.version, &subscribe, read))
            .await
            .with_context(|| format!("no answer to the subscription to {filter}"))??;
        match answer {
            Packet::SubAck(suback) => match suback.reasons[..] {
                [granted] if u8::from(granted) == u8::from(qos) => Ok(()),
                [reason] => bail!("the subscription to {filter}: {}", reason_in_words(reason)),
                _ => bail!("a SUBACK with {} reason codes", suback.reasons.len()),
            },
            other => bail!("unexpected {:?}", other.packet_type()),
        }
    }
}

/// Sends a packet and reads the next one.
async fn ask(
    stream: &mut TcpStream,
    version: ProtocolVersion,
    packet: &Packet,
    read: &mut BytesMut,
) -> anyhow::Result<Packet> {
    let mut out = BytesMut::new();
    encode(version, packet, None, &mut out)?;
    stream.write_all(&out).await?;
    let mut decoder = Decoder::client(version, Limits::default());
    loop {
        if let Some(packet) = decoder.decode(read)? {
            return Ok(packet);
        }
        if stream.read_buf(read).await? == 0 {
            bail!("the server closed the connection");
        }
    }
}
