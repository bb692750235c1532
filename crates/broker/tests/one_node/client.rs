//! A client that does what a test says, packet by packet.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use magpie_codec::{
    Ack, ConnAck, Connect, ConnectProperties, Decoder, Disconnect, DisconnectProperties, Limits,
    Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, SubAck, Subscribe,
    SubscriptionOptions, Text, TopicFilter, TopicName, Unsubscribe, Will,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client says in CONNECT. Version 5, without a session of before or after, unless changed.
#[derive(Clone)]
pub(crate) struct Greeting {
    pub(crate) version: ProtocolVersion,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: u32,
    pub(crate) receive_maximum: Option<NonZeroU16>,
    pub(crate) will: Option<Box<Will>>,
    /// User name and password.
    pub(crate) user: Option<(&'static str, String)>,
}

impl Default for Greeting {
    fn default() -> Self {
        Self {
            version: ProtocolVersion::V5,
            clean_start: true,
            expiry_s: 0,
            receive_maximum: None,
            will: None,
            user: None,
        }
    }
}

impl Greeting {
    /// As a user of this name.
    pub(crate) fn user(name: &'static str, password: &str) -> Self {
        Self {
            user: Some((name, password.to_owned())),
            ..Self::default()
        }
    }

    /// Goes on with its session, and leaves one behind.
    pub(crate) fn durable() -> Self {
        Self {
            clean_start: false,
            expiry_s: 600,
            ..Self::default()
        }
    }
}

/// What carries a client's bytes.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

pub(crate) struct TestClient {
    socket: Box<dyn Socket>,
    version: ProtocolVersion,
    decoder: Decoder,
    buffer: BytesMut,
    next_id: u16,
    /// Messages that came while the test waited for another packet.
    early: Vec<Publish>,
}

impl TestClient {
    /// Opens the socket only.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_as(address, ProtocolVersion::V5).await
    }

    async fn open_as(address: SocketAddr, version: ProtocolVersion) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), version)
    }

    /// Over a connection that is there.
    pub(crate) fn over(socket: impl Socket + 'static, version: ProtocolVersion) -> Self {
        let limits = Limits {
            packet_bytes_max: 16 << 20,
            ..Limits::default()
        };
        Self {
            socket: Box::new(socket),
            version,
            decoder: Decoder::client(version, limits),
            buffer: BytesMut::new(),
            next_id: 1,
            early: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: SocketAddr, id: &str) -> Self {
        let mut client = Self::open(address).await;
        let connack = client.say_connect(id, None).await;
        assert_eq!(
            (connack.reason, connack.session_present),
            (ReasonCode::Success, false)
        );
        client
    }

    /// Connects; gives the CONNACK too, which is a success.
    pub(crate) async fn greet(
        address: SocketAddr,
        id: &str,
        greeting: Greeting,
    ) -> (Self, ConnAck) {
        let (client, connack) = Self::try_greet(address, id, greeting).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        (client, connack)
    }

    /// Asks to connect; gives the CONNACK, whatever it says.
    pub(crate) async fn try_greet(
        address: SocketAddr,
        id: &str,
        greeting: Greeting,
    ) -> (Self, ConnAck) {
        let mut client = Self::open_as(address, greeting.version).await;
        let properties = ConnectProperties {
            session_expiry_interval_s: greeting.expiry_s,
            receive_maximum: greeting.receive_maximum,
            ..ConnectProperties::default()
        };
        let connect = Connect {
            version: greeting.version,
            client_id: Text::try_from(id).unwrap(),
            clean_start: greeting.clean_start,
            keep_alive_s: 10,
            username: greeting
                .user
                .as_ref()
                .map(|(name, _)| Text::from_static(name)),
            password: greeting.user.map(|(_, password)| Bytes::from(password)),
            will: greeting.will,
            properties: (greeting.version == ProtocolVersion::V5).then(|| Box::new(properties)),
        };
        client.send(&Packet::Connect(Box::new(connect))).await;
        match client.receive().await {
            Packet::ConnAck(connack) => (client, connack),
            other => panic!("not a CONNACK: {other:?}"),
        }
    }

    /// Begins a session that outlives the connection.
    pub(crate) async fn begin(address: SocketAddr, id: &str) -> Self {
        let (client, connack) = Self::greet(address, id, Greeting::durable()).await;
        assert!(!connack.session_present);
        client
    }

    /// Goes on with it.
    pub(crate) async fn resume(address: SocketAddr, id: &str) -> Self {
        let (client, connack) = Self::greet(address, id, Greeting::durable()).await;
        assert!(connack.session_present);
        client
    }

    pub(crate) async fn connect_with_will(address: SocketAddr, id: &str, topic: &str) -> Self {
        let will = Will {
            topic: TopicName::try_from(topic.to_owned()).unwrap(),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_s: 0,
            properties: None,
        };
        let mut client = Self::open(address).await;
        let connack = client.say_connect(id, Some(Box::new(will))).await;
        assert_eq!(connack.reason, ReasonCode::Success);
        client
    }

    pub(crate) async fn say_connect(&mut self, id: &str, will: Option<Box<Will>>) -> ConnAck {
        let connect = Connect {
            version: self.version,
            client_id: Text::try_from(id).unwrap(),
            clean_start: true,
            keep_alive_s: 30,
            username: None,
            password: None,
            will,
            properties: None,
        };
        self.send(&Packet::Connect(Box::new(connect))).await;
        match self.receive().await {
            Packet::ConnAck(connack) => connack,
            other => panic!("not a CONNACK: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        magpie_codec::encode(self.version, packet, None, &mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The next packet, whatever it is.
    pub(crate) async fn receive(&mut self) -> Packet {
        self.try_receive()
            .await
            .expect("the node closed the connection")
    }

    /// `None`: the node closed the connection.
    pub(crate) async fn try_receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(packet);
            }
            let reading = self.socket.read_buf(&mut self.buffer);
            match tokio::time::timeout(PATIENCE, reading)
                .await
                .expect("nothing came")
            {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet that is no message.
    pub(crate) async fn receive_answer(&mut self) -> Packet {
        loop {
            match self.receive().await {
                Packet::Publish(publish) => self.early.push(publish),
                other => return other,
            }
        }
    }

    fn packet_id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_id).unwrap();
        self.next_id = self.next_id % 60_000 + 1;
        id
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let suback = self.say_subscribe(&[filter], options).await;
        assert_eq!(suback.reasons, [ReasonCode::granted(qos)]);
    }

    pub(crate) async fn say_subscribe(
        &mut self,
        filters: &[&str],
        options: SubscriptionOptions,
    ) -> SubAck {
        self.say_subscribe_as(filters, options, None).await
    }

    /// With a Subscription Identifier.
    pub(crate) async fn say_subscribe_as(
        &mut self,
        filters: &[&str],
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> SubAck {
        let filter = |it: &&str| (TopicFilter::try_from((*it).to_owned()).unwrap(), options);
        let subscribe = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: id,
            user_properties: Vec::new(),
            filters: filters.iter().map(filter).collect(),
        };
        self.send(&Packet::Subscribe(subscribe)).await;
        match self.receive_answer().await {
            Packet::SubAck(suback) => suback,
            other => panic!("not a SUBACK: {other:?}"),
        }
    }

    /// Sends a PUBLISH and waits for nothing.
    pub(crate) async fn send_publish(
        &mut self,
        topic: &str,
        qos: QoS,
        payload: impl Into<Bytes>,
    ) -> Option<PacketId> {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.packet_id());
        let publish = Publish {
            packet_id,
            ..message(topic, qos, payload)
        };
        self.send(&Packet::Publish(publish)).await;
        packet_id
    }

    /// Publishes this under an id of its own, and waits until the node has taken it.
    pub(crate) async fn put(&mut self, publish: Publish) {
        let id = self.packet_id();
        let qos = publish.qos;
        let packet_id = (qos != QoS::AtMostOnce).then_some(id);
        let publish = Publish {
            packet_id,
            ..publish
        };
        self.send(&Packet::Publish(publish)).await;
        self.await_taken(id, qos).await;
    }

    /// Publishes, and waits until the node has taken the message.
    pub(crate) async fn publish(&mut self, topic: &str, qos: QoS, payload: impl Into<Bytes>) {
        if let Some(id) = self.send_publish(topic, qos, payload).await {
            self.await_taken(id, qos).await;
        }
    }

    async fn await_taken(&mut self, id: PacketId, qos: QoS) {
        if qos == QoS::AtMostOnce {
            return;
        }
        match (qos, self.receive_answer().await) {
            (QoS::AtLeastOnce, Packet::PubAck(ack)) => {
                assert_eq!(ack, Ack::new(id, ReasonCode::Success))
            }
            (QoS::ExactlyOnce, Packet::PubRec(ack)) => {
                assert_eq!(ack, Ack::new(id, ReasonCode::Success));
                self.send(&Packet::PubRel(ack)).await;
                assert!(matches!(self.receive_answer().await, Packet::PubComp(_)));
            }
            (_, other) => panic!("not the acknowledgement: {other:?}"),
        }
    }

    /// The next message, to be acknowledged by the test.
    pub(crate) async fn next_unacknowledged(&mut self) -> Publish {
        if self.early.is_empty() {
            self.receive_publish().await
        } else {
            self.early.remove(0)
        }
    }

    /// The payloads of the next messages, which are acknowledged.
    pub(crate) async fn next_payloads(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::new();
        while payloads.len() < count {
            payloads.push(text(&self.next().await));
        }
        payloads
    }

    /// No message comes for a while.
    pub(crate) async fn hears_nothing(&mut self) {
        assert!(self.early.is_empty(), "{:?}", self.early);
        let next = tokio::time::timeout(Duration::from_millis(300), self.try_receive()).await;
        assert!(next.is_err(), "{next:?}");
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> ReasonCode {
        let unsubscribe = Unsubscribe {
            packet_id: self.packet_id(),
            user_properties: Vec::new(),
            filters: vec![TopicFilter::try_from(filter.to_owned()).unwrap()],
        };
        self.send(&Packet::Unsubscribe(unsubscribe)).await;
        match self.receive_answer().await {
            Packet::UnsubAck(unsuback) => unsuback.reasons[0],
            other => panic!("not an UNSUBACK: {other:?}"),
        }
    }

    /// UNSUBSCRIBE and SUBSCRIBE, without waiting for the first answer.
    pub(crate) async fn subscribe_anew(&mut self, filter: &str, qos: QoS) {
        let filter = TopicFilter::try_from(filter.to_owned()).unwrap();
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let unsubscribe = Unsubscribe {
            packet_id: self.packet_id(),
            user_properties: Vec::new(),
            filters: vec![filter.clone()],
        };
        let subscribe = Subscribe {
            packet_id: self.packet_id(),
            subscription_id: None,
            user_properties: Vec::new(),
            filters: vec![(filter, options)],
        };
        self.send(&Packet::Unsubscribe(unsubscribe)).await;
        self.send(&Packet::Subscribe(subscribe)).await;
        let answers = [self.receive_answer().await, self.receive_answer().await];
        assert!(
            matches!(&answers, [Packet::UnsubAck(_), Packet::SubAck(suback)] if suback.reasons == [ReasonCode::granted(qos)]),
            "{answers:?}"
        );
    }

    pub(crate) async fn disconnect(mut self, reason: ReasonCode, expiry_s: Option<u32>) {
        let properties = expiry_s.map(|_| {
            Box::new(DisconnectProperties {
                session_expiry_interval_s: expiry_s,
                ..DisconnectProperties::default()
            })
        });
        let disconnect = Disconnect { reason, properties };
        self.send(&Packet::Disconnect(disconnect)).await;
        assert!(self.try_receive().await.is_none());
    }

    /// The next message, acknowledged.
    pub(crate) async fn next(&mut self) -> Publish {
        let publish = self.next_unacknowledged().await;
        if let Some(id) = publish.packet_id {
            let ack = Ack::new(id, ReasonCode::Success);
            if publish.qos == QoS::AtLeastOnce {
                self.send(&Packet::PubAck(ack)).await;
            } else {
                self.send(&Packet::PubRec(ack)).await;
                self.release().await;
            }
        }
        publish
    }

    async fn receive_publish(&mut self) -> Publish {
        match self.receive().await {
            Packet::Publish(publish) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    async fn release(&mut self) {
        match self.receive_answer().await {
            Packet::PubRel(ack) => self.send(&Packet::PubComp(ack)).await,
            other => panic!("not a PUBREL: {other:?}"),
        }
    }

    /// The reason code of the DISCONNECT that ends the connection.
    pub(crate) async fn closed_with(&mut self) -> ReasonCode {
        let mut reason = ReasonCode::Success;
        while let Some(packet) = self.try_receive().await {
            if let Packet::Disconnect(disconnect) = packet {
                reason = disconnect.reason;
            }
        }
        reason
    }
}

/// A message to be published.
pub(crate) fn message(topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: None,
        topic: Some(TopicName::try_from(topic.to_owned()).unwrap()),
        topic_alias: None,
        subscription_ids: Default::default(),
        properties: None,
        payload: payload.into(),
    }
}

/// A message's payload.
pub(crate) fn text(publish: &Publish) -> String {
    String::from_utf8(publish.payload.to_vec()).unwrap()
}
